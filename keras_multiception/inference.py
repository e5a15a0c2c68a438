"""`km.inference_function`: a network as a compiled function, for a few images at a time."""

import keras
from keras import ops, tree

from keras_multiception.graphs.reading import graph_of


def inference_function(model):
    """Return a compiled function that does what `model.predict` does, without its overhead.

    `predict` makes a data pipeline, and callbacks, for every call; `predict_on_batch` still
    looks for labels and weights and copies the answer. This is for one image, or one batch, at a
    time. What comes in becomes a tensor of the type that the model takes, and goes through the
    model compiled by the active backend: TensorFlow's graph, JAX's jit; PyTorch runs it without
    gradients, and not compiled.

    The function is compiled when it is first called, and again for other shapes. It uses the
    weights that the model has when it is called. What gives layers other weights, `enable_lora`
    or `quantize`, it may not see: ask for a new function then. Networks from `km.fuse` are the
    fastest.

    Args:
        model: A built `keras.Model`.

    Returns:
        A function from a batch of inputs (NumPy arrays or tensors, in the structure that the
        model takes, or by the names of its inputs) to the model's outputs, tensors of the backend.

    Raises:
        ValueError: If `model` is not a built `keras.Model`.

    Example:
        >>> classify = km.inference_function(km.fuse(model))
        >>> probabilities = np.asarray(classify(image[np.newaxis]))
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"`model` must be a built `keras.Model`. Received: model={model!r}")
    graph = graph_of(model)
    own = {} if graph is None else {x.name: x.dtype for x in graph.inputs}
    goes_by_names = graph is not None and not isinstance(graph.input, dict)
    run = _COMPILERS[keras.backend.backend()](model)

    def call(inputs):
        leaves = tree.flatten(inputs)
        types = [*own.values()] if len(own) == len(leaves) else [None] * len(leaves)
        if isinstance(inputs, dict) and goes_by_names:
            types = tree.flatten({name: own.get(name) for name in inputs})
        tensors = [ops.convert_to_tensor(x, dtype) for x, dtype in zip(leaves, types, strict=True)]
        return run(tree.pack_sequence_as(inputs, tensors))

    return call


def _compile_tensorflow(model):
    import tensorflow as tf

    @tf.function(autograph=False, reduce_retracing=True)
    def run(inputs):
        return model(inputs, training=False)

    return run


def _compile_jax(model):
    import jax

    @jax.jit
    def compiled(trainable, non_trainable, inputs):
        return model.stateless_call(trainable, non_trainable, inputs, training=False)[0]

    def run(inputs):
        weights = (model.trainable_variables, model.non_trainable_variables)
        return compiled(*([v.value for v in variables] for variables in weights), inputs)

    return run


def _without_gradients(model):
    import torch

    @torch.no_grad()
    def run(inputs):
        return model(inputs, training=False)

    return run


_COMPILERS = {
    "tensorflow": _compile_tensorflow,
    "jax": _compile_jax,
    "torch": _without_gradients,
}
