"""A Keras model as a network of steps, in inference: layers opened up, batch norms as numbers."""

import dataclasses

import numpy as np
from keras import KerasTensor, layers

from keras_multiception.fusion.layer_rules import operations_of
from keras_multiception.fusion.network import Network, Step
from keras_multiception.fusion.operations import Scale
from keras_multiception.graphs.copying import unique_name
from keras_multiception.graphs.reading import Calls, graph_of, inline_call, walk
from keras_multiception.layers.shake_shake import ShakeShake


def read_network(model, shapes, report):
    """Read a model into a network of steps.

    Nested models are opened, but for those that are called more than once.

    Args:
        model: A model that has a graph.
        shapes: List of the shapes of its inputs, the batch included.
        report: The `FusionReport`, to which is added what is folded in reading.

    Returns:
        A `Network`, and a dictionary from the id of each operation of Keras in it to its name.
    """
    graph = graph_of(model)
    inputs = [KerasTensor(shape, x.dtype) for shape, x in zip(shapes, graph.inputs, strict=True)]
    reader = _Reader(Calls(model), report, [x._keras_history.operation for x in graph.inputs])
    outputs = walk(graph, inputs, reader.run, opens=lambda x: len(reader.calls.of[x]) == 1)
    reader.name_parts()
    return Network(inputs, reader.steps, outputs), reader.names


class _Reader:
    """Runs operations on shapes, and notes the steps."""

    def __init__(self, calls, report, inputs):
        self.calls = calls
        self.report = report
        self.steps = []
        self.chains = {}  # from the id of a layer to the operations that it becomes
        self.names = {id(operation): operation.name for operation in inputs}
        self.parts = []  # operations named after the layer that they are a part of

    def run(self, path, operation, *args, **kwargs):
        """Return the output of an operation."""
        _, x = inline_call(operation, args, kwargs)
        results = operation.compute_output_spec(*args, **kwargs)
        chain = self.chain(path, operation, x, kwargs)
        if chain is None:
            self.steps.append(Step(operation, args, kwargs, results))
            return results
        if not chain:
            return x
        for part in chain[:-1]:
            middle = KerasTensor(results.shape, results.dtype)
            self.steps.append(Step(part, (x,), {}, middle))
            x = middle
        self.steps.append(Step(chain[-1], (x,), {}, results))
        return results

    def chain(self, path, operation, x, kwargs):
        """Return the operations that stand for a layer, or `None` if it stays."""
        training = kwargs.get("training")
        key = id(operation), bool(training)
        if key not in self.chains:
            name = self._name(path, operation)
            if training or not isinstance(operation, layers.Layer):
                chain = None
                if training and isinstance(operation, layers.BatchNormalization):
                    self.report.left[name] = "it is called with training=True"
            elif isinstance(operation, ShakeShake):
                chain = self._mean(operation, name, x[0].shape[-1])
            else:
                chain = operations_of(operation, name, x, self.report)
            self.chains[key] = chain
            self.parts += [part for part in chain or () if part.name != name]
        return self.chains[key]

    def _mean(self, shake, name, channels):
        """Return the operations of Shake-Shake in inference: a sum, and half of it."""
        self.report.removed.append(name)
        add = layers.Add(name=name, dtype=shake.dtype_policy)
        self.names[id(add)] = name
        half = np.full(channels, 0.5)
        return [add, Scale(f"{name}_half", half, np.zeros(channels), shake.dtype_policy)]

    def _name(self, path, operation):
        """Return the operation's name; where nested models repeat it, with theirs in front."""
        taken = set(self.names.values())
        name = operation.name
        if name in taken:
            name = unique_name("_".join((*path, name)), taken)
        return self.names.setdefault(id(operation), name)

    def name_parts(self):
        """Give parts of layers other names where layers have theirs."""
        taken = set(self.names.values())
        for part in self.parts:
            new = dataclasses.replace(part, name=unique_name(part.name, taken))
            for step in self.steps:
                if step.operation is part:
                    step.operation = new
