"""A runner of the benchmark whose process has no framework to load."""

import os
import signal

from training.benchmarks.runner import Case, Job, Prepared


def prepare(plan):
    sizes = plan.inference_batch_sizes
    cases = [Case("inference", "resnet20", "dsconv", n, form) for n in sizes for form in plan.forms]
    work = {case[:4]: {"flop": 1.0, "bytes": 1.0} for case in cases}
    if plan.models == ("vgg",):
        raise ValueError("`model` must be another one. Received: model=vgg")
    if plan.models == ("absent",):
        raise ImportError("No module named 'absent'")
    if plan.models == ("killed",):
        os.kill(os.getpid(), signal.SIGKILL)
    machine = {"backend": "none", "onednn": None, "cpu": "A CPU", "threads": 1, "versions": {}}
    return Prepared({case: Job(lambda: None) for case in cases}, machine, ["x: a reason"], work)
