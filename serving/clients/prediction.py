"""What a server says of an image, told apart from what else it may answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.clients.server_error import ServerError


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Args:
        label: The name of the likeliest class.
        class_id: Its number.
        probability: Its probability.
        probabilities: Those of all classes.
    """

    label: str
    class_id: int
    probability: float
    probabilities: tuple[float, ...]


def read_predictions(rows: object, count: int, labels: Sequence[str] = ()) -> list[Prediction]:
    """Reads the server's answer in row format.

    Args:
        rows: The outputs of each image, by name; anything else if the server answered so.
        count: How many images it was asked about.
        labels: Names of the classes for a model that gives `probabilities` alone, as a LiteRT one
            does. Others are called by their numbers.

    Returns:
        A prediction for each image, in order.

    Raises:
        ServerError: If the answer is not that of a classifier, or not for as many images.
    """
    try:
        found = [
            _prediction(_with_class(row, labels))
            for row in rows  # type: ignore[attr-defined]
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise ServerError(
            "The server answered without `label`, `class_id` and `probabilities` for each image; "
            "does this signature classify images?",
            200,
        ) from error
    if len(found) != count:
        raise ServerError(f"The server answered for {len(found)} images instead of {count}.", 200)
    return found


def _prediction(row) -> Prediction:
    return Prediction(
        label=str(row["label"]),
        class_id=int(row["class_id"]),
        probability=float(max(row["probabilities"])),
        probabilities=tuple(row["probabilities"]),
    )


def _with_class(row, labels: Sequence[str]) -> dict:
    """REST leaves the name of an only output out."""
    outputs = row if isinstance(row, dict) else {"probabilities": row}
    if outputs.keys() != {"probabilities"}:
        return outputs
    shares = outputs["probabilities"]
    class_id = max(range(len(shares)), key=shares.__getitem__)
    label = labels[class_id] if class_id < len(labels) else str(class_id)
    return {"probabilities": shares, "class_id": class_id, "label": label}
