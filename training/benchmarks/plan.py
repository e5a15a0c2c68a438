"""What a benchmark is to measure, and the names of it."""

import dataclasses
import time
import typing

TASKS = {
    "train_step": "training step",
    "fit": "model.fit",
    "inference": "inference",
    "branches": "depthwise branches, forward and backward",
}
FORMS = {
    "plain": "plain Keras layers",
    "fast": "ours",
    "separate": "ours, fused: separate",
    "merged": "ours, fused: merged",
    "dense": "ours, fused: dense",
    "auto": "ours, fused: auto",
    "saved_model": "exported SavedModel",
    "litert": "LiteRT of the fused",
    "litert_threads": "LiteRT of the fused, all threads",
    "torch_channels_last": "PyTorch, channels last",
    "torch_channels_first": "PyTorch, channels first",
    # of depthwise branches alone, in results of before
    "grouped": "a depthwise convolution for each size",
    "padded": "one depthwise convolution, kernels padded",
    "diagonal": "one full convolution, kernels on its diagonal",
    "shifted": "sum of shifted products",
    "ours": "ours",
}
# what --forms takes, and the forms that it stands for
CHOICES = {
    **{form: (form,) for form in ("plain", "fast", "separate", "merged", "dense", "auto")},
    "saved_model": ("saved_model",),
    "litert": ("litert", "litert_threads"),
    "torch": ("torch_channels_last", "torch_channels_first"),
}
FUSED = ("separate", "merged", "dense", "auto")
# the forms that others are compared with, whichever was measured
BASES = {"vs_plain": ("plain", "grouped"), "vs_torch": ("torch_channels_last",)}


class Case(typing.NamedTuple):
    """One thing that is measured.

    Attributes:
        task: A key of `TASKS`, or `"limit"`.
        model: Name of a network, as of `km.list_models()`.
        conv: Type of convolution.
        batch_size: Integer, images in a step or call.
        form: A key of `FORMS`; of a limit, `"product"` or `"stream"`.
    """

    task: str
    model: str
    conv: str
    batch_size: int
    form: str


class Job(typing.NamedTuple):
    """How one thing is measured.

    Attributes:
        call: Function without arguments that does it and waits for the end.
        units: Number, how many steps or calls that is.
    """

    call: typing.Callable
    units: float = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure, and how long.

    Attributes:
        models: Tuple of names of networks.
        convs: Tuple of types of convolution.
        tasks: Tuple of keys of `TASKS`.
        forms: Tuple of keys of `FORMS`.
        batch_size: Integer, images of a training step.
        inference_batch_sizes: Tuple of integers.
        steps: Integer, the steps of one `fit`.
        rounds: Integer, how often each case has its turn.
        seconds: Float, what a turn takes at least.
        threads: Integer, the cores that every process may use.
        dtype_policy: String, the Keras dtype policy of every network.
    """

    models: tuple
    convs: tuple
    tasks: tuple
    forms: tuple
    batch_size: int = 128
    inference_batch_sizes: tuple = (1, 32, 128)
    steps: int = 5
    rounds: int = 7
    seconds: float = 0.3
    threads: int = 1
    dtype_policy: str = "float32"

    def networks(self):
        """Return the pairs of a network and a type of convolution."""
        return [(model, conv) for model in self.models for conv in self.convs]


def take_turn(job, seconds):
    """Do a job once without the clock, so that caches and memory are its own, then with it.

    Args:
        job: A `Job`.
        seconds: Float, how long to repeat it at least.

    Returns:
        The seconds of one unit, the mean over the repetitions.
    """
    job.call()
    calls, begin, gone = 0, time.perf_counter(), 0.0
    while not calls or gone < seconds:
        job.call()
        calls += 1
        gone = time.perf_counter() - begin
    return gone / (calls * job.units)
