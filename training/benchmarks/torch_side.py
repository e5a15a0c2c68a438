"""The side of PyTorch: the reference in both memory layouts, in a process of its own."""

import copy

import numpy as np
import torch

from training.benchmarks import torch_reference
from training.benchmarks.plan import Case, Job

LAYOUTS = {
    "torch_channels_last": torch.channels_last,
    "torch_channels_first": torch.contiguous_format,
}
IMAGE_SIZES = {"mobilenetv2": 96}
_CLASSES = 10
_WARMING_STEPS = 2


def make_jobs(plan):
    """Build the networks and return what to measure on them.

    Inference is measured on networks that were trained for two steps: until then, the memory that
    PyTorch asks for comes page by page from the system, and inference takes twice as long.

    Args:
        plan: A `Plan`.

    Returns:
        A dictionary from `Case` to `Job`, and a list of sentences on what was left out.
    """
    torch.manual_seed(0)
    torch.set_num_threads(plan.threads)
    jobs: dict = {}
    left_out = []
    for name, conv in plan.networks():
        try:
            network = torch_reference.create_model(name, conv)
        except (ValueError, KeyError) as error:
            left_out.append(f"PyTorch, {name} with {conv}: {error}")
            continue
        for form in LAYOUTS:
            if form in plan.forms:
                jobs |= _jobs(plan, network, name, conv, form)
    return jobs, left_out


def environment(plan):
    """Return versions, devices and threads.

    Args:
        plan: A `Plan`.

    Returns:
        A dictionary fit for JSON.
    """
    return {
        "backend": "torch",
        "onednn": "on" if torch.backends.mkldnn.is_available() else "off",
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": {"torch": torch.__version__},
    }


def _jobs(plan, network, name, conv, form):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    place: dict = {"device": device, "memory_format": LAYOUTS[form]}
    trained = copy.deepcopy(network).to(**place)
    size = IMAGE_SIZES.get(name, 32)

    def images(count):
        x = np.random.default_rng(0).normal(size=(count, 3, size, size))
        return torch.tensor(x, dtype=torch.float32).to(**place)

    step = _make_step(trained, images(plan.batch_size))
    jobs = {}
    if "train_step" in plan.tasks:
        jobs[Case("train_step", name, conv, plan.batch_size, form)] = Job(step)
    if "inference" in plan.tasks:
        for _ in range(_WARMING_STEPS):
            step()
        ready = copy.deepcopy(trained).eval()
        for count in plan.inference_batch_sizes:
            case = Case("inference", name, conv, count, form)
            jobs[case] = Job(_make_inference(ready, images(count)))
    return jobs


def _make_step(network, x):
    network.train()
    y = torch.randint(_CLASSES, (len(x),), device=x.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, nesterov=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _make_inference(network, x):
    @torch.inference_mode()
    def call():
        return network(x).softmax(1).cpu().numpy()

    return call
