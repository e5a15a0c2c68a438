"""The peers of PyTorch: eager, compiled, and its ONNX file in ONNX Runtime and OpenVINO."""

import contextlib
import copy
import io
import logging
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from training.benchmarks.runner import Case, Plan
from training.benchmarks.torch_networks import CLASSES, create_model

_WARMING_STEPS = 2
_MANY = 64  # shapes; more than `torch.compile` compiles for otherwise


def prepare(form: str, name: str, conv: str, plan: Plan) -> Iterator[tuple[Case, Callable]]:
    """Build a network and what to measure on it.

    Inference is measured on networks that were trained for two steps: until then, the memory that
    PyTorch asks for comes page by page from the system, and inference takes twice as long.
    """
    torch.manual_seed(0)
    torch.set_num_threads(plan.threads)
    network, size = create_model(name, conv), 96 if name == "mobilenetv2" else 32
    classifier = nn.Sequential(network, nn.Softmax(1))
    rng = np.random.default_rng(0)

    def images(count: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=(count, 3, size, size)).astype("float32"))

    _, _, engine = form.partition("_")
    if engine in ("onnxruntime", "openvino"):
        if "inference" in plan.tasks:
            run = _open(classifier.eval(), images(2), engine, plan.threads)
            for count in plan.inference_batch_sizes:
                yield Case("inference", count), _bind(run, images(count).numpy())
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    place: dict[str, Any] = {"device": device, "memory_format": torch.channels_last}
    prepared = _compile if engine else (lambda network: network)
    step = _make_step(prepared(network.to(**place)), images(plan.batch_size).to(**place))
    if "train_step" in plan.tasks:
        yield Case("train_step", plan.batch_size), step
    if "inference" in plan.tasks:
        for _ in range(_WARMING_STEPS):
            step()
        classify = prepared(copy.deepcopy(classifier).eval())
        answer = torch.inference_mode()(lambda x: classify(x).cpu().numpy())
        for count in plan.inference_batch_sizes:
            yield Case("inference", count), _bind(answer, images(count).to(**place))


def _bind(run: Callable, batch: Any) -> Callable[[], Any]:
    return lambda: run(batch)


def _compile(network: nn.Module) -> Any:
    import torch._dynamo.config
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = _MANY
    torch._inductor.config.compile_threads = 1  # in this process
    torch._inductor.config.freezing = True  # at inference
    return torch.compile(network, dynamic=False)


def _open(network: nn.Module, images: torch.Tensor, engine: str, threads: int) -> Callable:
    """Open a network's ONNX file as a user of an engine does."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "model.onnx")
        batch = {0: torch.export.Dim("batch")}
        logging.disable(logging.WARNING)
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            torch.onnx.export(
                network, (images,), path, dynamic_shapes=(batch,), external_data=False
            )
        if engine == "onnxruntime":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
            name = session.get_inputs()[0].name
            return lambda images: session.run(None, {name: images})[0]
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # sends nothing
        import openvino

        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
        return lambda images: request.infer({0: images})[0]


def _make_step(network: Any, x: torch.Tensor) -> Callable[[], float]:
    y = torch.randint(CLASSES, (len(x),), device=x.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, nesterov=True)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
