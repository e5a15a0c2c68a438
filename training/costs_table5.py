"""The parameter columns of the paper's Table V, beside our counts."""

import dataclasses
import functools

import keras_multiception as km
from keras_multiception.cost_table import aligned


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of Table V: parameters with standard and with Multiception convolution.

    Attributes:
        dataset: The data set.
        model: A name of `keras_multiception.list_models()`.
        classes: Number of classes of the data set.
        printed: What the paper prints.
        released: What the code released by its authors counts.
        printed_change: The change from one to the other that the paper prints, in percent.
    """

    dataset: str
    model: str
    classes: int
    printed: tuple[str, str]
    released: tuple[int, int]
    printed_change: float


# Printed: Bao, Graeber, Wang: Depthwise Multiception Convolution (ICARCV 2020), Table V.
# Released: measured on the code that Section VI of the paper points to.
_RESNET50 = ("0.7586M", "0.5094M"), (758554, 509434), -32.85
TABLE5 = (
    Row("cifar10", "resnet20", 10, ("0.2724M", "0.1899M"), (272474, 189434), -30.30),
    Row("cifar10", "resnet50", 10, *_RESNET50),
    Row("cifar10", "seresnet56", 10, ("0.8679M", "0.5886M"), (867866, 585530), -32.18),
    Row("cifar10", "shakeshake26", 10, ("26.78M", "17.57M"), (26777546, 17565354), -34.39),
    Row("cifar100", "resnet50", 100, ("0.7644M", "0.5153M"), (764404, 515284), -32.59),
    Row("cifar100", "shakeshake26", 100, ("26.81M", "17.59M"), (26812196, 17600004), -34.39),
    Row("stl10", "resnet50", 10, *_RESNET50),
    Row("imagenet32x32", "resnet50", 1000, ("0.8229M", "0.5738M"), (822904, 573784), -30.27),
)
_TYPES = ("standard", "multiception")
_SHAKE_SHAKE_NOTE = (
    f"- shakeshake26: {sum(3 * (w * w + 2 * w) for w in (96, 192, 384)):,} of every count are "
    "parameters of shortcuts that blocks of unchanged shape hold and never use; km.ShakeShake26 "
    "has them with unused_shortcuts=True, as here, and leaves them out by default."
)


def table5():
    """Set our parameters beside those that the paper's Table V prints.

    Returns:
        A string: a table, and a sentence for each figure that differs.
    """
    rows = [
        (
            "data set",
            "model",
            *(f"{conv}: {source}" for conv in _TYPES for source in ("paper", "released", "ours")),
            "change: paper",
            "ours",
        )
    ]
    notes: dict[str, list[str]] = {}
    for row in TABLE5:
        ours = [_trainable_parameters(row.model, row.classes, conv) for conv in _TYPES]
        cells = []
        for conv, *figures in zip(_TYPES, row.printed, row.released, ours, strict=True):
            printed, *counts = figures
            cells += [printed, *(f"{count:,}" for count in counts)]
            for note in _differences(*figures):
                notes.setdefault(note, []).append(f"{row.model} on {row.dataset}, {conv}")
        change = f"{row.printed_change:.2f}%", f"{100 * (ours[1] / ours[0] - 1):.2f}%"
        rows.append((row.dataset, row.model, *cells, *change))
    sentences = [f"- {'; '.join(networks)}: {note}" for note, networks in notes.items()]
    sentences.append(_SHAKE_SHAKE_NOTE)
    return "\n\n".join((aligned(rows, left=2), "\n".join(sentences)))


@functools.cache
def _trainable_parameters(model, classes, conv):
    whole = {"unused_shortcuts": True} if model == "shakeshake26" else {}
    network = km.create_model(model, classes=classes, conv=conv, **whole)
    return km.cost(network).trainable_parameters


def _differences(printed, released, ours):
    """Yield a sentence for each way in which the counts of one network differ."""
    millions = float(printed.removesuffix("M"))
    digits = len(printed.removesuffix("M").partition(".")[2])
    # the paper rounds some figures and cuts others off
    if abs(millions - released / 1e6) >= 10**-digits:
        yield (
            f"the paper prints {printed}, where the code its authors released counts "
            f"{released:,} ({released / 1e6:.{digits}f}M); it does not say how."
        )
    if ours != released:
        yield f"the released code counts {released:,}, and we count {ours:,}."
