"""Forms of the depthwise branches of one Multiception, forward and backward, compiled.

Backends whose compiler does not know depthwise convolutions well (JAX on a CPU) may do better
with another form of the same numbers; these are the candidates.
"""

import math

import keras
import numpy as np
from keras import ops

import keras_multiception as km
from keras_multiception.machine import gpu_names
from training.benchmarks.plan import Case, Job
from training.benchmarks.roofline import PASSES

# the stages of a CIFAR ResNet: (height, width, channels) and kernel sizes
STAGES = {
    (32, 32, 16): (3, 5, 7),
    (16, 16, 32): (3, 5),
    (8, 8, 64): (3, 3),
}


def make_jobs(plan, forms):
    """Make a measurement of each form.

    Args:
        plan: A `Plan`.
        forms: Those of its forms that can be measured here.

    Returns:
        A dictionary from `Case` to `Job`.
    """
    rng = np.random.default_rng(0)
    dtype = _dtype(plan)
    jobs = {}
    for image, sizes in STAGES.items():
        x = ops.convert_to_tensor(rng.normal(size=(plan.batch_size, *image)), dtype)
        kernels = [
            ops.convert_to_tensor(rng.normal(size=(k, k, image[-1], 1)), dtype) for k in sizes
        ]
        for form, sum_of_squares in SUMS.items():
            if form in forms:
                case = Case._make((*_what(plan, image), form))
                jobs[case] = _forward_and_backward(sum_of_squares, x, kernels)
    return jobs


def work(plan):
    """Count what the branches compute and move, as `training.benchmarks.roofline` does.

    Args:
        plan: A `Plan`.

    Returns:
        A dictionary from task, name, type of convolution and batch size to that of `count_work`.
    """
    bytes_each = np.dtype(_dtype(plan)).itemsize
    counts = {}
    for image, sizes in STAGES.items():
        numbers = plan.batch_size * math.prod(image)
        counts[_what(plan, image)] = {
            "flop": PASSES * 2 * numbers * sum(k * k for k in sizes),
            "bytes": PASSES * bytes_each * numbers * (1 + len(sizes)),
        }
    return counts


def _dtype(plan):
    return keras.DTypePolicy(plan.dtype_policy).compute_dtype


def _what(plan, image):
    """Return the first fields of the `Case` of branches."""
    sizes = "-".join(map(str, STAGES[image]))
    return (
        "branches",
        f"branches {sizes}, {image[0]}x{image[1]}x{image[2]}",
        "multiception",
        plan.batch_size,
    )


def grouped(x, kernels):
    """A depthwise convolution for each kernel, which JAX runs as a grouped convolution."""
    return [ops.depthwise_conv(x, kernel, padding="same") for kernel in kernels]


def padded(x, kernels):
    """One depthwise convolution with a multiplier, the kernels padded to the largest."""
    return _split(ops.depthwise_conv(x, _same_size(kernels), padding="same"), len(kernels))


def diagonal(x, kernels):
    """One full convolution whose kernel has the depthwise ones on its diagonal and zeros else.

    That is many times the arithmetic, which is what tensor cores have to spare.
    """
    eye = ops.eye(x.shape[-1], dtype=x.dtype)
    stack = _same_size(kernels)
    full = ops.concatenate([stack[..., i, None] * eye for i in range(len(kernels))], axis=-1)
    return ops.split(ops.conv(x, full, padding="same"), len(kernels), axis=-1)


def _same_size(kernels):
    """Pad kernels with zeros to the largest of them, as one kernel with a multiplier."""
    largest = max(kernel.shape[0] for kernel in kernels)
    margins = [(largest - kernel.shape[0]) // 2 for kernel in kernels]
    padded = [
        ops.pad(kernel, [[margin] * 2, [margin] * 2, [0, 0], [0, 0]])
        for kernel, margin in zip(kernels, margins, strict=True)
    ]
    return ops.concatenate(padded, axis=-1)


def _split(y, count):
    """Split the output of a depthwise convolution with a multiplier into that of each kernel."""
    y = ops.reshape(y, (*y.shape[:-1], y.shape[-1] // count, count))
    return [y[..., index] for index in range(count)]


def diagonals(x, kernels):
    """As `diagonal`, but a full convolution for each kernel, in its own size."""
    eye = ops.eye(x.shape[-1], dtype=x.dtype)
    return [ops.conv(x, kernel * eye, padding="same") for kernel in kernels]


def shifted(x, kernels):
    """A sum of products of the image, shifted, with one entry of the kernel each."""
    reach = max(kernel.shape[0] for kernel in kernels) // 2
    line = ops.pad(x, [[0, 0], [reach, reach], [reach, reach], [0, 0]])
    height, width = x.shape[1:3]

    def apply(kernel):
        size = kernel.shape[0]
        first = reach - size // 2
        return sum(
            line[:, first + i : first + i + height, first + j : first + j + width]
            * kernel[i, j, :, 0]
            for i in range(size)
            for j in range(size)
        )

    return [apply(kernel) for kernel in kernels]


def ours(x, kernels):
    """What the layers take on this backend, if they have a fast form for branches alone."""
    fast = km.kernels.fast_forms()
    sizes = [kernel.shape[:2] for kernel in kernels]
    if fast is None or not fast.takes_depthwise_branches(x, sizes, (1, 1)):
        return grouped(x, kernels)
    return fast.depthwise_branches(x, kernels)


def pallas(x, kernels):
    """Kernels of our own, on JAX."""
    from keras_multiception.kernels import pallas_kernels

    return pallas_kernels.branches(x, kernels)


FORMS = {
    "grouped": grouped,
    "padded": padded,
    "diagonal": diagonal,
    "diagonals": diagonals,
    "shifted": shifted,
    "pallas": pallas,
    "ours": ours,
}


def _sum_of_squares(function):
    """Return the function of a form's outputs that stands for the batch norm behind them.

    As that does, it reads all of them, and its gradient is theirs times a number.
    """
    return lambda x, kernels: sum(
        ops.sum(ops.square(ops.cast(y, "float32"))) for y in function(x, kernels)
    )


def _sum_of_squares_by_moments(x, kernels):
    """Return the same from the moments that the kernels write, as a batch norm would."""
    from keras_multiception.kernels import pallas_kernels

    outputs, moments = pallas_kernels.branches_and_moments(x, kernels)
    mean, variance = moments[:, 0], moments[:, 1]
    pixels = outputs[0].size // outputs[0].shape[-1]
    return pixels * ops.sum(ops.square(mean) + variance)


SUMS = {form: _sum_of_squares(function) for form, function in FORMS.items()}
SUMS |= {"pallas_moments": _sum_of_squares_by_moments}


def _forward_and_backward(loss, x, kernels):
    compiled = {"tensorflow": _tensorflow, "jax": _jax}[keras.backend.backend()](loss)
    # a GPU is given several at a time: to hear that one is done takes longer than some of them
    calls = 20 if gpu_names() else 1

    def call():
        values = [compiled(x, kernels)[0] for _ in range(calls)]
        return keras.ops.convert_to_numpy(values[-1])

    return Job(call, calls)


def _tensorflow(loss):
    import tensorflow as tf

    @tf.function(autograph=False)
    def run(x, kernels):
        with tf.GradientTape() as tape:
            tape.watch((x, kernels))
            value = loss(x, kernels)
        return value, tape.gradient(value, (x, kernels))

    return run


def _jax(loss):
    import jax

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
