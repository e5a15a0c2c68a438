"""Initializers of the paper's experiments, in the terms of Keras.

PyTorch's `kaiming_normal_` draws from a normal distribution that is not truncated and takes the
fans of a depthwise kernel from one channel, where Keras counts all of them: on a
`(k, k, channels, 1)` kernel, PyTorch's fan-in `k * k` is what Keras calls fan-out, and the other
way round.
"""

from typing import Any

import keras


def he_normal(mode: str = "fan_in") -> keras.initializers.Initializer:
    """He-normal initializer of a full or pointwise convolution.

    `mode` is `"fan_in"` (the paper's ResNets) or `"fan_out"` (its MobileNetV2 and Shake-Shake).
    """
    return keras.initializers.VarianceScaling(2.0, mode, "untruncated_normal")


def depthwise_he_normal(mode: str = "fan_in") -> keras.initializers.Initializer:
    """He-normal initializer of a depthwise convolution, with PyTorch's meaning of `mode`.

    `"fan_in"` is the area of the kernel, `"fan_out"` the area times the channels.
    """
    return he_normal({"fan_in": "fan_out", "fan_out": "fan_in"}[mode])


def uniform_bias(fan_in: int) -> keras.initializers.Initializer:
    """PyTorch's initializer of a bias (and of a dense kernel): uniform in +-1 / sqrt(fan_in)."""
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


def branch_initializer(initializer: Any, index: int) -> Any:
    """Copy an initializer so that it draws other values in each branch of a layer.

    A Keras initializer object repeats its draws: two branches of one kernel size would start
    equal, and by symmetry stay equal in training.

    The branch's index is added to an integer seed. Returned as they are: other callables,
    initializers without a seed in their config, and those that draw from a
    `keras.random.SeedGenerator`, which repeats nothing.
    """
    if not isinstance(initializer, keras.initializers.Initializer) or isinstance(
        getattr(initializer, "seed", None), keras.random.SeedGenerator
    ):
        return initializer
    config = initializer.get_config()
    if "seed" not in config:
        return initializer
    if isinstance(config["seed"], int):
        config["seed"] += index
    return type(initializer).from_config(config)
