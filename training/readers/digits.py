"""scikit-learn's handwritten digits as a small data set that every machine has."""

import numpy as np

from training.readers import splits


def load(split):
    """Return the 8x8 digits, each pixel a gray block of 4x4, so 32x32 in three channels.

    360 of the 1,797 images, drawn once and for all with every class in proportion, are the test
    split. Pixel values 0 to 16 become 0 to 255.

    Args:
        split: String in the notation of TensorFlow Datasets.

    Returns:
        Images, uint8 of shape (examples, 32, 32, 3), and labels, int64.
    """
    import sklearn.datasets  # takes a second, and other data sets do without it
    import sklearn.model_selection

    digits = sklearn.datasets.load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype("uint8")
    images = np.kron(pixels[..., None], np.ones((4, 4, 3), "uint8"))
    train, test = sklearn.model_selection.train_test_split(
        np.arange(len(images)), test_size=360, stratify=digits.target, random_state=0
    )
    rows = {"train": train, "test": test}
    parts = splits.select(split, {name: len(values) for name, values in rows.items()})
    chosen = np.concatenate([rows[name][part] for name, part in parts])
    return images[chosen], digits.target[chosen]
