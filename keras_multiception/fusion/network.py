"""A network as a list of steps that can be rewritten."""

import dataclasses

from keras import KerasTensor, tree


@dataclasses.dataclass(eq=False)
class Step:
    """A call of an operation.

    Attributes:
        operation: A `Convolution`, a `Scale`, or a layer, model or operation of Keras. Calls of
            one layer share one operation.
        args: Its arguments; tensors are `KerasTensor`.
        kwargs: Its keyword arguments.
        results: What it returns, a `KerasTensor` or a structure of them.
    """

    operation: object
    args: tuple
    kwargs: dict
    results: object

    @property
    def inputs(self):
        """The tensors that it reads, as a list."""
        return [x for x in tree.flatten((self.args, self.kwargs)) if isinstance(x, KerasTensor)]


class Network:
    """Steps in an order in which they can run.

    Args:
        inputs: List of `KerasTensor`.
        steps: List of `Step`.
        outputs: Structure of `KerasTensor`.
    """

    def __init__(self, inputs, steps, outputs):
        self.inputs = inputs
        self.steps = steps
        self.outputs = outputs

    def calls(self, operation):
        """Return the steps that call an operation."""
        return [step for step in self.steps if step.operation is operation]

    def writer(self, x):
        """Return the step that makes a tensor; `None` for an input of the network."""
        for step in self.steps:
            if any(y is x for y in tree.flatten(step.results)):
                return step
        return None

    def readers(self, x):
        """Return the steps that read a tensor, once for each time; `None` is the network's end."""
        found = [step for step in self.steps for y in step.inputs if y is x]
        return found + [None for y in tree.flatten(self.outputs) if y is x]

    def only_reader(self, x):
        """Return the step that alone reads a tensor; `None` if there is no such step."""
        readers = self.readers(x)
        return readers[0] if len(readers) == 1 else None

    def remove(self, step):
        """Take out a step of one input and one output: its readers read its input instead."""
        (x,) = step.inputs
        self.steps.remove(step)
        self._rename({id(step.results): x})

    def operations(self, kind):
        """Return the operations of a class, each once."""
        found = {id(s.operation): s.operation for s in self.steps if isinstance(s.operation, kind)}
        return list(found.values())

    def _rename(self, names):
        def new(x):
            return names.get(id(x), x)

        for step in self.steps:
            step.args, step.kwargs = tree.map_structure(new, (step.args, step.kwargs))
        self.outputs = tree.map_structure(new, self.outputs)
