"""A network again, with other layers in some places."""

import functools

import keras
from keras import layers, tree

from keras_multiception.copying import copy_state, rebuild_layer
from keras_multiception.cost import cost
from keras_multiception.graph import graph_of


def rebuild(model, successors):
    """Return a copy of a model with other layers in the place of some.

    All others keep their names, weights, `trainable` and dtype policy, and which calls share a
    layer.

    Args:
        model: A Functional `keras.Model` or a built `keras.Sequential`; it stays as it is.
        successors: Dictionary from a layer of the model, or of a model in it, to the list of
            layers, one after the other, that take its place; they take its `trainable` over. An
            empty list leaves it out.

    Returns:
        A new, uncompiled model.

    Raises:
        ValueError: If a layer cannot be rebuilt from its config.
    """
    return _Rebuilding(successors).run(model)


def report_costs(old, new):
    """Print what a model costs and what its new form does.

    Args:
        old: A `keras.Model`.
        new: Another.
    """
    for (label, before), after in zip(_costs(old).items(), _costs(new).values(), strict=True):
        change = f"  ({after / before - 1:+.1%})" if before else ""
        print(f"  {label:<13} {before:>15,} -> {after:>15,}{change}")


def _costs(model):
    try:
        total = cost(model)
    except ValueError:  # the size of the input is open, and so are the multiply-adds
        return {"parameters": model.count_params()}
    return {"parameters": total.parameters, "multiply-adds": total.multiply_adds}


class _Rebuilding:
    def __init__(self, successors):
        self.successors = dict(successors)  # with those that are copies
        self.replaced = set(successors)

    def run(self, model):
        """Return the new model, with all that is kept of the old one."""
        self.successors[model] = [self.rebuild(model)]
        # a model comes behind its layers, and what it makes of `trainable` they may undo
        for old, successors in reversed(self.successors.items()):
            for new in successors if isinstance(old, layers.Layer) else ():
                new.trainable = old.trainable
                if old not in self.replaced and graph_of(old) is None:
                    copy_state(old, new)
        return self.successors[model][0]

    def rebuild(self, model):
        """Return a copy of a model; its layers have new weights."""
        graph = graph_of(model)
        if isinstance(model, keras.Sequential):
            old = [graph.inputs[0]._keras_history.operation, *model.layers]
            return keras.Sequential([new for x in old for new in self.follow(x)], name=model.name)
        inputs = tree.map_structure(
            lambda x: self.follow(x._keras_history.operation)[0].output, model.input
        )
        outputs = graph._run_through_graph(inputs, call_fn=self.call)
        return keras.Model(inputs, outputs, name=model.name)

    def follow(self, operation):
        """Return what takes the place of a layer, a model or an operation."""
        if operation not in self.successors:
            build = rebuild_layer if graph_of(operation) is None else self.rebuild
            self.successors[operation] = [build(operation)]
        return self.successors[operation]

    def call(self, operation, *args, **kwargs):
        """Call what takes the place of a layer, a model or an operation."""
        successors = self.follow(operation)
        if not successors:
            return tree.flatten((args, kwargs))[0]
        first, *others = successors
        return functools.reduce(lambda x, layer: layer(x), others, first(*args, **kwargs))
