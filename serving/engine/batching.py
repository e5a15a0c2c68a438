"""Dynamic batching: concurrent calls of a signature run as one, through TensorFlow's scheduler.

The scheduler is that of `tf.nondifferentiable_batch_function`, which is TF Serving's own. The raw
operation is called here for the one thing that function leaves out: a name for each queue. Without
it all versions of a model, and all models, would share one queue and mix their answers; with it
they share only the threads, and a version that is unloaded leaves none behind.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from serving.config_files import BatchingParameters, read_config
from serving.engine.servable import Signature

_QUEUE_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Batching:
    """How to batch, in TF Serving's words and with its defaults."""

    max_batch_size: int = 1000  # rows that run at once, and that one request may have
    batch_timeout_micros: int = 0  # to wait for more rows
    max_enqueued_batches: int = 10  # full batches that wait; requests beyond are UNAVAILABLE
    num_batch_threads: int = os.cpu_count() or 1  # batches that run at the same time
    thread_pool_name: str = "batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()  # that batches are padded to; none pads nothing

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
        sizes = self.allowed_batch_sizes
        if sizes and (
            list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != self.max_batch_size
        ):
            raise ValueError(
                "`allowed_batch_sizes` must ascend and end with `max_batch_size`, "
                f"{self.max_batch_size}. Received: allowed_batch_sizes={list(sizes)}"
            )


def read_batching(path: str | Path) -> Batching:
    """Reads a `BatchingParameters` file; what it leaves out has its default."""
    message = read_config(path, BatchingParameters)
    if message.pad_variable_length_inputs:
        raise ValueError(
            "`pad_variable_length_inputs` must be left out: TensorFlow's scheduler pads the batch "
            "only. Received: pad_variable_length_inputs=True"
        )
    values = {
        field.name: getattr(message, field.name).value
        for field, _ in message.ListFields()
        if field.message_type is not None
    }
    return Batching(**values, allowed_batch_sizes=tuple(message.allowed_batch_sizes))


def can_batch(signature: Signature) -> bool:
    """Whether all inputs have a free first dimension and no other, and all outputs one to split."""
    inputs = [spec.shape for spec in signature.inputs.values()]
    outputs = [spec.shape for spec in signature.outputs.values()]
    return (
        bool(inputs)
        and all(shape.rank and shape[0] is None for shape in (*inputs, *outputs))
        and all(shape[1:].is_fully_defined() for shape in inputs)
    )


def batched(
    function: Callable[..., dict[str, tf.Tensor]], signature: Signature, batching: Batching
) -> Callable[[Sequence[tf.Tensor]], Sequence[tf.Tensor]]:
    """The batched form of a signature's function, from tensors to tensors in its order."""
    specs = [tf.TensorSpec(s.shape, s.dtype) for s in signature.inputs.values()]

    @tf.function(input_signature=specs, autograph=False)
    def whole_batch(*tensors: tf.Tensor) -> list[tf.Tensor]:
        outputs = function(**dict(zip(signature.inputs, tensors, strict=True)))
        return [outputs[name] for name in signature.outputs]

    computation = whole_batch.get_concrete_function()
    captured, types = computation.captured_inputs, [o.dtype for o in computation.outputs]
    queue = f"{signature.name}_{next(_QUEUE_NUMBERS)}"
    scheduler = repr(batching)  # one keeps the parameters of its first user

    def one_request(tensors: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        return tf.raw_ops.BatchFunction(
            in_tensors=tensors,
            captured_tensors=captured,
            f=computation,
            Tout=types,
            max_batch_size=batching.max_batch_size,
            batch_timeout_micros=batching.batch_timeout_micros,
            max_enqueued_batches=batching.max_enqueued_batches,
            num_batch_threads=batching.num_batch_threads,
            allowed_batch_sizes=list(batching.allowed_batch_sizes),
            shared_name=scheduler,
            batching_queue=queue,
            enable_large_batch_splitting=True,
        )

    return one_request
