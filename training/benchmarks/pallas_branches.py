"""Depthwise branches on a GPU as kernels of our own, in Pallas: a candidate, for JAX.

The image is read from memory once for all branches, and what batch norm needs to know of their
outputs is summed while those are still in registers. A program works on some rows of one image;
the entries of the kernels reach it as shifted views of the image, which the caches hold.

On a CPU, Pallas interprets the kernels. That shows what they compute, not how fast.
"""

import functools
import math

import jax
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

_NUMBERS = 2048  # of one program's part of an image: what registers hold for every branch


def runs_here():
    """Say whether the kernels are compiled on this machine, and not interpreted."""
    return jax.default_backend() == "gpu"


@jax.custom_vjp
def branches(x, kernels):
    """Apply depthwise convolutions of several sizes to one input, "same" at stride 1.

    They have first-order gradients, in reverse mode.

    Args:
        x: Array of shape (batch, height, width, channels); all but the batch powers of two.
        kernels: List of arrays of shape (height, width, channels, 1), odd sizes.

    Returns:
        A list of arrays of the shape and type of `x`, one for each kernel, and a float32 array
        of shape (kernels, 2, channels): the mean of every channel over batch and pixels, and the
        mean of the squared distances from it, as batch norm takes them.
    """
    parts = (x.shape[0], x.shape[1] // _rows(x), x.shape[3])
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype)] * len(kernels)
    shapes += [jax.ShapeDtypeStruct((len(kernels), *parts), jnp.float32)] * 2
    *outputs, means, squares = _call(_forward, x, shapes)(x, *_without_multiplier(kernels))
    pixels = math.prod(x.shape[:3])
    mean = means.mean((1, 2))
    squares = squares.sum((1, 2)) / pixels + jnp.var(means, (1, 2))
    return outputs, jnp.stack([mean, squares], 1)


def _branches_forward(x, kernels):
    outputs, statistics = branches(x, kernels)
    return (outputs, statistics), (x, kernels, outputs, statistics)


def _branches_backward(saved, gradients):
    x, kernels, outputs, statistics = saved
    pixels = math.prod(x.shape[:3])
    whole = []
    for y, gradient, (mean, _), (to_mean, to_variance) in zip(
        outputs, gradients[0], statistics, gradients[1], strict=True
    ):
        of_statistics = (to_mean + 2 * to_variance * (y - mean)) / pixels
        whole.append((gradient + of_statistics).astype(x.dtype))
    flat = _without_multiplier(kernels)
    to_x = _call(_input_gradient, x, jax.ShapeDtypeStruct(x.shape, x.dtype))(*whole, *flat)
    parts = (x.shape[0], x.shape[1] // _rows(x))
    shapes = [jax.ShapeDtypeStruct((*parts, *kernel.shape), jnp.float32) for kernel in flat]
    to_kernels = _call(_kernel_gradients, x, shapes)(x, *whole)
    return to_x, [
        part.sum((0, 1))[..., None].astype(kernel.dtype)
        for part, kernel in zip(to_kernels, kernels, strict=True)
    ]


branches.defvjp(_branches_forward, _branches_backward)


def _call(kernel, x, shapes):
    """Return a function that runs a kernel for every part of the images `x`."""
    rows = _rows(x)
    return pl.pallas_call(
        functools.partial(kernel, rows=rows),
        grid=(x.shape[0], x.shape[1] // rows),
        out_shape=shapes,
        interpret=not runs_here(),
        compiler_params=triton.CompilerParams(num_warps=4),
    )


def _rows(x):
    """Return how many rows of an image one program takes: a power of two, as all it holds."""
    return min(x.shape[1], max(1, _NUMBERS // math.prod(x.shape[2:])))


def _without_multiplier(kernels):
    return [kernel[..., 0] for kernel in kernels]


def _forward(x, *refs, rows):
    """Write every branch of this program's part, and its means and sums of squared distances."""
    kernels, outputs = _halves(refs[:-2])
    means, squares = refs[-2:]
    image, part = pl.program_id(0), pl.program_id(1)
    sums = [jnp.float32(0)] * len(kernels)
    for i, j in _shifts(kernels):
        view = _view(x, rows, i, j)
        for index, kernel in enumerate(kernels):
            if _is_in(kernel, i, j):
                sums[index] += view * _entry(kernel, i, j)
    for index, y in enumerate(sums):
        y = y.astype(outputs[index].dtype)  # the statistics are those of what is written
        outputs[index][image, pl.ds(part * rows, rows)] = y
        y = y.astype(jnp.float32)
        mean = y.sum((0, 1)) / math.prod(y.shape[:2])
        means[index, image, part] = mean
        squares[index, image, part] = jnp.square(y - mean).sum((0, 1))


def _input_gradient(*refs, rows):
    """Write the gradient of this program's part of the image, the sum over the branches."""
    gradients, kernels = _halves(refs[:-1])
    output = refs[-1]
    total = jnp.float32(0)
    for gradient, kernel in zip(gradients, kernels, strict=True):
        for i, j in _shifts([kernel]):
            total += _view(gradient, rows, -i, -j) * _entry(kernel, i, j)
    output[pl.program_id(0), pl.ds(pl.program_id(1) * rows, rows)] = total.astype(output.dtype)


def _kernel_gradients(x, *refs, rows):
    """Write what this program's part of the image adds to the gradients of the kernels."""
    gradients, outputs = _halves(refs)
    image, part = pl.program_id(0), pl.program_id(1)
    factors = [_view(gradient, rows, 0, 0) for gradient in gradients]
    kernels = [output.at[0, 0] for output in outputs]
    for i, j in _shifts(kernels):
        view = _view(x, rows, i, j)
        for factor, kernel, output in zip(factors, kernels, outputs, strict=True):
            if _is_in(kernel, i, j):
                height, width, _ = kernel.shape
                entry = (view * factor).sum((0, 1))
                output[image, part, i + height // 2, j + width // 2] = entry


def _halves(refs):
    return refs[: len(refs) // 2], refs[len(refs) // 2 :]


def _shifts(kernels):
    """List the shifts (i, j) from its middle that the entries of any of the kernels stand for."""
    rows, columns = (max(kernel.shape[axis] for kernel in kernels) // 2 for axis in (0, 1))
    return [(i, j) for i in range(-rows, rows + 1) for j in range(-columns, columns + 1)]


def _is_in(kernel, i, j):
    return abs(i) <= kernel.shape[0] // 2 and abs(j) <= kernel.shape[1] // 2


def _entry(kernel, i, j):
    height, width, _ = kernel.shape
    return kernel[i + height // 2, j + width // 2].astype(jnp.float32)


def _view(images, rows, i, j):
    """Read this program's part of an image, shifted, with zeros from beyond the edges."""
    _, height, width, channels = images.shape
    row = pl.program_id(1) * rows + jnp.arange(rows)[:, None, None] + i
    column = jnp.arange(width)[None, :, None] + j
    channel = jnp.arange(channels)[None, None]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (channel >= 0)
    place = images.at[pl.program_id(0), row, column, channel]
    return triton.load(place, mask=inside, other=0.0).astype(jnp.float32)
