"""Which examples a split such as `train[:10%]+test` names, in TensorFlow Datasets' notation."""

import collections
import itertools
import re

_MANY: dict = collections.defaultdict(lambda: 10**9)
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


def overlap(first, second):
    """Return whether two splits have examples in common, as far as it follows from the strings.

    Args:
        first: String, as in `select`.
        second: String, as in `select`.

    Returns:
        Boolean; false where it depends on how many examples there are.
    """
    for one, other in itertools.product(first.split("+"), second.split("+")):
        parts = one.strip(), other.strip()
        boundaries = [b for part in parts for b in re.findall(r"[\d.]+(%?)(?=[:\]])", part)]
        if len(set(boundaries)) > 1:  # per cent and examples
            continue
        try:
            (name, a), (other_name, b) = (_select_part(part, _MANY) for part in parts)
        except ValueError:
            continue
        if name == other_name and max(a.start, b.start) < min(a.stop, b.stop):
            return True
    return False


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
