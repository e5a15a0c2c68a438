"""One contract for every server of an exported model: ours, TensorFlow's own, the container's.

The real ones are asked where they are: `tensorflow_model_server` on the PATH, or Docker with a
daemon that can build `serving/Dockerfile`.
"""

import base64
import contextlib
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import requests
from saved_models import png, png_header
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    prediction_service_pb2_grpc,
)
from test_floors import ROOT
from test_saved_model import notebook_answer, small_network

from serving.client import Client, ServerError
from serving.export import publish
from serving.publishing.base_path import roll_back

pytestmark = pytest.mark.slow
SECONDS = 120
SETTINGS = ROOT / "serving"
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype="uint8")
FILES = [png(pixels) for pixels in IMAGES]


@contextlib.contextmanager
def served_by_process(command, models):
    """Run a model server with the settings of the container, but for the models' folder."""
    config = models.parent / "models.config"
    config.write_text((SETTINGS / "models.config").read_text().replace("/models", str(models)))
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        grpc_port, rest_port = (each.getsockname()[1] for each in sockets)
    flags = [
        f"--port={grpc_port}",
        f"--rest_api_port={rest_port}",
        f"--model_config_file={config}",
        "--file_system_poll_wait_seconds=1",
        "--enable_batching=true",
        f"--batching_parameters_file={SETTINGS / 'batching.config'}",
        f"--monitoring_config_file={SETTINGS / 'monitoring.config'}",
    ]
    with subprocess.Popen([*command, *flags], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{rest_port}", f"127.0.0.1:{grpc_port}"
        finally:
            process.terminate()


@contextlib.contextmanager
def served_by_container(models):
    """Build the image and run it with the models' folder mounted."""
    build = ["docker", "build", "--quiet", "--file", SETTINGS / "Dockerfile", ROOT]
    image = subprocess.run(build, capture_output=True, text=True, check=True).stdout.strip()
    ports = ["--publish=127.0.0.1::8500", "--publish=127.0.0.1::8501"]
    run = ["docker", "run", "--rm", "--detach", *ports, f"--volume={models}:/models:ro", image]
    name = subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()

    def address(port):
        told = subprocess.run(["docker", "port", name, port], capture_output=True, text=True)
        return told.stdout.splitlines()[0]

    try:
        yield f"http://{address('8501')}", address("8500")
    finally:
        subprocess.run(["docker", "stop", name], capture_output=True, check=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model and the folder of models in which it is `digits`, version 1."""
    model, models = small_network(), tmp_path_factory.mktemp("contract") / "models"
    publish(model, models / "digits", "digits", top_k=3)
    models.chmod(0o755)
    models.parent.chmod(0o755)
    return model, models


@pytest.fixture(scope="module", params=["ours", "tensorflow_model_server", "container"])
def server(request, exported):
    """The REST URL and the gRPC address of a server of that model."""
    _, models = exported
    ours = [sys.executable, "-m", "serving.server"]
    command = {"ours": ours, "container": ["docker", "info"]}.get(request.param, [request.param])
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not on the PATH")
    if request.param != "container":
        serving = served_by_process(command, models)
    elif subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("there is no Docker daemon on this machine")
    else:
        serving = served_by_container(models)
    with serving as (url, address):
        wait_until(lambda: versions(url) == {1: "AVAILABLE"})
        yield url, address


def wait_until(condition):
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionError, ServerError):
            if condition():
                return
        time.sleep(0.2)
    raise AssertionError("the server did not get there in time")


def versions(url):
    """The versions and their states, but for those that have ended."""
    with Client(url, model_name="digits", timeout=SECONDS) as client:
        return {version: s for version, s in client.states().items() if s != "END"}


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server[1]) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def test_status_and_metadata(server, stub):
    url, address = server
    signatures = {"serving_default", "serving_uint8", "serving_bytes", "classify"}
    metadata = requests.get(f"{url}/v1/models/digits/metadata", timeout=SECONDS).json()
    assert signatures <= metadata["metadata"]["signature_def"]["signature_def"].keys()
    assert versions(url) == versions(f"grpc://{address}") == {1: "AVAILABLE"}
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "digits"
    message = get_model_metadata_pb2.SignatureDefMap()
    assert stub.GetModelMetadata(request).metadata["signature_def"].Unpack(message)
    assert message.signature_def["classify"].method_name == "tensorflow/serving/classify"


@pytest.mark.parametrize("api", ["REST", "gRPC"])
def test_predict(server, exported, api):
    expected = notebook_answer(exported[0], IMAGES)
    url = server[0] if api == "REST" else f"grpc://{server[1]}"
    with Client(url, model_name="digits", timeout=SECONDS) as client:
        floats = client.predict_arrays(IMAGES.astype("float32"))
        for answers in (client.predict(FILES), client.predict_arrays(IMAGES), floats):
            received = [answer.probabilities for answer in answers]
            np.testing.assert_allclose(received, expected, atol=1e-5)
            labels = expected.argmax(axis=1).astype(str).tolist()
            assert [answer.label for answer in answers] == labels


def test_classify(server, stub, exported):
    url, _ = server
    best = np.argsort(-notebook_answer(exported[0], IMAGES), axis=1)[:, :3].astype(str).tolist()
    examples = [{"image/encoded": {"b64": base64.b64encode(file).decode()}} for file in FILES]
    body = {"signature_name": "classify", "examples": examples}
    response = requests.post(f"{url}/v1/models/digits:classify", json=body, timeout=SECONDS)
    results = response.json()["results"]
    assert [[label for label, _ in result] for result in results] == best
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "digits", "classify"
    for file in FILES:
        example = request.input.example_list.examples.add()
        example.features.feature["image/encoded"].bytes_list.value.append(file)
    results = stub.Classify(request).result.classifications
    assert [[each.label for each in result.classes] for result in results] == best


def test_an_image_bomb_is_an_invalid_argument_and_calls_are_counted(server):
    url, _ = server
    bomb = base64.b64encode(png_header(65_500, 65_500)).decode()
    body = {"signature_name": "serving_bytes", "instances": [{"b64": bomb}]}
    url = f"{url}/v1/models/digits:predict"
    response = requests.post(url, json=body, timeout=SECONDS)
    assert response.status_code == 400
    assert "An image must have at most" in response.json()["error"]
    page = requests.get(f"{server[0]}/monitoring/prometheus/metrics", timeout=SECONDS).text
    assert ":tensorflow:serving:request_count" in page


@contextlib.contextmanager
def asking_all_the_while(url, expected):
    """Predict again and again; at the end every answer must have been the model's."""
    stop, answered = threading.Event(), []

    def ask():
        with Client(url, model_name="digits", timeout=SECONDS, retries=0) as client:
            while not stop.is_set():
                received = [answer.probabilities for answer in client.predict_arrays(IMAGES)]
                np.testing.assert_allclose(received, expected, atol=1e-5)
                answered.append(1)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield
        finally:
            stop.set()
        asking.result()
    assert answered


def test_a_new_version_is_taken_up_and_rolled_back_without_a_failed_request(server, exported):
    url, _ = server
    model, models = exported
    with asking_all_the_while(url, notebook_answer(model, IMAGES)):
        published = publish(model, models / "digits", "digits")
        wait_until(lambda: versions(url) == {int(published.name): "AVAILABLE"})
        roll_back(models / "digits", 1)
        wait_until(lambda: versions(url) == {1: "AVAILABLE"})
