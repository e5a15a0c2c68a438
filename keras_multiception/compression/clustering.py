"""Few distinct weights, which train on as the centers of their clusters."""

import operator

from keras_multiception.compression.toolkit import import_tfmot
from keras_multiception.compression.wrappers import (
    copy_tf_keras,
    kernel_layers,
    plain_tf_keras,
    settle,
    wrap,
)
from keras_multiception.layers.arguments import is_positive_integer


def cluster_model(model, clusters=16, *, preserve_sparsity=False, depthwise=False):
    """Return a network whose kernels have few distinct values, to train on.

    Each kernel has values of its own: those near to each other become one, which training moves.
    Clustered are standard, pointwise and dense kernels; depthwise ones, which lose much, on
    request only. Kernels that have no more weights than `clusters` stay as they are.
    `strip_clustering` takes the wrappers off.

    Args:
        model: A trained `keras.Model`, which `to_tf_keras` rebuilds, or a `tf_keras.Model`, such
            as one of `strip_pruning`; it stays as it is.
        clusters: Integer of at least 2, how many values a kernel may have; at least 3 with
            `preserve_sparsity`.
        preserve_sparsity: Boolean, whether zero is one of the values, and zeros stay zero.
        depthwise: Boolean, whether depthwise kernels are clustered too.

    Returns:
        A `tf_keras.Model`, uncompiled.

    Raises:
        ImportError: If the toolkit is not installed.
        ValueError: If `clusters` is out of its range, or the model has no such kernels.

    Example:
        >>> clustered = cluster_model(km.ResNet20(), 16)
        >>> clustered.compile("adam", "sparse_categorical_crossentropy")
        >>> clustered.fit(images, labels)
        >>> small = strip_clustering(clustered)

    Reference:
        Han, Mao, Dally: Deep Compression: Compressing Deep Neural Networks with Pruning, Trained
        Quantization and Huffman Coding (ICLR 2016).
    """
    least = 3 if preserve_sparsity else 2
    if not is_positive_integer(clusters) or clusters < least:
        raise ValueError(
            "`clusters` must be an integer of at least 2, or 3 with preserve_sparsity=True. "
            f"Received: clusters={clusters!r}"
        )
    clusters = operator.index(clusters)
    new = plain_tf_keras(model)
    found = kernel_layers(new, depthwise)
    sizes = {
        layer: [(name, getattr(layer, name).shape.num_elements()) for name in names]
        for layer, names in found.items()
    }
    largest = max(size for kernels in sizes.values() for _, size in kernels)
    if clusters >= largest:
        raise ValueError(
            f"`clusters` must be less than the weights of the largest kernel, {largest}. "
            f"Received: clusters={clusters}"
        )
    clustering = import_tfmot().clustering.keras

    def wrapper_of(layer):
        names = [name for name, size in sizes.get(layer, ()) if size > clusters]
        if not names:
            return layer
        wrapper = clustering.cluster_weights(
            layer,
            clusters,
            preserve_sparsity=preserve_sparsity,
            # the toolkit's default, the sum, lets large kernels learn thousands of times too fast
            cluster_gradient_aggregation=mean_gradient(),
        )
        layer.get_clusterable_weights = lambda: [(name, getattr(layer, name)) for name in names]
        return wrapper

    return wrap(new, wrapper_of)


def mean_gradient():
    """Return the toolkit's name for it: a value moves by the mean gradient of its weights."""
    from tensorflow_model_optimization.python.core.clustering.keras import cluster_config

    return cluster_config.GradientAggregation.AVG


def strip_clustering(model):
    """Return the plain network behind a clustered one.

    Args:
        model: A `tf_keras.Model` by `cluster_model`; it stays as it is.

    Returns:
        A `tf_keras.Model` without wrappers, uncompiled.

    Raises:
        ValueError: If the model has no clustering wrappers.
    """
    import tf_keras

    if not isinstance(model, tf_keras.Model) or "clustered" not in settle(model):
        raise ValueError(f"`model` must come from `cluster_model`. Received: model={model!r}")
    return copy_tf_keras(import_tfmot().clustering.keras.strip_clustering(model))
