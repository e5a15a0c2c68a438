"""Who reads what in the graph of a model."""

import collections

from keras_multiception.graph import graph_of


class Calls:
    """The calls of all layers of a model, those of its nested models included.

    Args:
        model: A model that has a graph.

    Attributes:
        layers: The layers, in the order of the network, each once.
        of: Mapping from a layer to its calls.
    """

    def __init__(self, model):
        self.layers = {}  # a set that keeps its order
        self.of = collections.defaultdict(list)
        self._readers = collections.defaultdict(list)  # by id of a tensor; None is a model's end
        self._add(model)

    def _add(self, model):
        graph = graph_of(model)
        for node in (node for nodes in graph._nodes_by_depth.values() for node in nodes):
            self.of[node.operation].append(node)
            for x in node.input_tensors:
                self._readers[id(x)].append(node.operation)
        for x in graph.outputs:
            self._readers[id(x)].append(None)
        for layer in model.layers:
            if layer not in self.layers:
                self.layers[layer] = None
                if graph_of(layer) is not None:
                    self._add(layer)

    def readers_of(self, layer):
        """Return the layers that read the output of a layer that is called once."""
        (call,) = self.of[layer]
        return self._readers[id(call.outputs[0])]

    def next(self, layer):
        """Return the only layer that reads the output of another, if both are called once.

        It must be called with that output alone: `training=False`, say, is more than that.
        """
        if len(self.of[layer]) != 1 or len(self.readers_of(layer)) != 1:
            return None
        (reader,) = self.readers_of(layer)
        calls = self.of[reader] if reader is not None else []
        plain = all(x is None for call in calls for x in call.arguments.kwargs.values())
        return reader if len(calls) == 1 and plain else None
