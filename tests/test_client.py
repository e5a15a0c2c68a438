"""The client against our own server: the class over REST and gRPC, and the command."""

import io
import json
import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import usage_error
from saved_models import export_light, png, png_header, served, write_image

from serving import client
from serving.client import Client
from serving.clients.image_files import find_images
from serving.config_files import single_model

VALUES = [0, 255, 10, 230, 128, 60, 200, 90, 5, 250, 127]


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """A server of version 2, labeled `stable`, over REST and gRPC."""
    base_path = tmp_path_factory.mktemp("light")
    export_light(base_path / "2")
    config = single_model("light", base_path)
    config.model_config_list.config[0].version_labels["stable"] = 2
    with served(config, port=0, allow_version_labels_for_unavailable_models=True) as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def url(light, request):
    return light.url if request.param == "http" else f"grpc://{light.grpc_address}"


def encoded(value):
    return png(np.full((4, 6, 3), value, np.uint8))


def test_many_images_in_several_requests_keep_their_order(url):
    with Client(url, model_name="light", batch_size=3) as asking:
        answers = asking.predict([encoded(value) for value in VALUES])
        assert asking.predict([]) == []
    shares = [answer.probabilities[1] for answer in answers]
    np.testing.assert_allclose(shares, np.array(VALUES) / 255, atol=1e-6)
    assert [a.label for a in answers] == ["bright" if v > 127 else "dark" for v in VALUES]
    assert [a.class_id for a in answers] == [int(v > 127) for v in VALUES]
    assert [a.probability for a in answers] == [max(a.probabilities) for a in answers]


def test_images_are_read_when_it_is_their_turn(url):
    read = []

    def images():
        for value in VALUES:
            read.append(value)
            yield encoded(value)

    with Client(url, model_name="light", batch_size=2) as asking:
        answers = asking.stream(images())
        assert not read
        assert next(answers).class_id == 0
        assert len(read) <= 3
        assert len(list(answers)) == len(VALUES) - 1


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_arrays_are_answered_as_files_are(url, dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 4, 6, 3))
    strided = np.repeat(pixels, 2, axis=0)[::2].astype(dtype)
    with Client(url, model_name="light", batch_size=3) as asking:
        answers = asking.predict_arrays(strided)
    expected = pixels.mean((1, 2, 3)) / 255
    np.testing.assert_allclose([a.probabilities[1] for a in answers], expected, atol=1e-6)


def test_pixels_that_are_no_numbers_are_sent_as_they_are(url):
    pixels = np.full((2, 4, 6, 3), [[[[np.nan]]], [[[np.inf]]]], np.float32)
    with Client(url, model_name="light") as asking:
        answers = asking.predict_arrays(pixels)
    np.testing.assert_array_equal([a.probabilities[1] for a in answers], [np.nan, np.inf])


def test_arguments_of_predict_that_cannot_be():
    with Client() as asking:
        for array in (np.zeros((4, 6, 3), np.uint8), np.zeros((1, 4, 6, 3), np.int64), [[1]]):
            with pytest.raises(ValueError, match=r"`images` must be an array"):
                asking.predict_arrays(array)
        for image in ("cat.png", Path("cat.png"), encoded(0)):
            with pytest.raises(ValueError, match="must be a list of images"):
                asking.predict(image)


def test_versions_and_labels(url):
    for choice in ({"version": 2}, {"label": "stable"}, {}):
        with Client(url, model_name="light", **choice) as asking:
            assert asking.predict([encoded(255)])[0].label == "bright"
            assert asking.states() == {2: "AVAILABLE"}
            assert asking.is_ready()
    for choice in ({"version": 3}, {"label": "none"}, {"model_name": "nope"}):
        with Client(url, **{"model_name": "light", **choice}) as asking:
            assert not asking.is_ready()


def test_nobody_listens(url):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"{url.partition('://')[0]}://127.0.0.1:{taken.getsockname()[1]}"
    with Client(url, timeout=2, retries=0) as asking:
        assert not asking.is_ready()
        with pytest.raises(ConnectionError, match=r"Cannot reach the server at .*127\.0\.0\.1:"):
            asking.predict([encoded(0)])


def test_a_bar_is_shown_where_it_is_asked_for(url, capsys):
    with Client(url, model_name="light", batch_size=2) as asking:
        asking.predict([encoded(0)] * 5, progress=None)
        asking.predict([encoded(0)] * 5)
        assert capsys.readouterr().err == ""
        asking.predict([encoded(0)] * 5, progress=True)
        assert "5/5" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        {"url": "ftp://a"},
        {"url": "http://"},
        {"url": "http://a:99999"},
        {"timeout": float("inf")},
        {"retries": -1},
        {"backoff": float("nan")},
        {"batch_size": 0},
        {"version": 1, "label": "a"},
    ],
)
def test_arguments_that_cannot_be(arguments):
    name = next(iter(arguments))
    with pytest.raises(ValueError, match=f"`{name}`.* Received: {name}="):
        Client(**arguments)


@pytest.mark.parametrize(
    ("arguments", "words", "statuses"),
    [
        ({"model_name": "nope"}, "nope", (404, 5)),
        ({"version": 9}, "9", (404, 5)),
        ({"signature_name": "nope"}, "nope", (400, 9)),
        ({"signature_name": "size"}, "classify images", (200, 200)),
        ({"signature_name": "count"}, "batch size|classify images", (400, 200)),
    ],
)
def test_the_server_s_error_is_passed_on(url, arguments, words, statuses):
    with pytest.raises(client.ServerError, match=words) as caught:
        client.predict([encoded(0)], url, **{"model_name": "light", **arguments})
    assert caught.value.status == statuses[url.startswith("grpc")]


# A folder of images with bad ones among them.


@pytest.fixture
def folder(tmp_path):
    """Images of several formats at several depths, among other files."""
    folder = tmp_path / "photos"
    for name in ("b.png", "a.JPG", "june/c.gif", "june/deep/d.bmp", "june/deep/e.webp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, 204 if name < "c" else 0)
    for name in ("notes.txt", "june/.hidden.png", ".cache/e.png", "july/x.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("none")
    return folder


FOUND = ["a.JPG", "b.png", "june/c.gif", "june/deep/d.bmp", "june/deep/e.webp"]
LABELS = ["bright", "bright", "dark", "dark", "dark"]
BAD = ["aa.jpg", "june/cc.png", "june/deep/a.tif"]


def test_folders_are_searched_in_order(folder):
    assert [str(path.relative_to(folder)) for path in find_images(folder)] == FOUND
    assert find_images(folder / "notes.txt") == [folder / "notes.txt"]
    assert list(map(str, find_images("none"))) == ["none"]
    with pytest.raises(ValueError, match="july"):
        find_images(folder / "july")


def spoil(folder):
    (folder / BAD[0]).write_bytes((folder / "a.JPG").read_bytes()[:200])
    (folder / BAD[1]).write_bytes(encoded(0)[:40])
    (folder / BAD[2]).write_text("not an image")


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_bad_images_do_not_cost_the_others_their_answers(url, folder, batch_size):
    spoil(folder)
    paths = [folder / name for name in sorted(FOUND + BAD)]
    with Client(url, model_name="light", batch_size=batch_size) as asking:
        answers = dict(zip(paths, asking.stream(paths), strict=True))
        good = [answer.label for path, answer in answers.items() if path.name not in str(BAD)]
        assert good == LABELS
        for name in BAD:
            assert isinstance(answers[folder / name], ValueError | client.ServerError)
            assert name in str(answers[folder / name])
        with pytest.raises(client.ServerError, match=r"aa\.jpg: "):
            asking.predict(paths)


def test_images_of_every_kind_of_badness(url, tmp_path):
    """Too many bytes for a request, too many pixels, none at all, and what is no file."""
    (tmp_path / "empty.png").touch()
    files = [tmp_path / "empty.png", tmp_path, tmp_path / "none.png"]
    bad = [encoded(0) + bytes(2**26), png_header(65_500, 65_500), *files]
    with Client(url, model_name="light") as asking:
        *errors, last = asking.stream([*bad, encoded(255)])
    assert last.label == "bright"
    for name, error in zip(["image 0", "image 1", *map(str, files)], errors, strict=True):
        assert name in str(error)
        assert "After" not in str(error), "to ask again is no use"


def ask(url, *arguments):
    return client.main(["--url", url, "--model_name=light", *map(str, arguments)])


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_folder_is_asked_about(url, folder, capsys, form):
    """With and without bad images in it: each of those is a line on the standard error."""
    expected = [(str(folder / name), label) for name, label in zip(FOUND, LABELS, strict=True)]
    flags = ["--json"] if form == "json" else []
    for bad in ([], BAD):
        if bad:
            spoil(folder)
        code = ask(url, *flags, "--batch_size=3", "--top=2", "--image", folder)
        out, err = capsys.readouterr()
        assert code == bool(bad)
        if form == "json":
            rows = json.loads(out)
            assert [row["file"] for row in rows if "error" in row] == [str(folder / b) for b in bad]
            rows = [row for row in rows if "label" in row]
            assert [(row["class_id"], len(row["probabilities"])) for row in rows[1:3]] == [
                *((1, 2), (0, 2))
            ]
            assert [(row["file"], row["label"]) for row in rows] == expected
        else:
            header, *lines = out.splitlines()
            assert header.split() == ["file", "label", "class", "probability", "others"]
            assert lines[1].split()[2:] == ["1", "0.8000", "0:0.2000"]
            assert lines[2].split()[2:] == ["0", "1.0000", "1:0.0000"]
            assert [tuple(line.split()[:2]) for line in lines] == expected
        for name, error in zip(bad, err.splitlines(), strict=True):
            assert error.startswith("serving.client: error: ")
            assert name in error


def test_paths_and_an_image_from_the_standard_input(light, folder, monkeypatch, capsys):
    lines = io.BytesIO(os.fsencode(f"{folder}/b.png\r\n\n{folder}/june\n"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(lines))
    host, _, port = light.url.removeprefix("http://").partition(":")
    arguments = ["--host", host, "--port", port, "--model_name=light", "--json"]
    assert client.main([*arguments, "--image", f"{folder}/a.JPG", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == [str(folder / name) for name in FOUND]
    image = io.BytesIO((folder / "b.png").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(image))
    assert client.main([*arguments, "--image", "-"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["file"], row["label"]) == ("-", "bright")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n \n")))
    assert client.main([*arguments, "--image", "-"]) == 2
    assert "neither an image nor a path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--image"),
        (["--image", "a.png", "--port", "0"], "--port"),
        (["--image", "a.png", "--version=1", "--label=a"], "--version"),
        (["--image", "-", "-"], "--image"),
        (["--image", "a.png", "--url=http://"], "`url`"),
    ],
)
def test_bad_usage_is_one_line(arguments, words, capsys):
    assert words in usage_error(capsys, lambda given: sys.exit(client.main(given)), arguments)


@pytest.mark.parametrize("file", ["none.png", __file__])
def test_a_file_that_cannot_be_sent_is_one_line(file, capsys):
    assert client.main(["--image", file]) == 1
    out, err = capsys.readouterr()
    [line] = err.splitlines()
    assert file in line
    assert out == ""
