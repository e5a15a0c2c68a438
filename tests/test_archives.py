import hashlib
import io
import socket
import tarfile
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from training import data
from training.data import ARCHIVES

pytest.importorskip("importlib_resources")  # which TFDS 4.9.10 needs to prepare anything

COUNT = 5


def pixels(size, offset=0):
    """Return images as the archives have them: planes of red, green and blue."""
    return np.random.default_rng(offset).integers(0, 256, (COUNT, 3, size, size), "uint8")


def write_cifar10(path):
    def records(images):
        flat = images.reshape(COUNT, -1)
        return np.concatenate([np.arange(COUNT, dtype="uint8")[:, None], flat], axis=1).tobytes()

    files = {f"data_batch_{i}.bin": b"" for i in range(2, 6)}
    files |= {"data_batch_1.bin": records(pixels(32)), "test_batch.bin": records(pixels(32, 1))}
    files["batches.meta.txt"] = "\n".join(data.spec("cifar10").class_names).encode()
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_imagenet(path):
    content = io.BytesIO()
    flat = pixels(32, int("val" in path.name)).reshape(COUNT, -1)
    np.savez(content, data=flat, labels=np.arange(1, COUNT + 1))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.npz", content.getvalue())


WRITERS = {"cifar10": write_cifar10, "imagenet_resized/32x32": write_imagenet}


@pytest.fixture
def archive_dir(tmp_path, monkeypatch):
    """Write small archives of a data set, register their checksums and cut the network."""

    def refuse(*arguments, **options):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)

    def write(dataset):
        folder = tmp_path / "archives"
        folder.mkdir()
        registered = {}
        cls = tfds.builder_cls(dataset.partition("/")[0])
        for url, info in cls.url_infos.items():
            if info.filename in ARCHIVES[dataset]:
                path = folder / info.filename
                WRITERS[dataset](path)
                checksum = hashlib.sha256(path.read_bytes()).hexdigest()
                registered[url] = type(info)(path.stat().st_size, checksum, info.filename)
        monkeypatch.setattr(cls, "url_infos", registered)
        return folder

    return write


@pytest.mark.parametrize("dataset", ARCHIVES)
def test_archives_are_registered(dataset):
    infos = tfds.builder_cls(dataset.partition("/")[0]).url_infos.values()
    assert {info.filename for info in infos} >= set(ARCHIVES[dataset])


@pytest.mark.parametrize("dataset", WRITERS)
def test_prepared_offline(dataset, archive_dir, tmp_path):
    folder = archive_dir(dataset)
    splits = ("train", "validation" if "imagenet" in dataset else "test")
    for i, split in enumerate(splits):
        images, labels = data.load(dataset, split, tmp_path / "data", archive_dir=folder)
        assert sorted(labels) == list(range(COUNT))
        expected = pixels(images.shape[1], i).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(images, expected[labels])
    assert {path.name.partition("/")[0] for path in (tmp_path / "data").iterdir()} == {
        dataset.partition("/")[0]
    }
    for name in ARCHIVES[dataset]:
        (folder / name).unlink()  # prepared once, it is read without them
    data.load(dataset, "train", tmp_path / "data", archive_dir=folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, r"must have the file cifar-10-binary.tar.gz. Rec"),
        (lambda content: content[:-1] + b"?", r"and SHA-256 .* bytes and SHA-256"),
    ],
)
def test_other_archives_are_refused(change, message, archive_dir, tmp_path):
    folder = archive_dir("cifar10")
    path = folder / "cifar-10-binary.tar.gz"
    content = path.read_bytes()
    path.unlink()
    if change:
        path.write_bytes(change(content))
    with pytest.raises(ValueError, match=message):
        data.load("cifar10", "train", tmp_path / "data", archive_dir=folder)
    assert not (tmp_path / "data" / "cifar10").exists()
