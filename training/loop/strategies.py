"""How to run a recipe: on which devices and with which compiler, with the same outcome."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

from training.recipe import Check, require_fields

STRATEGIES = ("none", "mirrored", "multi_worker")
LOOPS = ("keras", "device")
JIT: dict[str, str | bool] = {"auto": "auto", "true": True, "false": False}

_TF_CONFIG = (
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
)


def _option(default: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


@dataclasses.dataclass(frozen=True)
class Execution:
    """How to run a recipe, with the same outcome but for rounding; the options of the command.

    But with a strategy, each device draws the same numbers, as of Shake-Shake, for its part.
    """

    strategy: str = _option("none", "one device, all GPUs, or those of TF_CONFIG", STRATEGIES)
    cpu_replicas: int = _option(0, "with mirrored: parts of the CPU in place of GPUs, as a trial")
    jit: str = _option("auto", "whether to compile with XLA; auto is Keras' choice", (*JIT,))
    steps_per_execution: int = _option(1, "steps between two looks at the loss")
    loop: str = _option(
        "keras",
        "keras is model.fit; device compiles whole epochs over images in the memory of one device, "
        "for small networks on a GPU and JAX",
        LOOPS,
    )

    def __post_init__(self) -> None:
        require_fields(self, self._checks())

    def _checks(self) -> Iterator[Check]:
        alone = self.strategy == "none"
        yield "strategy", self.strategy in STRATEGIES, f"one of {', '.join(STRATEGIES)}"
        fits = self.cpu_replicas >= 0 and (self.strategy == "mirrored" or not self.cpu_replicas)
        yield "cpu_replicas", fits, "at least 0, and 0 unless `strategy` is mirrored"
        fits = self.jit in (JIT if alone else ("auto", "false"))
        yield "jit", fits, "one of auto, true, false, and not true with a strategy"
        yield "steps_per_execution", self.steps_per_execution >= 1, "at least 1"
        alone = alone and self.jit != "false" and self.steps_per_execution == 1
        fits = self.loop == "keras" or (self.loop == "device" and alone)
        others = "a strategy, without jit or with `steps_per_execution`"
        yield "loop", fits, f"keras or device, and not device with {others}"


def make_strategy(execution: Execution) -> Any:
    """Return a `tf.distribute.Strategy`, or `None` for one device (before TensorFlow is used)."""
    import keras  # takes seconds; the command line needs the names above

    backend = keras.backend.backend()
    for name, default, needed in (("strategy", "none", "tensorflow"), ("loop", "keras", "jax")):
        if (value := getattr(execution, name)) != default and backend != needed:
            raise ValueError(
                f"`{name}` must be {default} unless the backend of Keras is {needed} "
                f"(KERAS_BACKEND={needed}). Received: {name}={value} on {backend}"
            )
    if execution.strategy == "none":
        return None
    if execution.strategy == "mirrored":
        return _mirrored(execution.cpu_replicas)
    return _multi_worker()


def scope_of(strategy: Any) -> contextlib.AbstractContextManager:
    """Return the context in which to make variables."""
    return strategy.scope() if strategy else contextlib.nullcontext()


def count_replicas(strategy: Any) -> int:
    """Return over how many devices each batch is divided."""
    return strategy.num_replicas_in_sync if strategy else 1


def is_chief(strategy: Any) -> bool:
    """Return whether this process is the one that writes."""
    resolver = strategy.cluster_resolver if strategy else None
    if resolver is None or resolver.task_type == "chief":
        return True
    return resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs


@contextlib.contextmanager
def reporting_lost_workers(strategy: Any) -> Iterator[None]:
    """Turn what TensorFlow says when another worker is gone into a `ConnectionError`."""
    if not strategy:
        yield
        return
    import tensorflow as tf

    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        reason = error.message.splitlines()[0]
        raise ConnectionError(
            f"another worker is lost, so start all of them again ({reason})"
        ) from error


def sum_over_replicas(strategy: Any, value: int) -> int:
    """Wait for all replicas, and return the sum of what each process gives for each of its own."""
    if not strategy:
        return value
    import tensorflow as tf

    @tf.function
    def sum_() -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(lambda: tf.constant(value)), axis=None)

    return int(sum_())


def _mirrored(cpu_replicas: int) -> Any:
    import tensorflow as tf

    if cpu_replicas:
        part = tf.config.LogicalDeviceConfiguration()
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [part] * cpu_replicas)
        return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(cpu_replicas)])
    if not tf.config.list_physical_devices("GPU"):
        raise ValueError(
            '`strategy` must not be "mirrored" where TensorFlow sees no GPU, unless '
            "`cpu_replicas` is given. Received: strategy=mirrored"
        )
    return tf.distribute.MirroredStrategy()


def _multi_worker() -> Any:
    import tensorflow as tf

    text = os.environ.get("TF_CONFIG", "")
    try:
        if "cluster" not in text:  # TensorFlow would take this for a cluster of one
            raise ValueError("it names no cluster")
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"`TF_CONFIG` must be set in the environment and have the form {_TF_CONFIG}, with the "
            f"index of this process, to join a cluster ({error}). Received: TF_CONFIG={text}"
        ) from error
