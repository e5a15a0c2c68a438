import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import splits

BOUNDARIES = st.one_of(
    st.sampled_from(["", "1.8%", "12.5%"]),
    st.integers(-60, 60).map(str),
    st.integers(-110, 110).map("{}%".format),
)


def tfds_select(split, sizes):
    infos = {
        name: tfds.core.SplitInfo(
            name=name, shard_lengths=[size], num_bytes=0, filename_template=None
        )
        for name, size in sizes.items()
    }
    parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    return [
        (part.splitname, list(range(sizes[part.splitname])[part.from_ : part.to])) for part in parts
    ]


@settings(max_examples=200, deadline=None)
@given(start=BOUNDARIES, stop=BOUNDARIES, size=st.integers(1, 50))
def test_agrees_with_tensorflow_datasets(start, stop, size):
    if not (start or stop) or (start.endswith("%") != stop.endswith("%") and start and stop):
        return  # TensorFlow Datasets refuses the former and reads only one unit of the latter
    split, sizes = f"train[{start}:{stop}]+test", {"train": size, "test": 7}
    try:
        expected = tfds_select(split, sizes)
    except ValueError:
        with pytest.raises(ValueError, match="`split` must be one of train, test or a slice"):
            splits.select(split, sizes)
    else:
        ours = [
            (name, list(range(sizes[name])[part])) for name, part in splits.select(split, sizes)
        ]
        assert ours == expected


@pytest.mark.parametrize("split", ["", "val", "train[", "train[5]", "train[:a]", "train[:nan%]"])
def test_errors(split):
    with pytest.raises(ValueError, match=r"`split` must be one of train, test.*Received: split="):
        splits.select(split, {"train": 10, "test": 5})


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("train", "train[90%:]", True),
        ("train", "train[:100]", True),
        ("train", "test", False),
        ("train[:90%]", "train[90%:]", False),
        ("train[:90%]", "test+train[89.5%:]", True),
        ("train[:-5]", "train[-5:]", False),
        ("train[:100]", "train[99:]", True),
        ("train[:90%]", "train[45000:]", False),  # which only the number of examples can tell
    ],
)
def test_overlap(first, second, expected):
    assert splits.overlap(first, second) == splits.overlap(second, first) == expected
