import json

import keras
import numpy as np
import PIL.Image
import pytest
from study_folders import save_run

from training import data, evaluate
from training.data import image_folder


def write_image(path, color, size=(6, 5), mode="RGB", **arguments):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new(mode, size, color).save(path, **arguments)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes of ten images; the red of `cat` and the green of `dog` number them."""
    for i in range(10):
        write_image(tmp_path / "data" / "cat" / f"{i}.png", (10 * i, 0, i))
        write_image(tmp_path / "data" / "dog" / f"{i}.png", (0, 10 * i, i))
    return tmp_path / "data"


def load(split, folder, image_size=4):
    return data.load("folder", split, folder, image_size)


def test_a_fifth_of_each_class_is_for_testing(folder):
    (train, train_labels), (test, test_labels) = (
        load(split, folder) for split in ("train", "test")
    )
    assert train.shape == (16, 4, 4, 3)
    assert train.dtype == np.uint8
    kept = [10, 20, 30, 40, 60, 70, 80, 90]
    for label in (0, 1):  # cat is red, dog is green
        assert sorted(train[train_labels == label, 0, 0, label].tolist()) == kept
        assert sorted(test[test_labels == label, 0, 0, label].tolist()) == [0, 50]
    assert len(test) == 4


def test_classes_mix_in_an_order_that_stays(folder):
    (train, labels), (test, _) = (load(split, folder) for split in ("train", "test"))
    assert set(labels[:5]) == set(labels[-5:]) == {0, 1}
    pixels, labels = load("test[:1]+train[50%:75%]", folder)
    np.testing.assert_array_equal(pixels, np.concatenate([test[:1], train[8:12]]))
    assert len(labels) == 5


@pytest.mark.parametrize("test", image_folder.TEST_NAMES)
def test_splits_of_the_user(tmp_path, test):
    for split, color in (("train", 10), (test, 90)):
        for name in "ab":
            write_image(tmp_path / split / name / "x.jpg", (color, color, color))
    assert load("train", tmp_path)[0].max() < 20
    assert load(test, tmp_path)[0].min() > 80
    with pytest.raises(ValueError, match=f"`split` must be one of train, {test} or.*split={test}`"):
        load("other", tmp_path)


def test_statistics_are_measured_on_the_training_split(folder):
    spec = data.spec("folder", folder, 4)
    pixels = load("train", folder)[0] / 255
    np.testing.assert_allclose(spec.mean, pixels.mean((0, 1, 2)), atol=1e-6)
    write_image(folder / "dog" / "1.png", (9, 10, 200))
    assert data.spec("folder", folder, 4).mean != spec.mean
    assert spec.image_shape == (4, 4, 3)
    assert spec.class_names == ("cat", "dog")


def test_resizing_is_that_of_the_exported_models():
    tf = pytest.importorskip("tensorflow")
    pixels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), "uint8")
    expected = tf.image.resize(pixels, (16, 16), antialias=True).numpy()
    ours = image_folder.resize_all(pixels[None], 16)[0]
    np.testing.assert_allclose(ours, expected, atol=1.5)


class TestErrors:
    def test_size_is_needed(self, folder):
        with pytest.raises(ValueError, match=r"`image_size` must be given.*image_size="):
            load("train", folder, 0)

    @pytest.mark.parametrize("path", [None, "nothing"])
    def test_no_folder(self, tmp_path, path):
        with pytest.raises(ValueError, match=r"`data_dir` must be a folder with.*data_dir="):
            load("train", path and tmp_path / path)

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ("a/1", r"two or more classes. Received: folder=.*with a$"),
            ("a/1 a/2 b/.hidden", "images of every class.*b$"),
            ("a/1 a/2 b/1", "images of every class.*b$"),
            ("a/1 a/2 b/1 b/2 b/more/2", r"must be an image.*more"),
            ("a/1 a/2 b/1 b/2 two\nlines/1", r"names are a line of UTF-8.*'.*two.nlines'$"),
            ("a/1 a/2 b/1 b/2 latin-\udce9/1", r"names are a line of UTF-8.*'.*latin-.*'$"),
            (
                "train/a/1 train/b/1 train/c/1 test/a/1 test/b/1",
                "same classes in every split, and c is not in both train and test",
            ),
            ("a/1 a/2 b/1 b/2", "`std` must be above 0"),  # all of one color
        ],
    )
    def test_layout(self, tmp_path, files, message):
        for name in files.split(" "):
            write_image(tmp_path / f"{name}.png", (5, 5, 5))
        with pytest.raises(ValueError, match=message):
            data.spec("folder", tmp_path, 4)

    def test_no_image(self, folder):
        (folder / "cat" / "notes.txt").write_text("three cats")
        with pytest.raises(ValueError, match=r"must be an image.*Received: file=.*notes.txt$"):
            load("train+test", folder)


def test_evaluate_a_run_on_a_folder(folder, tmp_path, capsys):
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")]
    )
    spec = data.spec("folder", folder, 8)
    run = save_run(tmp_path / "run", model, spec=spec, dataset="folder", image_size=8)
    result = tmp_path / "result.json"
    arguments = ["--run", str(run), "--data_dir", str(folder)]
    assert evaluate.main([*arguments, "--json", str(result)]) == 0
    assert [entry["name"] for entry in json.loads(result.read_text())["classes"]] == ["cat", "dog"]
    (folder / "dog").rename(folder / "wolf")
    with pytest.raises(SystemExit):
        evaluate.main(arguments)
    assert "must have the classes that the run was trained on, cat, dog" in capsys.readouterr().err
