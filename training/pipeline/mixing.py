"""Mixup and cutmix with the layers of Keras, given draws of our own.

The layers draw from a generator of their own state, which parallel calls would race for and a
resumed run would not find again; so they are handed the transformation instead.
"""

import keras


class Mixing:
    """Mixes the images of a batch, and their labels with them.

    Args:
        augmentation: A `training.pipeline.augmentation.Augmentation`.
        backend: Name of the backend whose tensors are mixed.
    """

    def __init__(self, augmentation, backend):
        self._mixup = self._cutmix = None
        if augmentation.mixup:
            self._mixup = keras.layers.MixUp(dtype="float32")
            self._mixup.backend.set_backend(backend)
        if augmentation.cutmix:
            self._cutmix = keras.layers.CutMix(dtype="float32")
            self._cutmix.backend.set_backend(backend)

    def __bool__(self):
        return bool(self._mixup or self._cutmix)

    def __call__(self, images, labels, draws):
        """Mix a batch.

        Args:
            images: Tensor of shape (batch, height, width, channels), float32.
            labels: Tensor of shape (batch, classes), float32.
            draws: `training.pipeline.augmentation.Draws`, of arrays or tensors.

        Returns:
            The mixed images and labels.
        """
        for layer, weights in (
            (self._mixup, draws.mixup_weights),
            (self._cutmix, draws.cutmix_weights),
        ):
            if layer:
                transformation = {
                    "permutation_order": draws.partners,
                    "mix_weight": weights,
                    "batch_masks": draws.cutmix_masks,
                }
                images = layer.transform_images(images, transformation)
                labels = layer.transform_labels(labels, transformation)
        return images, labels
