"""Which examples a split such as `train[:10%]+test` names, in TensorFlow Datasets' notation."""

import re

_PART = re.compile(r"([\w-]+)(?:\[([^:\]]*):([^:\]]*)\])?")


def select(split, sizes):
    """Find the examples of a split.

    Args:
        split: String: names of splits, each whole or with a slice in examples or per cent, joined
            by `+`.
        sizes: Dictionary from the name of each split to its number of examples.

    Returns:
        A list of (name, `slice`), in the order of the string.

    Raises:
        ValueError: If the string is not of that form, or names a split or an example that is
            not there.
    """
    try:
        return [_select_part(part.strip(), sizes) for part in split.split("+")]
    except (ValueError, KeyError):
        raise error(split, sizes) from None


def error(split, names):
    """Return the `ValueError` of a split that is none of these names or their slices."""
    return ValueError(
        f"`split` must be one of {', '.join(names)} or a slice such as "
        f"{next(iter(names))}[:10%]. Received: split={split}"
    )


def _select_part(part, sizes):
    match = _PART.fullmatch(part)
    if not match:
        raise ValueError
    name, start, stop = match.groups()
    size = sizes[name]
    return name, slice(_boundary(start, size, 0), _boundary(stop, size, size))


def _boundary(text, size, default):
    if not text:
        return default
    percent = text.endswith("%")
    number = float(text[:-1]) if percent else int(text)
    if not abs(number) <= (100 if percent else size):
        raise ValueError
    value = round(number * size / 100) if percent else int(number)
    return value + size if value < 0 else value
