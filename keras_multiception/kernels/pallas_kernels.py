"""Depthwise branches on a GPU as kernels of our own, in Pallas, for JAX.

The image is read from memory once for all branches: the entries of the kernels reach it as shifted
views, which the caches hold. Three kernels are each other's derivatives: `_outputs`, the
correlations of an image with every kernel; `_input`, the sum of outputs correlated with the kernels
turned round; `_products`, for every entry of a kernel the sum of its outputs times the image,
shifted. On a CPU, Pallas interprets them, which shows what they compute, not how fast.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

# of an image, what a program works on at a time: as much as its registers hold
_NUMBERS = 1024  # of every branch
_NUMBERS_OF_PRODUCTS = 512  # of a product for every entry of one row of every kernel
_NUMBERS_OF_A_ROW = 512  # at most: width times channels
_MAX_PRODUCTS = 256  # of all kernels together: what is compiled grows with them


def runs_here() -> bool:
    """Return whether the kernels are compiled on this machine, for a GPU of NVIDIA's."""
    return jax.default_backend() == "gpu" and "NVIDIA" in jax.devices()[0].device_kind


def supports(shape: tuple[Any, ...], kernel_sizes: tuple[tuple[int, int], ...]) -> bool:
    """Return whether images of a shape and kernels fit a grid and registers.

    Height, width and channels must be powers of two; sizes that are not known yet do not fit.
    """
    return (
        all(isinstance(size, int) for size in shape)
        and shape[0] < 2**16  # programs along one axis of a grid
        and all(size & (size - 1) == 0 for size in shape[1:])
        and math.prod(shape[2:]) <= _NUMBERS_OF_A_ROW
        and sum(height * width for height, width in kernel_sizes) <= _MAX_PRODUCTS
    )


def branches(x: jax.Array, kernels: list[jax.Array]) -> list[jax.Array]:
    """Compute `jax_kernels.depthwise_branches` for inputs that `supports` allows."""
    return list(_outputs(x, [kernel[..., 0] for kernel in kernels]))


@jax.custom_vjp
def _outputs(x: jax.Array, kernels: list[jax.Array]) -> list[jax.Array]:
    return _call(_forward, x, [_like(x)] * len(kernels))(x, *kernels)


def _outputs_backward(saved: tuple, gradients: list[jax.Array]) -> tuple:
    x, kernels = saved
    return _input(gradients, kernels), _typed(_products(x, gradients, _sizes(kernels)), kernels)


_outputs.defvjp(lambda x, kernels: (_outputs(x, kernels), (x, kernels)), _outputs_backward)


@jax.custom_vjp
def _input(ys: list[jax.Array], kernels: list[jax.Array]) -> jax.Array:
    return _call(_input_gradient, ys[0], _like(ys[0]))(*ys, *kernels)


def _input_backward(saved: tuple, gradient: jax.Array) -> tuple:
    ys, kernels = saved
    return _outputs(gradient, kernels), _typed(_products(gradient, ys, _sizes(kernels)), kernels)


_input.defvjp(lambda ys, kernels: (_input(ys, kernels), (ys, kernels)), _input_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _products(x: jax.Array, ys: list[jax.Array], sizes: tuple) -> list[jax.Array]:
    """Return float32 arrays of shape (height, width, channels), one for each of the sizes."""
    images, channels = x.shape[0], x.shape[-1]
    height = max(size[0] for size in sizes)
    parts = pl.pallas_call(
        functools.partial(_kernel_gradients, rows=_rows(x, _NUMBERS_OF_PRODUCTS)),
        grid=(images, height),
        out_shape=[
            jax.ShapeDtypeStruct((images, height, width, channels), jnp.float32)
            for _, width in sizes
        ],
        interpret=not runs_here(),
        compiler_params=triton.CompilerParams(num_warps=4),
    )(x, *ys)
    sums = [part.sum(0) for part in parts]  # of as many rows as the largest kernel has
    rows = [slice((height - size[0]) // 2, (height + size[0]) // 2) for size in sizes]
    return [total[middle] for total, middle in zip(sums, rows, strict=True)]


def _products_backward(sizes: tuple, saved: tuple, gradients: list[jax.Array]) -> tuple:
    x, ys = saved
    gradients = [gradient.astype(x.dtype) for gradient in gradients]
    return _input(ys, gradients), _outputs(x, gradients)


_products.defvjp(lambda x, ys, sizes: (_products(x, ys, sizes), (x, ys)), _products_backward)


def _like(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _sizes(kernels: list[jax.Array]) -> tuple[tuple[int, ...], ...]:
    return tuple(kernel.shape[:2] for kernel in kernels)


def _typed(arrays: list[jax.Array], others: list[jax.Array]) -> list[jax.Array]:
    return [array.astype(other.dtype) for array, other in zip(arrays, others, strict=True)]


def _call(kernel: Callable, x: jax.Array, shapes: Any) -> Callable:
    """Return a function that runs a kernel for every part of the images `x`."""
    rows = _rows(x)
    return pl.pallas_call(
        functools.partial(kernel, rows=rows),
        grid=(x.shape[0], x.shape[1] // rows),
        out_shape=shapes,
        interpret=not runs_here(),
        compiler_params=triton.CompilerParams(num_warps=4),
    )


def _rows(x: jax.Array, numbers: int = _NUMBERS) -> int:
    """Return how many rows of an image are taken at a time: a power of two, as all there is."""
    return min(x.shape[1], max(1, numbers // math.prod(x.shape[2:])))


def _forward(x: Any, *refs: Any, rows: int) -> None:
    """Write every branch of this program's part."""
    kernels, outputs = _halves(refs)
    for output, y in zip(outputs, _correlations(x, kernels, rows), strict=True):
        output[pl.program_id(0), pl.ds(pl.program_id(1) * rows, rows)] = y.astype(output.dtype)


def _correlations(x: Any, kernels: tuple, rows: int) -> list[jax.Array]:
    """Return the correlations of this program's part with every kernel, in float32."""
    sums = [jnp.float32(0)] * len(kernels)
    for i, j in _shifts(kernels):
        view = _view(x, pl.program_id(0), pl.program_id(1), rows, i, j)
        for index, kernel in enumerate(kernels):
            if _is_in(kernel, i, j):
                sums[index] += view * _entry(kernel, i, j)
    return sums


def _input_gradient(*refs: Any, rows: int) -> None:
    """Write the gradient of this program's part of the image, the sum over the branches."""
    gradients, kernels = _halves(refs[:-1])
    output = refs[-1]
    image, part = pl.program_id(0), pl.program_id(1)
    total = jnp.float32(0)
    for gradient, kernel in zip(gradients, kernels, strict=True):
        for i, j in _shifts([kernel]):
            total += _view(gradient, image, part, rows, -i, -j) * _entry(kernel, i, j)
    output[image, pl.ds(part * rows, rows)] = total.astype(output.dtype)


def _kernel_gradients(x: Any, *refs: Any, rows: int) -> None:
    """Write what this program's image adds to the gradients of one row of every kernel.

    Kernels of fewer rows get as many as the largest; what is too much is not used.
    """
    gradients, outputs = _halves(refs)
    image, i = pl.program_id(0), pl.program_id(1)
    row = i - pl.num_programs(1) // 2
    widths = [output.shape[2] for output in outputs]
    entries = [
        (k, j) for k, width in enumerate(widths) for j in range(-(width // 2), width // 2 + 1)
    ]

    def add(part: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        factors = [_view(gradient, image, part, rows, 0, 0) for gradient in gradients]
        views = {j: _view(x, image, part, rows, row, j) for j in sorted({j for _, j in entries})}
        return [total + views[j] * factors[k] for total, (k, j) in zip(sums, entries, strict=True)]

    zeros = jnp.zeros((rows, *x.shape[2:]), jnp.float32)
    sums = jax.lax.fori_loop(0, x.shape[1] // rows, add, [zeros] * len(entries))
    for total, (k, j) in zip(sums, entries, strict=True):
        outputs[k][image, i, j + widths[k] // 2] = total.sum((0, 1))


def _halves(refs: tuple) -> tuple[tuple, tuple]:
    return refs[: len(refs) // 2], refs[len(refs) // 2 :]


def _shifts(kernels: Any) -> list[tuple[int, int]]:
    """List the shifts (i, j) from its middle that the entries of any of the kernels stand for."""
    rows, columns = (max(kernel.shape[axis] for kernel in kernels) // 2 for axis in (0, 1))
    return [(i, j) for i in range(-rows, rows + 1) for j in range(-columns, columns + 1)]


def _is_in(kernel: Any, i: int, j: int) -> bool:
    return abs(i) <= kernel.shape[0] // 2 and abs(j) <= kernel.shape[1] // 2


def _entry(kernel: Any, i: int, j: int) -> jax.Array:
    height, width, _ = kernel.shape
    return kernel[i + height // 2, j + width // 2].astype(jnp.float32)


def _view(images: Any, image: Any, part: Any, rows: int, i: Any, j: Any) -> jax.Array:
    """Read a part of an image, shifted, with zeros from beyond the edges."""
    _, height, width, channels = images.shape
    row = part * rows + jnp.arange(rows)[:, None, None] + i
    column = jnp.arange(width)[None, :, None] + j
    channel = jnp.arange(channels)[None, None]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (channel >= 0)
    place = images.at[image, row, column, channel]
    return triton.load(place, mask=inside, other=0.0).astype(jnp.float32)
