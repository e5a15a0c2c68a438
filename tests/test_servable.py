"""Servables of plain SavedModels: what they refuse, and dynamic batching."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from saved_models import export_signatures, export_various, png_header, saved, signature

from serving.engine.backends import SavedModelServable
from serving.engine.batching import Batching, can_batch, read_batching
from serving.engine.servable import ServingError, check_image_size

PATIENT = Batching(max_batch_size=8, batch_timeout_micros=200_000, max_enqueued_batches=100)


def export(path, offset=0.0):
    """Writes a SavedModel that tells the size of the batch in which it ran."""

    @signature(x=([None, 2], tf.float32))
    def serving_default(x):
        size = tf.fill([tf.shape(x)[0]], tf.shape(x)[0])
        return {"batch_size": size, "y": tf.reduce_sum(x, 1) + offset}

    @signature(x=([None, None], tf.float32))
    def any_width(x):
        return {"y": tf.reduce_sum(x, 1)}

    @signature(x=([None], tf.float32))
    def slow(x):
        matrix = tf.fill([600, 600], x[0])
        for _ in tf.range(10):
            matrix = tf.linalg.matmul(matrix, matrix) * 0
        return {"y": x + matrix[0, 0]}

    @signature(inputs=([None], tf.string))
    def examples(inputs):
        return tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32)})

    export_signatures(path, serving_default, any_width, slow, examples)


@pytest.fixture(scope="module")
def path():
    return saved(export)


def at_once(calls):
    """Makes calls in as many threads; returns their answers or errors, in order."""

    def call(function):
        try:
            return function()
        except ServingError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


@pytest.fixture(scope="module")
def servable(path):
    return SavedModelServable(path, batching=PATIENT)


def test_concurrent_requests_run_as_one_batch_and_get_their_own_rows(servable):
    inputs = [np.full([1, 2], number, np.float32) for number in range(8)]
    answers = at_once([lambda x=x: servable.predict("", {"x": x}) for x in inputs])
    assert [float(answer["y"][0]) for answer in answers] == [2.0 * n for n in range(8)]
    assert max(int(answer["batch_size"][0]) for answer in answers) == 8


def test_a_batch_is_padded_to_an_allowed_size(path):
    batching = Batching(max_batch_size=8, allowed_batch_sizes=(4, 8))
    servable = SavedModelServable(path, batching=batching)
    answer = servable.predict("", {"x": np.zeros([3, 2], np.float32)})
    assert answer["batch_size"].tolist() == [4, 4, 4]


def test_versions_never_share_a_batch(servable):
    servables = [servable, SavedModelServable(saved(export, 100.0), 2, PATIENT)]
    x = np.zeros([1, 2], np.float32)
    answers = at_once([lambda s=s: s.predict("", {"x": x})["y"][0] for s in servables * 6])
    assert answers == [0.0, 100.0] * 6


def test_a_broken_input_fails_only_its_own_request(servable):
    good = tf.train.Example()
    good.features.feature["x"].float_list.value.append(3)
    good, bad = good.SerializeToString(), b"\x89PNG\xff"  # which TensorFlow quotes, and is no text
    first, broken, *others = at_once(
        [
            lambda item=item: servable.predict("examples", {"inputs": np.array([item], object)})
            for item in (good, bad, good, good)
        ]
    )
    assert broken.code == "INVALID_ARGUMENT"
    assert broken.message.startswith("Could not parse")
    assert [outputs["x"].tolist() for outputs in (first, *others)] == [[3]] * 3


def test_a_full_queue_is_unavailable(path):
    batching = Batching(max_batch_size=1, max_enqueued_batches=1, num_batch_threads=1)
    servable = SavedModelServable(path, batching=batching)
    x = np.ones([1], np.float32)
    answers = at_once([lambda: servable.predict("slow", {"x": x}) for _ in range(12)])
    refused = [answer for answer in answers if isinstance(answer, ServingError)]
    assert 0 < len(refused) < 12
    assert {answer.code for answer in refused} == {"UNAVAILABLE"}
    assert "full" in refused[0].message


def test_what_does_not_fit_a_batch(servable):
    assert can_batch(servable.signature(""))
    assert not can_batch(servable.signature("any_width"))
    answer = servable.predict("any_width", {"x": np.ones([2, 5], np.float32)})
    np.testing.assert_array_equal(answer["y"], [5, 5])
    assert servable.predict("", {"x": np.zeros([0, 2], np.float32)})["y"].shape == (0,)
    with pytest.raises(ServingError, match="Task size 9 is larger than maximum input batch size 8"):
        servable.predict("", {"x": np.zeros([9, 2], np.float32)})


def test_a_batching_parameters_file(tmp_path):
    file = tmp_path / "batching.config"
    file.write_text(
        "max_batch_size { value: 32 } batch_timeout_micros { value: 500 }\n"
        'allowed_batch_sizes: 8 allowed_batch_sizes: 32 thread_pool_name { value: "pool" }'
    )
    batching = read_batching(file)
    given = {"max_batch_size": 32, "batch_timeout_micros": 500, "thread_pool_name": "pool"}
    assert batching == Batching(**given, allowed_batch_sizes=(8, 32))
    assert batching.max_enqueued_batches == 10, "TF Serving's default"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_batch_size { value: 0 }", "`max_batch_size`"),
        ("allowed_batch_sizes: 4", "`allowed_batch_sizes`"),
        ("max_batch_size { value: 4 } allowed_batch_sizes: [4, 2, 4]", "ascend"),
        ("pad_variable_length_inputs: true", "`pad_variable_length_inputs`"),
        ("max_batch: 3", "max_batch"),
    ],
)
def test_batching_parameters_that_cannot_be(tmp_path, text, words):
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_batching(tmp_path / "file")


def test_errors_are_one_short_sentence_without_names_of_nodes(tmp_path):
    servable = SavedModelServable(saved(export_various))
    image = {"image_bytes": np.array([b"no image"], object)}
    with pytest.raises(ServingError, match=r"^Unknown image file format[^\n{]*$") as caught:
        servable.predict("image_shape", image)
    assert caught.value.code == "INVALID_ARGUMENT"
    with pytest.raises(ServingError, match=r"no saved_model\.pb") as caught:
        SavedModelServable(tmp_path)
    assert caught.value.code == "NOT_FOUND"


def test_image_bombs_are_told_by_their_headers():
    for size in ((9000, 9000), (2**31 - 1, 2**31 - 1), (60000, 60000)):
        with pytest.raises(ServingError, match="at most 67108864 pixels"):
            check_image_size([b"text", png_header(*size)])
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "JPEG")
    files = [file.getvalue(), file.getvalue()[:20], png_header(8000, 8000)]
    check_image_size([*files, b"", b"\xff\xd8\xff", b"\x89PNG", "text"])
