"""What a server says of an image, told apart from what else it may answer."""

from __future__ import annotations

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


def read_predictions(rows: object, count: int) -> list[Prediction]:
    """Reads the server's answer in row format.

    Args:
        rows: The outputs of each image, by name; anything else if the server answered so.
        count: How many images it was asked about.

    Returns:
        A prediction for each image, in order.

    Raises:
        ServerError: If the answer is not that of a classifier, or not for as many images.
    """
    try:
        found = [
            Prediction(
                label=str(row["label"]),
                class_id=int(row["class_id"]),
                probability=float(max(row["probabilities"])),
                probabilities=tuple(row["probabilities"]),
            )
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
