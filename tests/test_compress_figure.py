"""The figure of compression can be read: its names are on it, apart from each other."""

import itertools

import pytest

from training.compression.figure import draw


def network(conv, sizes):
    artifacts = [
        {"recipe": recipe, "accuracy": accuracy, "sd": 0.2, "sizes": {"deflated": size}}
        for recipe, (size, accuracy) in sizes.items()
    ]
    recipe = {"dataset": "cifar10", "model": "resnet20", "conv": conv, "kernel_sizes": None}
    return {"recipe": recipe, "artifacts": artifacts}


@pytest.mark.parametrize("shift", [1, 1.01, 1.1])
def test_names_do_not_cover_each_other(shift):
    sizes = {"float": (700_000, 85.0), "qat": (200_000, 84.9), "prune80": (240_000, 76.0)}
    networks = [
        network(conv, {k: (size * shift**i, a) for k, (size, a) in sizes.items()})
        for i, conv in enumerate(("multiception", "standard", "dsconv"))
    ]
    figure = draw({"networks": networks})
    figure.draw_without_rendering()
    (ax,) = figure.axes
    names = ["float", "prune80 76.0 %", "qat"]
    assert sorted(text.get_text() for text in ax.texts) == sorted(3 * names)
    boxes = [text.get_window_extent() for text in ax.texts]
    for a, b in itertools.combinations(boxes, 2):
        assert not a.shrunk(0.9, 0.9).overlaps(b.shrunk(0.9, 0.9))
    assert all(ax.bbox.overlaps(box) for box in boxes)
