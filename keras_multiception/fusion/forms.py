"""Exact forms of a depthwise convolution of several sizes and the 1x1 convolution behind it."""

import dataclasses

import numpy as np

from keras_multiception.fusion.operations import Branch

FORMS = ("separate", "merged", "dense")


def obstacle_to(form, depthwise, pointwise):
    """Return why a depthwise and a 1x1 convolution cannot take a form, or `None`.

    Args:
        form: One of `FORMS`.
        depthwise: The `Convolution` in front.
        pointwise: The `Convolution` behind it.

    Returns:
        A string or `None`.
    """
    if form == "dense" and max(pointwise.strides) > 1:
        return "Keras has no full convolution with both dilation and stride, or with two strides"
    several = len(depthwise.branches) > 1
    if form != "separate" and several and any(b.padding == "same" for b in depthwise.branches):
        return "the padding of its branches depends on the size of the input"
    return None


def to_form(form, depthwise, pointwise):
    """Rewrite a linear depthwise convolution without a bias and the 1x1 convolution behind it.

    - `"separate"`: as they are: a depthwise convolution for each branch.
    - `"merged"`: the branches as one depthwise convolution with a multiplier, the kernels padded
      with zeros to the size of the largest.
    - `"dense"`: both composed into one full convolution.

    Args:
        form: One of `FORMS`.
        depthwise: A `Convolution`.
        pointwise: A `Convolution` of 1x1 at stride 1.

    Returns:
        A list of one or two `Convolution`.
    """
    if form == "separate":
        return [depthwise, pointwise]
    kernel, padding, order = _merge(depthwise)
    (mixing,) = pointwise.branches
    rows = mixing.kernel[:, :, order]
    if form == "merged":
        depthwise = dataclasses.replace(depthwise, branches=(Branch(0, kernel, padding),))
        branches = (dataclasses.replace(mixing, kernel=rows),)
        return [depthwise, dataclasses.replace(pointwise, branches=branches)]
    rows = rows.reshape(*kernel.shape[2:], -1)
    composed = Branch(0, np.einsum("hwcm,cmo->hwco", kernel, rows), padding)
    return [
        dataclasses.replace(
            pointwise,
            branches=(composed,),
            strides=depthwise.strides,
            dilation=depthwise.dilation,
        )
    ]


def _merge(depthwise):
    """Return one kernel for all branches, its padding, and the order of its outputs."""
    branches = depthwise.branches
    if len(branches) == 1:
        (branch,) = branches
        outputs = branch.kernel.shape[2] * branch.kernel.shape[3]
        return branch.kernel, branch.padding, np.arange(outputs)
    paddings = np.array([branch.padding for branch in branches])  # (branch, axis, side)
    largest = paddings.max(axis=0)
    kernels, inputs = [], []
    for branch, padding in zip(branches, paddings, strict=True):
        zeros = (largest - padding) // np.array(depthwise.dilation)[:, None]
        kernel = np.pad(branch.kernel, [*zeros, (0, 0), (0, 0)])
        kernels.append(kernel.reshape(*kernel.shape[:2], -1))
        channels = np.arange(branch.channels.start, branch.channels.stop)
        inputs.append(np.repeat(channels, branch.kernel.shape[3]))
    order = np.argsort(np.concatenate(inputs), kind="stable")
    kernel = np.concatenate(kernels, axis=-1)[:, :, order]
    channels = max(branch.channels.stop for branch in branches)
    padding = tuple(map(tuple, largest.tolist()))
    return kernel.reshape(*kernel.shape[:2], channels, -1), padding, order
