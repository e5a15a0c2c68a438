"""Splits such as `train[:10%]+test` without TensorFlow Datasets, in its notation."""

import collections
import itertools
import re
from collections.abc import Mapping

_PART = re.compile(r"([\w-]+)(?:\[([^:\]]*):([^:\]]*)\])?")


def select(split: str, sizes: Mapping[str, int]) -> list[tuple[str, slice]]:
    """Return name and `slice` of each part of a split, given the size of every whole split."""
    try:
        return [_select_part(part.strip(), sizes) for part in split.split("+")]
    except (ValueError, KeyError):
        first, *_, last = *sizes, *sizes
        raise ValueError(
            f"`split` must be one of {', '.join(sizes)} or a slice such as {first}[:10%] (a "
            f"recipe's: `--set test_split={last}`). Received: split={split}"
        ) from None


def overlap(first: str, second: str) -> bool:
    """Return whether two splits share examples, as far as it follows from the strings alone."""
    many: Mapping[str, int] = collections.defaultdict(lambda: 10**9)
    for one, other in itertools.product(first.split("+"), second.split("+")):
        parts = one.strip(), other.strip()
        units = [unit for part in parts for unit in re.findall(r"[\d.]+(%?)(?=[:\]])", part)]
        if len(set(units)) > 1:  # percent and examples
            continue
        try:
            (name, a), (other_name, b) = (_select_part(part, many) for part in parts)
        except ValueError:
            continue
        if name == other_name and max(a.start, b.start) < min(a.stop, b.stop):
            return True
    return False


def _select_part(part: str, sizes: Mapping[str, int]) -> tuple[str, slice]:
    match = _PART.fullmatch(part)
    if not match:
        raise ValueError
    name, start, stop = match.groups()
    size = sizes[name]
    return name, slice(_boundary(start, size, 0), _boundary(stop, size, size))


def _boundary(text: str | None, size: int, default: int) -> int:
    if not text:
        return default
    percent = text.endswith("%")
    number = float(text[:-1]) if percent else int(text)
    if not abs(number) <= (100 if percent else size):
        raise ValueError
    value = round(number * size / 100) if percent else int(number)
    return value + size if value < 0 else value
