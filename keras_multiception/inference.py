"""`km.inference_function`: a network as a compiled function, for a few images at a time."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops, tree

from keras_multiception.graphs.reading import graph_of, sort_inputs


def inference_function(model: keras.Model) -> Callable[[Any], Any]:
    """Return a compiled function that does what `model.predict` does, without its overhead.

    `predict` makes a data pipeline for every call; this is for one batch at a time. The function is
    compiled by the backend (TensorFlow's graph, JAX's jit; PyTorch runs it as it is, without
    gradients) when it is first called, and again for other shapes. It uses the weights that the
    model has when it is called; after `enable_lora` or `quantize`, which give layers other
    weights, ask for a new function. Networks from `km.fuse` are the fastest.

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
    own = [] if graph is None else [x.dtype for x in graph.inputs]
    run = _COMPILERS[keras.backend.backend()](model)

    def call(inputs: Any) -> Any:
        inputs = inputs if graph is None else sort_inputs(graph, inputs)
        leaves = tree.flatten(inputs)
        dtypes = own if len(own) == len(leaves) else [None] * len(leaves)
        tensors = [ops.convert_to_tensor(x, dtype) for x, dtype in zip(leaves, dtypes, strict=True)]
        return run(tree.pack_sequence_as(inputs, tensors))

    return call


def _compile_tensorflow(model: keras.Model) -> Callable[[Any], Any]:
    import tensorflow as tf

    @tf.function(autograph=False, reduce_retracing=True)
    def run(inputs: Any) -> Any:
        return model(inputs, training=False)

    return run


def _compile_jax(model: keras.Model) -> Callable[[Any], Any]:
    import jax

    @jax.jit
    def compiled(trainable: list, non_trainable: list, inputs: Any) -> Any:
        return model.stateless_call(trainable, non_trainable, inputs, training=False)[0]

    def run(inputs: Any) -> Any:
        weights = (model.trainable_variables, model.non_trainable_variables)
        return compiled(*([v.value for v in variables] for variables in weights), inputs)

    return run


def _without_gradients(model: keras.Model) -> Callable[[Any], Any]:
    import torch

    @torch.no_grad()
    def run(inputs: Any) -> Any:
        return model(inputs, training=False)

    return run


_COMPILERS = {
    "tensorflow": _compile_tensorflow,
    "jax": _compile_jax,
    "torch": _without_gradients,
}
