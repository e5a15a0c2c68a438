"""What a network costs, counted from its graph: `km.cost`."""

import functools
import math
import operator

import keras
import numpy as np
from keras import layers, tree

from keras_multiception.cost_rules import multiply_adds, receptive_field
from keras_multiception.cost_table import Cost, LayerCost, ReceptiveField
from keras_multiception.graph import graph_of, open_call
from keras_multiception.layers.mix_conv2d import MixConv2D
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D


def cost(model, input_shape=None):
    """Count parameters, multiply-adds, memory and receptive field of a network, layer by layer.

    The counts are those of one inference of one image (a batch of 1). Nothing is run: the graph
    is walked with shapes alone, nested models and our own layers opened up into their parts.

    - *Parameters*: every weight once, at the first layer that uses it; so a layer that is called
      again counts none.
    - *Multiply-adds*: those of convolutions and dense layers: every entry of a kernel once for
      each position of the output (of the input, where the convolution is transposed), positions
      that look at padding included. The kernel is the one that is computed with, however a
      quantized layer stores it and whatever LoRA adds to it. A multiply-add is two of the FLOPs
      that others count. Biases, batch norms, activations, pooling, additions and whatever else
      has no kernel count as none.
    - *Unknown layers*: a layer of any other class that owns a weight of two or more axes, such as
      a custom or a recurrent one, and a product of two tensors, such as attention or a matrix
      product: their multiply-adds are `None` and in no sum, and their names are listed.
    - *Traffic*: each layer reads its inputs and writes its outputs once, in its compute dtype.
    - *Peak memory*: each layer writes its output into new memory, in the layer's compute dtype;
      that is freed after the last layer that reads it. Layers run in Keras' order. Weights, and
      what a layer needs for itself while it computes, are not counted; nor are strings, here and
      in the traffic.
    - *Receptive field*: how far a position of the output sees along each axis of the image, from
      the kernels, strides and dilations on the way; where branches meet, the largest of them.
      Whatever pools or flattens a whole feature map sees the whole image.

    Args:
        model: A Functional `keras.Model`, or a built `keras.Sequential`.
        input_shape: Sequence (height, width, channels), the shape of an image, or a list of
            shapes for several inputs. The default is the model's own, which must then be static.

    Returns:
        A `Cost`: `parameters`, `trainable_parameters`, `non_trainable_parameters`,
        `multiply_adds`, `peak_memory` in bytes, `receptive_field` and `unknown_layers`; the same
        in `layers` and `stages`; and `to_table()`, `to_markdown()`, `to_csv()`.

    Raises:
        ValueError: If the model has no graph, or the size of its input is open or another one.

    Example:
        >>> cost = km.cost(km.ResNet20(conv="multiception"))
        >>> cost.trainable_parameters, cost.multiply_adds
        (189434, 32408192)
        >>> print(cost)

    Reference:
        `km.equations` has the paper's equations for single convolutions.
    """
    graph = graph_of(model)
    if graph is None:
        raise ValueError(
            "`model` must be a Functional model or a built Sequential one. "
            f"Received: model={model!r}"
        )
    shapes = _input_shapes(graph, input_shape)
    inputs = [
        keras.KerasTensor((1, *shape), x.dtype)
        for shape, x in zip(shapes, graph.inputs, strict=True)
    ]
    walk = _Walk(inputs, _data_format(model))
    outputs = graph._run_through_graph(inputs, call_fn=functools.partial(walk.run, ""))
    layer_costs = walk.layer_costs(tree.flatten(outputs))
    return Cost(model.name, _one_or_all(shapes), layer_costs)


def _input_shapes(graph, input_shape):
    own = [tuple(x.shape[1:]) for x in graph.inputs]
    try:
        given = own if input_shape is None else list(input_shape)
        several = given and all(hasattr(entry, "__iter__") for entry in given)
        shapes = [tuple(map(operator.index, shape)) for shape in (given if several else [given])]
    except TypeError:  # not a sequence, or a size that is none
        shapes = []
    if len(shapes) != len(own) or not all(map(_fits, shapes, own)):
        raise ValueError(
            "`input_shape` must give the size of every axis but the batch, and fit the model's "
            f"own, {', '.join(map(str, own))}. Received: input_shape={input_shape!r}"
        )
    return shapes


def _data_format(model):
    """Return where the channels of the images are, by the first layer that says so."""
    for operation in _operations(model):
        if type(operation).__name__ in ("Moveaxis", "Permute", "Transpose"):
            break
        if getattr(operation, "data_format", None) is not None:
            return operation.data_format
    return keras.config.image_data_format()


def _operations(operation):
    graph = graph_of(operation)
    if graph is None:
        yield operation
    else:
        for part in graph.operations:
            yield from _operations(part)


def _fits(shape, own):
    return len(shape) == len(own) and all(
        size > 0 and expected in (None, size) for size, expected in zip(shape, own, strict=True)
    )


class _Walk:
    """Runs operations on shapes, and notes what each of them costs."""

    def __init__(self, inputs, data_format):
        self.inputs = inputs
        axes = slice(2, None) if data_format == "channels_first" else slice(1, -1)
        self.image = max((x.shape[axes] for x in inputs), key=len)
        pixel = (1,) * len(self.image)
        self.fields = {  # an input without pixels has one position for the whole image
            id(x): ReceptiveField(pixel, pixel if len(x.shape) > 2 else self.image) for x in inputs
        }
        self.steps = []  # (name, operation, input tensors, output tensors)

    def run(self, prefix, operation, *args, **kwargs):
        """Return the output of an operation; models and our own layers are run part by part."""
        name = prefix + operation.name
        run = functools.partial(self.run, f"{name}/")
        graph, x = open_call(operation, args, kwargs)
        if graph := graph or graph_of(operation):  # a change of dtype in between costs nothing
            return graph._run_through_graph(tree.flatten(x), call_fn=run)
        if isinstance(operation, MulticeptionConv2D):
            return _run_multiception(run, operation, x)
        if isinstance(operation, MixConv2D):
            return _run_mix_conv(run, operation, x)
        result = operation.compute_output_spec(*args, **kwargs)
        inputs = [x for x in tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
        outputs = tree.flatten(result)
        fields = [self.fields[id(x)] for x in inputs]
        field = receptive_field(operation, inputs, outputs, fields, self.image)
        for x in outputs:
            self.fields.setdefault(id(x), field)
        self.steps.append((name, operation, inputs, outputs))
        return result

    def layer_costs(self, results):
        """Return a `LayerCost` for each step of a model that ends in the tensors `results`."""
        counted: set[int] = set()

        def count(weights):
            new = {id(w): w for w in weights if id(w) not in counted}
            counted.update(new)
            return sum(math.prod(w.shape) for w in new.values())

        return tuple(
            LayerCost(
                name,
                type(operation).__name__,
                _one_or_all([tuple(x.shape[1:]) for x in outputs]),
                count(getattr(operation, "trainable_weights", ())),
                count(getattr(operation, "non_trainable_weights", ())),
                multiply_adds(operation, inputs, outputs),
                sum(map(_bytes, (*inputs, *outputs))),
                memory,
                self.fields[id(outputs[0])],
            )
            for (name, operation, inputs, outputs), memory in zip(
                self.steps, self._memory(results), strict=True
            )
        )

    def _memory(self, results):
        """Yield the bytes that are alive during each step."""
        last_use = {
            id(x): step
            for step, (_, _, inputs, outputs) in enumerate(self.steps)
            for x in (*inputs, *outputs)
        }
        last_use.update((id(x), len(self.steps)) for x in results)
        alive = {id(x): _bytes(x) for x in self.inputs}
        for step, (_, _, _, outputs) in enumerate(self.steps):
            alive.update((id(x), _bytes(x)) for x in outputs)
            yield sum(alive.values())
            alive = {key: size for key, size in alive.items() if last_use.get(key, -1) > step}


class Split(keras.Operation):
    """Cuts channels into groups, as `MixConv2D` does with its input."""

    def __init__(self, sizes):
        super().__init__(name="split")
        self.sizes = sizes

    def compute_output_spec(self, x):
        """Return a tensor for each group."""
        return [keras.KerasTensor((*x.shape[:-1], size), x.dtype) for size in self.sizes]


def _run_multiception(run, layer, x):
    x = _concatenate(run, [run(conv, x) for conv in layer.depthwise_convs])
    for part in (layer.depthwise_bn, layer.pointwise_conv, layer.pointwise_bn):
        x = run(part, x)
    return x


def _run_mix_conv(run, layer, x):
    groups = run(Split(layer.group_channels), x)
    if max(layer.strides) > 1:
        groups = [
            run(_padding(size, x.dtype, f"pad_{index}"), group)
            for index, (size, group) in enumerate(zip(layer.kernel_sizes, groups, strict=True))
        ]
    return _concatenate(
        run, [run(conv, group) for conv, group in zip(layer.convs, groups, strict=True)]
    )


def _padding(kernel_size, dtype, name):
    padding = tuple(size // 2 for size in kernel_size)
    return layers.ZeroPadding2D(padding, data_format="channels_last", dtype=dtype, name=name)


def _concatenate(run, branches):
    if len(branches) == 1:
        return branches[0]
    return run(layers.Concatenate(dtype=branches[0].dtype, name="concatenate"), branches)


def _one_or_all(entries):
    return entries[0] if len(entries) == 1 else tuple(entries)


def _bytes(x):
    if x.dtype == "string":
        return 0
    return math.prod(x.shape) * np.dtype(x.dtype).itemsize
