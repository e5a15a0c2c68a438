"""`Client` against our own server, over REST and over gRPC."""

import io
import itertools
import socket
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from light_model import light_server
from PIL import Image

from serving.client import Client
from serving.clients.batches import MAX_BATCH_BYTES, array_batches, batches


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    with light_server(tmp_path_factory.mktemp("light")) as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def url(light, request):
    return light.url if request.param == "http" else f"grpc://{light.grpc_address}"


def png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


VALUES = [0, 255, 10, 230, 128, 60, 200, 90, 5, 250, 127]


def test_many_images_in_several_requests_keep_their_order(url):
    with Client(url, model_name="light", batch_size=3) as client:
        answers = client.predict([png(value) for value in VALUES])
        assert client.predict([]) == []
    shares = [answer.probabilities[1] for answer in answers]
    np.testing.assert_allclose(shares, np.array(VALUES) / 255, atol=1e-6)
    assert [a.label for a in answers] == ["bright" if v > 127 else "dark" for v in VALUES]


def test_images_are_read_when_it_is_their_turn(url):
    read = []

    def images():
        for value in VALUES:
            read.append(value)
            yield png(value)

    with Client(url, model_name="light", batch_size=2) as client:
        answers = client.stream(images())
        assert not read
        assert next(answers).class_id == 0
        assert len(read) <= 3
        assert len(list(answers)) == len(VALUES) - 1


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_arrays_are_answered_as_files_are(url, dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 4, 6, 3))
    strided = np.repeat(pixels, 2, axis=0)[::2].astype(dtype)
    with Client(url, model_name="light", batch_size=3) as client:
        answers = client.predict_arrays(strided)
    expected = pixels.mean((1, 2, 3)) / 255
    np.testing.assert_allclose([a.probabilities[1] for a in answers], expected, atol=1e-6)


def test_pixels_that_are_no_numbers_are_sent_as_they_are(url):
    pixels = np.full((2, 4, 6, 3), [[[[np.nan]]], [[[np.inf]]]], np.float32)
    with Client(url, model_name="light") as client:
        answers = client.predict_arrays(pixels)
    np.testing.assert_array_equal([a.probabilities[1] for a in answers], [np.nan, np.inf])


@pytest.mark.parametrize(
    "array", [np.zeros((4, 6, 3), np.uint8), np.zeros((1, 4, 6, 3), np.int64), np.zeros(2), [[1]]]
)
def test_other_arrays_are_refused(light, array):
    with Client(light.url) as client, pytest.raises(ValueError, match=r"`images` must be an array"):
        client.predict_arrays(array)


def test_versions_and_labels(url):
    for choice in ({"version": 2}, {"label": "stable"}, {}):
        with Client(url, model_name="light", **choice) as client:
            assert client.predict([png(255)])[0].label == "bright"
            assert client.states() == {2: "AVAILABLE"}
            assert client.is_ready()
    for choice in ({"version": 3}, {"label": "none"}, {"model_name": "nope"}):
        with Client(url, **{"model_name": "light", **choice}) as client:
            assert not client.is_ready()


def test_nobody_there_is_not_ready(url):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Client(f"{url.partition('://')[0]}://127.0.0.1:{port}", timeout=2) as client:
        assert not client.is_ready()


def test_a_bar_is_shown_where_it_is_asked_for(url, capsys):
    with Client(url, model_name="light", batch_size=2) as client:
        client.predict([png(0)] * 5, progress=None)
        client.predict([png(0)] * 5)
        assert capsys.readouterr().err == ""
        client.predict([png(0)] * 5, progress=True)
        assert "5/5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"url": "ftp://a"}, "`url` must begin with http://"),
        ({"url": "http://"}, "`url` must name a host"),
        ({"url": "http://a:99999"}, "`url` must name a host"),
        ({"url": "grpc://:8500"}, "`url` must name a host"),
        ({"timeout": 0}, "`timeout` must be a positive number"),
        ({"timeout": float("inf")}, "`timeout` must be a positive number"),
        ({"retries": -1}, "`retries` must be 0 or more"),
        ({"backoff": float("nan")}, "`backoff` must be 0 or more"),
        ({"batch_size": 0}, "`batch_size` must be 1 or more"),
        ({"version": 1, "label": "a"}, "`version` and `label` must not be given both"),
    ],
)
def test_arguments_that_cannot_be(arguments, words):
    with pytest.raises(ValueError, match=words) as caught:
        Client(**arguments)
    name = next(iter(arguments))
    assert f"Received: {name}=" in str(caught.value)


@pytest.mark.parametrize("images", ["cat.png", Path("cat.png"), png(0)])
def test_one_image_is_no_list(light, images):
    with Client(light.url) as client, pytest.raises(ValueError, match="must be a list of images"):
        client.predict(images)


@given(
    sizes=st.lists(st.integers(0, MAX_BATCH_BYTES * 3 // 2), max_size=20), size=st.integers(1, 6)
)
def test_batches_keep_all_images_within_the_limits(sizes, size):
    whole = memoryview(bytes(MAX_BATCH_BYTES * 3 // 2))  # slices of it take no room
    images = [whole[:length] for length in sizes]
    made = list(batches(images, size))
    assert [len(image) for batch in made for image in batch] == sizes
    for batch in made:
        assert 1 <= len(batch) <= size
        assert len(batch) == 1 or sum(map(len, batch)) <= MAX_BATCH_BYTES
    for batch, after in itertools.pairwise(made):
        # a batch ends only where the next image does not fit
        assert len(batch) == size or sum(map(len, [*batch, after[0]])) > MAX_BATCH_BYTES


@given(rows=st.integers(0, 12), size=st.integers(1, 5), large=st.booleans())
def test_arrays_are_cut_within_the_limits(rows, size, large):
    row_bytes = MAX_BATCH_BYTES // 2 if large else 1
    array = np.broadcast_to(np.uint8(0), (rows, row_bytes))
    made = list(array_batches(array, size))
    assert sum(map(len, made)) == rows
    assert all(1 <= len(batch) <= min(size, 2 if large else size) for batch in made)
