"""Which images the client's command means: files, folders and the standard input."""

import io
import json
import os
import subprocess
import sys

import pytest
from light_model import light_server, write_image

from serving import client
from serving.clients.image_files import IMAGE_SUFFIXES, find_images, named_images, read_image


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    with light_server(tmp_path_factory.mktemp("light")) as running:
        yield running


@pytest.fixture
def folder(tmp_path):
    """Images at several depths, among what is none."""
    folder = tmp_path / "photos"
    for name in ("b.png", "a.JPG", "june/c.gif", "june/deep/d.bmp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, 204 if name < "c" else 0)
    for name in ("notes.txt", "june/.hidden.png", ".cache/e.png", "july/x.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("none")
    return folder


FOUND = ["a.JPG", "b.png", "june/c.gif", "june/deep/d.bmp"]


def run(light, *arguments, stdin=b"", timeout=300):
    command = [sys.executable, "-m", "serving.client", "--url", light.url, "--model_name=light"]
    return subprocess.run([*command, *arguments], input=stdin, capture_output=True, timeout=timeout)


def test_folders_are_searched_in_order(folder):
    assert [str(path.relative_to(folder)) for path in find_images(folder)] == FOUND
    assert find_images(folder / "notes.txt") == [folder / "notes.txt"]
    assert list(map(str, find_images("none"))) == ["none"]
    with pytest.raises(ValueError, match=r"There is no \.jpg, .* file in the folder .*july\."):
        find_images(folder / "july")
    assert all(suffix == suffix.lower() for suffix in IMAGE_SUFFIXES)


@pytest.mark.parametrize("suffix", ["png", "jpeg", "bmp", "gif"])
def test_the_standard_input_may_be_an_image(tmp_path, suffix):
    data = write_image(tmp_path / f"a.{suffix}", 7).read_bytes()
    assert named_images(["-"], io.BytesIO(data)) == [("-", data)]
    assert read_image(data) == read_image(bytearray(data)) == read_image(memoryview(data)) == data


def test_the_standard_input_may_be_paths(folder):
    lines = os.fsencode(f"{folder}/b.png\r\n\n{folder}/june\nBM.bmp\nGIF89a\n")
    names = [name for name, _ in named_images(["first.png", "-"], io.BytesIO(lines))]
    ends = ["june/c.gif", "june/deep/d.bmp"]
    expected = [f"{folder}/b.png", *(f"{folder}/{end}" for end in ends), "BM.bmp", "GIF89a"]
    assert names == ["first.png", *expected]
    with pytest.raises(ValueError, match="neither an image nor a path"):
        named_images(["-"], io.BytesIO(b"\n \n"))


def test_a_folder_is_asked_about(light, folder, capsys):
    arguments = ["--url", light.url, "--model_name=light", "--batch_size=3", "--top=2"]
    assert client.main([*arguments, "--image", str(folder)]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["file", "label", "class", "probability", "others"]
    assert [line.split()[0] for line in lines] == [str(folder / name) for name in FOUND]
    assert [line.split()[1] for line in lines] == ["bright", "bright", "dark", "dark"]
    assert lines[1].split()[2:] == ["1", "0.8000", "0:0.2000"]
    assert lines[2].split()[2:] == ["0", "1.0000", "1:0.0000"]
    assert lines[1].index("0:") == header.index("others")


def test_without_standard_streams(light, folder, monkeypatch):
    arguments = ["--url", light.url, "--model_name=light", "--image", f"{folder}/b.png"]
    monkeypatch.setattr(sys, "stdin", None)
    assert client.main(arguments) == 0
    assert client.main([*arguments, "-"]) == 1


def test_images_from_a_real_pipe(light, folder):
    done = run(light, "--image", "-", stdin=(folder / "b.png").read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines()[1].split() == [b"-", b"bright", b"1", b"0.8000"]


def test_paths_from_a_real_pipe_over_grpc(light, folder):
    paths = "\n".join(str(folder / name) for name in FOUND).encode()
    grpc = ["--url", f"grpc://{light.grpc_address}"]
    done = run(light, *grpc, "--json", "--batch_size=1", "--image", "-", stdin=paths)
    assert done.returncode == 0, done.stderr  # TensorFlow writes there what it likes
    rows = json.loads(done.stdout)
    assert [row["file"] for row in rows] == [str(folder / name) for name in FOUND]
    assert [row["label"] for row in rows] == ["bright", "bright", "dark", "dark"]
    assert len(done.stdout.splitlines()) == 2 + len(FOUND)


@pytest.mark.parametrize("form", ["table", "json"])
def test_what_was_answered_before_an_error_is_printed(light, folder, capsys, form):
    (folder / "c.png").write_text("not an image")
    arguments = ["--url", light.url, "--model_name=light", "--batch_size=1"]
    arguments += ["--json"] if form == "json" else []
    assert client.main([*arguments, "--image", str(folder)]) == 1
    out, err = capsys.readouterr()
    if form == "json":
        files = [row["file"] for row in json.loads(out)]
    else:
        files = [line.split()[0] for line in out.splitlines()[1:]]
    assert files == [str(folder / "a.JPG")]
    [line] = err.splitlines()
    assert line.startswith("serving.client: error: Expected a JPEG")
    assert line.endswith("c.png")


def test_a_reader_that_has_enough(light, folder):
    command = f"{sys.executable} -m serving.client --url {light.url} --model_name light"
    done = subprocess.run(
        ["bash", "-c", f"{command} --batch_size 1 --image {folder} --image {folder} | true"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--retries=-1"], 2, "--retries: must be 0 or more, not -1"),
        (["--batch_size=0"], 2, "--batch_size: must be 1 or more, not 0"),
        (["--top=0"], 2, "--top: must be 1 or more, not 0"),
        (["--version=1", "--label=a"], 2, "--label: not allowed with argument --version"),
        (["--image", "-", "-"], 2, "--image: - may be given once"),
        (["--url=http://"], 1, "`url` must name a host"),
    ],
)
def test_flags_that_cannot_be(arguments, code, words, capsys):
    with pytest.raises(SystemExit) as caught:
        sys.exit(client.main(["--image", "a.png", *arguments]))
    assert caught.value.code == code
    out, err = capsys.readouterr()
    [line] = err.splitlines()
    assert words in line
    assert out == ""
