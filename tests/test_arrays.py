import numpy as np
import pytest
from commands import usage_error

from training import data, write_arrays


def write(*arguments):
    return write_arrays.main([str(argument) for argument in arguments])


@pytest.fixture
def arrays(tmp_path):
    assert write("--dataset", "digits", "--output", tmp_path) == 0
    return tmp_path


def test_are_what_was_loaded(arrays):
    for split in ("train", "test[10:20]", "test[:5%]+train[-3:]"):
        ours, theirs = data.load("digits", split, arrays), data.load("digits", split)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
    assert data.spec("digits", arrays) == data.spec("digits")
    assert sorted(path.name for path in (arrays / "digits").iterdir()) == [
        "arrays.json",
        "test.npz",
        "train.npz",
    ]


def test_other_size(tmp_path):
    assert write("--dataset", "digits", "--output", tmp_path, "--image_size", 8) == 0
    assert data.load("digits", "test", tmp_path)[0].shape == (360, 8, 8, 3)
    assert data.spec("digits", tmp_path).image_shape == (8, 8, 3)
    assert data.load("digits", "test[:3]", tmp_path, image_size=6)[0].shape == (3, 6, 6, 3)


def test_from_tensorflow_datasets(shared_tfds, tmp_path):
    arguments = ("--dataset", "cifar10", "--data_dir", shared_tfds, "--output", tmp_path)
    assert write(*arguments, "--splits", "test") == 0
    for one, other in zip(
        data.load("cifar10", "test[:50]", tmp_path),
        data.load("cifar10", "test[:50]", shared_tfds),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def flip_a_bit(content):
    return content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]


class TestErrors:
    @pytest.mark.parametrize(
        ("file", "change", "message"),
        [
            ("test.npz", flip_a_bit, r"not as it was written.*Received: .*test.npz"),
            ("test.npz", None, r"`data_dir` has a file that cannot be read"),
            ("arrays.json", lambda content: content[:-20], r"cannot be read.*arrays.json"),
            ("arrays.json", lambda content: b"{}", r"cannot be read.*arrays.json"),
        ],
    )
    def test_damage(self, arrays, file, change, message):
        path = arrays / "digits" / file
        content = path.read_bytes()
        path.unlink()
        if change:
            path.write_bytes(change(content))
        with pytest.raises(ValueError, match=message):
            data.load("digits", "test", arrays)
        if file == "test.npz":
            assert len(data.load("digits", "train", arrays)[0]) == 1437
        else:
            with pytest.raises(ValueError, match=message):
                data.spec("digits", arrays)

    @pytest.mark.parametrize(
        ("splits", "message"),
        [
            (["train[:50%]"], "names of whole splits. Received: splits=train[:50%]"),
            (["../train"], "names of whole splits. Received: splits=../train"),
            (["train", "nothing"], "`split` must be one of"),
        ],
    )
    def test_nothing_is_left_of_a_failure(self, splits, message, tmp_path, capsys):
        arguments = ["--dataset", "digits", "--output", tmp_path, "--splits", *splits]
        assert message in usage_error(capsys, write_arrays.main, arguments)
        assert not list(tmp_path.iterdir())

    def test_nothing_is_overwritten(self, arrays, capsys):
        before = (arrays / "digits" / "train.npz").stat().st_mtime_ns
        arguments = ["--dataset", "digits", "--output", arrays]
        message = usage_error(capsys, write_arrays.main, arguments)
        assert "`output` must not have digits already" in message
        assert (arrays / "digits" / "train.npz").stat().st_mtime_ns == before
