"""Fused operations on JAX: depthwise convolutions by Pallas on a GPU, as shifted products on a CPU.

On a GPU, the kernels of `pallas_kernels` are for bfloat16, in which they were tried on one.

XLA knows a depthwise convolution on a CPU only as a grouped convolution, tens of times slower than
the same numbers as a sum of products: of the image, shifted, with one entry of the kernel each,
which it compiles into one loop over the image.
"""

import functools

import jax
import keras
from jax import lax
from jax import numpy as jnp

from keras_multiception.kernels import pallas_kernels
from keras_multiception.kernels.pallas_kernels import runs_here

_MAX_PRODUCTS = 256  # of all kernels together: what is compiled grows with them


def supports_depthwise_branches(
    x: jax.Array, kernel_sizes: tuple[tuple[int, int], ...], dilation_rate: tuple[int, int]
) -> bool:
    """Return whether `depthwise_branches` can be used, and is worth it, on an input and kernels.

    On a CPU, it is not for types too short to hold a sum of so many products. On GPUs, it is not
    for several of them under a `keras.distribution`, which cannot divide kernels of our own.
    """
    if tuple(dilation_rate) != (1, 1) or None in x.shape[1:3]:
        return False
    if runs_here():
        return (
            x.dtype == jnp.bfloat16
            and keras.distribution.distribution() is None
            and pallas_kernels.supports(x.shape, kernel_sizes)
        )
    return (
        jax.default_backend() == "cpu"
        and x.dtype in (jnp.float32, jnp.float64)
        and sum(height * width for height, width in kernel_sizes) <= _MAX_PRODUCTS
    )


def depthwise_branches(x: jax.Array, kernels: list[jax.Array]) -> list[jax.Array]:
    """Apply depthwise convolutions of several sizes to one input, "same" at stride 1.

    The images have the shape (batch, height, width, channels), a kernel has (height, width,
    channels, 1). There are reverse-mode derivatives of every order, and no forward-mode ones.
    """
    kernels = [jnp.asarray(kernel, x.dtype) for kernel in kernels]
    if runs_here():
        return pallas_kernels.branches(x, kernels)
    # barriers: XLA would otherwise compute an output anew for everything that reads it
    return [lax.optimization_barrier(_correlate(x, kernel[..., 0])) for kernel in kernels]


@jax.custom_vjp
def _correlate(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the correlation of images (b, h, w, c) with a kernel (i, j, c)."""
    height, width, _ = kernel.shape
    views = _shifted(x, height, width)
    return sum(view * kernel[i, j] for (i, j), view in views)


def _correlate_forward(x: jax.Array, kernel: jax.Array) -> tuple:
    return _correlate(x, kernel), (x, kernel)


def _correlate_backward(saved: tuple, gradient: jax.Array) -> tuple:
    x, kernel = saved
    gradient = lax.optimization_barrier(gradient)
    flipped = _correlate(gradient, kernel[::-1, ::-1])
    return flipped, _products(x, gradient, *kernel.shape[:2])


_correlate.defvjp(_correlate_forward, _correlate_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _products(x: jax.Array, y: jax.Array, height: int, width: int) -> jax.Array:
    """Return the product of every image with another, summed, for each shift (i, j) of it.

    One reduction with an output for each shift is four times as fast as one for each.
    """
    products = [view * y for _, view in _shifted(x, height, width)]
    zero = jnp.zeros((), x.dtype)
    sums = lax.reduce(products, [zero] * len(products), _add, (0, 1, 2))
    return jnp.stack(sums).reshape(height, width, -1)


def _products_forward(x: jax.Array, y: jax.Array, height: int, width: int) -> tuple:
    return _products(x, y, height, width), (x, y)


def _products_backward(height: int, width: int, saved: tuple, gradient: jax.Array) -> tuple:
    x, y = saved
    return _correlate(y, gradient[::-1, ::-1]), _correlate(x, gradient)


_products.defvjp(_products_forward, _products_backward)


def _shifted(x: jax.Array, height: int, width: int) -> list[tuple[tuple[int, int], jax.Array]]:
    """List the images, padded with zeros, as each entry (i, j) of a kernel sees them."""
    rows, columns = height // 2, width // 2
    padded = jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    return [
        ((i, j), padded[:, i : i + x.shape[1], j : j + x.shape[2]])
        for i in range(height)
        for j in range(width)
    ]


def _add(xs: list, ys: list) -> list:
    return [x + y for x, y in zip(xs, ys, strict=True)]
