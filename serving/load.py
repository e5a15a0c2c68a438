"""Load for a server: how requests are sent, how often, and the server's own process."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def closed_loop(
    send: Callable[[], object], clients: int, seconds: float
) -> tuple[np.ndarray, float]:
    """Lets clients send one request after the other.

    Args:
        send: Sends a request and waits for the answer.
        clients: How many send at once.
        seconds: For how long.

    Returns:
        How long each answer took, and how long it was until the last, in seconds.
    """
    started = time.perf_counter()
    end = started + seconds

    def client(_) -> list[float]:
        took = []
        while (begun := time.perf_counter()) < end:
            send()
            took.append(time.perf_counter() - begun)
        return took

    with ThreadPoolExecutor(clients) as pool:
        took = np.concatenate(list(pool.map(client, range(clients))))
    return took, time.perf_counter() - started


def open_loop(
    send: Callable[[], object], clients: int, seconds: float, rate: float
) -> tuple[np.ndarray, float]:
    """Sends requests at a fixed rate.

    Args:
        send: Sends a request and waits for the answer.
        clients: How many may wait for answers at once.
        seconds: For how long.
        rate: Requests per second.

    Returns:
        How long after its due time each answer came, and how long it was until the last, in
        seconds.
    """
    begun = time.perf_counter()

    def one(due: float) -> float:
        time.sleep(max(0.0, begun + due - time.perf_counter()))
        send()
        return time.perf_counter() - begun - due

    with ThreadPoolExecutor(clients) as pool:
        took = np.array(list(pool.map(one, np.arange(0, seconds, 1 / rate))))
    return took, max(seconds, time.perf_counter() - begun)


def rest_sender(url: str, model: str, signature_name: str, image: np.ndarray):
    """Makes what sends one image over REST, with a connection for each thread.

    Args:
        url: The server's URL.
        model: The model's name.
        signature_name: The signature that takes images.
        image: The image.

    Returns:
        A function without arguments.
    """
    import http.client

    body = json.dumps({"signature_name": signature_name, "instances": [image.tolist()]}).encode()
    local = threading.local()

    def send() -> bytes:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        local.connection.request("POST", f"/v1/models/{model}:predict", body)
        response = local.connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"The server answered {response.status}: {answer[:200]!r}")
        return answer

    return send


def grpc_sender(address: str, model: str, signature_name: str, image: np.ndarray, input_name: str):
    """Makes what sends one image over gRPC; see `rest_sender`."""
    import grpc
    from tensorflow.core.framework import tensor_pb2, types_pb2
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature_name
    kinds = {"uint8": types_pb2.DT_UINT8, "float32": types_pb2.DT_FLOAT}
    tensor = tensor_pb2.TensorProto(dtype=kinds[image.dtype.name], tensor_content=image.tobytes())
    for size in (1, *image.shape):
        tensor.tensor_shape.dim.add(size=size)
    request.inputs[input_name].CopyFrom(tensor)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address))

    def send():
        try:
            return stub.Predict(request, timeout=60)
        except grpc.RpcError as error:  # which another process could not be told
            raise RuntimeError(
                f"The server answered {error.code().name}: {error.details()}"
            ) from None

    return send


@contextlib.contextmanager
def running_server(flags: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Runs `python -m serving.server` on free ports for the length of a `with` block.

    Args:
        flags: Its flags.

    Yields:
        REST's URL, gRPC's address and the process' number.

    Raises:
        RuntimeError: If the server does not start.
    """
    command = [sys.executable, "-m", "serving.server", "--port=0", "--rest_api_port=0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = [next(iter(process.stdout or ()), "").strip() for _ in range(2)]
            if " at http" not in lines[0]:
                raise RuntimeError("The server did not start: see the message above.")
            url, address = lines[0].split(" at ")[-1], lines[1].split(" at ")[-1]
            yield url.split("/v1/")[0], address, process.pid
        finally:
            process.terminate()
            process.wait(timeout=60)
