"""Multiception in place of the convolutions of anybody's network: `km.replace_convolutions`."""

import collections
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_multiception.applications.classifier import stage_kernel_sizes
from keras_multiception.blocks import CHANNELS_LAST, conv_bn, require_conv
from keras_multiception.cost import report_costs
from keras_multiception.graphs import (
    Calls,
    copy_activation,
    copy_values,
    rebuild,
    require_graph,
    resolve_output,
)
from keras_multiception.layers.arguments import standardize_kernel_sizes, strided_length
from keras_multiception.layers.batch_normalization import BatchNormalization
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D
from keras_multiception.layers.trainable_parts import copy_trainable

_CONVOLUTIONS = (layers.Conv2D, layers.SeparableConv2D, layers.DepthwiseConv2D)
_BATCH_NORMS = (layers.BatchNormalization, BatchNormalization)
_ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU)
_ENDS_IN_BATCH_NORM = ("standard", "dsconv", "mixconv_depthwise", "multiception")
_IMAGE_CHANNELS = 4  # an input of up to as many is taken for an image
# what a batch norm can have and the one in a `MulticeptionConv2D` has not
_UNSUPPORTED = (
    "synchronized",
    "renorm",
    *(f"{w}_{kind}" for w in ("gamma", "beta") for kind in ("regularizer", "constraint")),
)

Sides = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right))


@dataclasses.dataclass(frozen=True)
class Site:
    """A spatial convolution of a network, and what becomes of it."""

    layer: Any
    reason: str | None = None  # why it stays
    output: Any = None  # the layer whose name the new one takes: of a pair the 1x1 convolution
    absorbed: tuple = ()  # the other layers that the new one stands for
    batch_norm: Any = None  # of these, the one that becomes the new layer's own
    kernel_sizes: Any = None  # of the new layer, as in `km.conv_bn`
    padding: Sides = ((0, 0), (0, 0))  # zeros around its input
    cropping: Sides = ((0, 0), (0, 0))  # taken off its output


def replace_convolutions(
    model: keras.Model,
    conv: str | Callable = "multiception",
    kernel_sizes: Any = None,
    where: Any = None,
    absorb: bool = False,
    verbose: bool = True,
) -> keras.Model:
    """Return an uncompiled copy of a network in which the convolutions are Multiception.

    Replaced are `Conv2D` larger than 1x1, `SeparableConv2D`, and `DepthwiseConv2D` together with
    the 1x1 convolution after it, whose name the new layer takes, also across a batch norm and an
    activation, which go; in nested models too. What cannot be replaced is listed with the reason.
    Stride, dilation, activation, `trainable`, dtype policy, regularizers and constraints are kept,
    and the kernels are centered on the same pixels: where the old layer padded otherwise,
    `<name>_align_pad` and `_align_crop` stand around the new one, the first in place of a
    `ZeroPadding2D` (with `padding="same"`, a stride above 1 and an unknown input size, only the
    shape is kept). New weights start at random, and what `compile` set is dropped.

    Args:
        model: A Functional `keras.Model` or a built `keras.Sequential`; it stays as it is.
        conv: Type of the new convolutions, as in `km.conv_bn`. All but `"multiception"` take
            neither dilation nor two different strides nor regularizers and constraints, and come
            as a nested model of the old name.
        kernel_sizes: Kernel sizes of the new convolutions: one list for all, such as (3, 5); a
            list of three, one for each third of the convolutions from the input on; or a function
            from the layer to a list. The default is the paper's (3, 5, 7), (3, 5) and (3, 3) for
            Multiception and callables, the one of `km.conv_bn` for the rest.
        where: A function from a layer to a boolean, a list of names, or a regular expression that
            matches whole names; a pair goes by its depthwise layer. The default is all but those
            that read an image, of 4 channels or fewer, and those that make an output.
        absorb: Whether a batch norm directly after becomes part of the new layer.
        verbose: Whether to print what was replaced, the costs, and what was not replaced and why;
            `keras_multiception.replacement.plan_replacements` returns the same as data.

    Raises:
        ValueError: If the model has no graph, or a layer cannot be rebuilt from its config.

    Example:
        >>> vgg = keras.applications.VGG16(weights=None)
        >>> model = km.replace_convolutions(vgg)
        >>> model = km.replace_convolutions(vgg, kernel_sizes=(3, 5), where="block[45]_conv.")
    """
    sites = plan_replacements(model, conv, kernel_sizes, where, absorb)
    replaced = [site for site in sites if site.reason is None]
    successors: dict = {layer: [] for site in replaced for layer in site.absorbed}
    for site in replaced:
        activation = copy_activation(site.output.activation)
        successors[site.output] = _new_layers(site, conv, activation)
    new_model = rebuild(model, successors)
    for site in replaced:
        (new,) = (x for x in successors[site.output] if x.name == site.output.name)
        if isinstance(new, MulticeptionConv2D):
            _copy_trainable(site, new)
        if site.batch_norm is not None:
            _copy_batch_norm(site.batch_norm, new)
    if verbose:
        _report(model, new_model, sites, conv)
    return new_model


def plan_replacements(
    model: keras.Model,
    conv: str | Callable = "multiception",
    kernel_sizes: Any = None,
    where: Any = None,
    absorb: bool = False,
) -> list[Site]:
    """Find the spatial convolutions of a network and decide what becomes of each.

    The arguments are those of `km.replace_convolutions`; the sites are in the order of the network.

    Example:
        >>> from keras_multiception.replacement import plan_replacements
        >>> sites = plan_replacements(keras.applications.VGG16(weights=None))
        >>> {site.layer.name: site.reason for site in sites if site.reason}
        {'block1_conv1': 'it reads the image'}
    """
    require_graph(model)
    require_conv(conv)
    calls = Calls(model)
    sites = [_survey(layer, calls, conv, absorb) for layer in calls.layers if _is_spatial(layer)]
    is_chosen = where if callable(where) else _match(where, [site.layer.name for site in sites])
    by_stage = None if callable(kernel_sizes) else stage_kernel_sizes(conv, kernel_sizes)
    replaceable = [index for index, site in enumerate(sites) if site.reason is None]
    for position, index in enumerate(replaceable):
        site = sites[index]
        sizes = by_stage[position * 3 // len(replaceable)] if by_stage else kernel_sizes(site.layer)
        if sizes is not None:
            sizes = standardize_kernel_sizes(sizes)
        reason = None if is_chosen(site.layer) else "`where` leaves it out"
        if where is None:
            reason = _why_not_by_default(site, model, calls)
        sites[index] = dataclasses.replace(site, kernel_sizes=sizes, reason=reason)
    return sites


def _survey(layer: Any, calls: Calls, conv: Any, absorb: bool) -> Site:
    """Return the `Site` of a layer, its kernel sizes left open."""
    if reason := _why_not_replaced(layer, conv):
        return Site(layer, reason)
    path = [layer]
    if type(layer) is layers.DepthwiseConv2D:
        path = _path_to_pointwise(layer, calls)
        if not _is_pointwise(path[-1]):
            return Site(layer, "no plain 1x1 convolution comes after it")
    pad = _own_padding(layer, calls)
    alignments = {
        _align(layer, call.input_tensors[0].shape, pad and pad.padding)
        for call in calls.of[pad or layer][: len(calls.of[layer])]
    }
    if len(alignments) > 1:
        return Site(layer, "it is shared by inputs whose sizes need different padding")
    ((padding, cropping),) = alignments
    batch_norm = None
    if absorb and conv in _ENDS_IN_BATCH_NORM:
        batch_norm = _own_batch_norm(path[-1], calls)
    absorbed = tuple(x for x in (pad, *path[:-1], batch_norm) if x is not None)
    return Site(layer, None, path[-1], absorbed, batch_norm, padding=padding, cropping=cropping)


def _is_spatial(layer: Any) -> bool:
    return isinstance(layer, _CONVOLUTIONS) and max(layer.kernel_size) > 1


def _is_pointwise(layer: Any) -> bool:
    return (
        type(layer) is layers.Conv2D
        and (*layer.kernel_size, *layer.strides, layer.groups) == (1, 1, 1, 1, 1)
        and layer.data_format == "channels_last"
    )


def _why_not_replaced(layer: Any, conv: Any) -> str | None:
    if type(layer) not in _CONVOLUTIONS:
        return f"it is of the class {type(layer).__name__}, which may do more than its base class"
    if layer.data_format != "channels_last":
        return f"its data format is {layer.data_format!r}"
    if getattr(layer, "groups", 1) > 1:
        return f"its channels are in {layer.groups} groups, which the new one would mix"
    if conv != "multiception":
        if max(layer.dilation_rate) > 1:
            return f"it is dilated, which conv={conv!r} cannot be"
        if layer.strides[0] != layer.strides[1]:
            return f"its two strides differ, which conv={conv!r} does not allow"
    return None


def _path_to_pointwise(depthwise: Any, calls: Calls) -> list:
    """Follow a depthwise convolution up to its 1x1 convolution, if it has one."""
    path = [depthwise]
    while not _is_pointwise(path[-1]):
        layer = calls.next(path[-1])
        if not (_is_pointwise(layer) or type(layer) in (*_BATCH_NORMS, *_ACTIVATIONS)):
            break
        path.append(layer)
    return path


def _own_padding(conv: Any, calls: Calls) -> Any:
    """Return the `ZeroPadding2D` before a convolution that serves it alone."""
    layer = calls.of[conv][0].input_tensors[0]._keras_history.operation
    own = (
        type(layer) is layers.ZeroPadding2D
        and layer.data_format == "channels_last"
        and conv.padding == "valid"
        and calls.next(layer) is conv
    )
    return layer if own else None


def _own_batch_norm(conv: Any, calls: Calls) -> Any:
    """Return the batch norm directly after a convolution, if the new layer's can stand for it."""
    layer = calls.next(conv)
    own = (
        type(layer) in _BATCH_NORMS
        and conv.activation is keras.activations.linear
        and layer.axis in (-1, 3)
        and layer.dtype_policy == conv.dtype_policy
        and not any(getattr(layer, attribute) for attribute in _UNSUPPORTED)
    )
    return layer if own else None


def _why_not_by_default(site: Site, model: keras.Model, calls: Calls) -> str | None:
    if site.layer.input_spec.axes[-1] <= _IMAGE_CHANNELS:
        return "it reads the image"
    ends = {id(call.outputs[0]) for call in calls.of[site.batch_norm or site.output]}
    if ends & {id(resolve_output(x)) for x in require_graph(model).outputs}:
        return "it makes the model's output, which would be batch normalized"
    return None


def _match(where: Any, names: list[str]) -> Callable[[Any], bool]:
    """Return the function from a layer to whether `where` names it, as `None` does every one."""
    if where is None:
        return lambda layer: True
    if isinstance(where, str):
        try:
            chosen = {name for name in names if re.fullmatch(where, name)}
        except re.error as error:
            raise ValueError(
                f"`where` must be a valid regular expression. Received: where={where!r} ({error})"
            ) from None
        unknown = [] if chosen else [where]
    else:
        chosen = set(where) if isinstance(where, Iterable) else {where}
        unknown = sorted(chosen - {*names}, key=str)
    if unknown:
        raise ValueError(
            "`where` must be None, a function of a layer, or the names, as a list or a regular "
            "expression, of convolutions larger than 1x1. "
            f"Received: {', '.join(map(repr, unknown[:3]))}"
        )
    return lambda layer: layer.name in chosen


def _align(conv: Any, shape: tuple, explicit: Sides | None) -> tuple[Sides, ...]:
    """Return the padding and cropping with which a new convolution looks where an old one does.

    Multiception centers its kernels on the pixels 0, s, 2s, ... at stride s. A "valid" convolution
    begins half a kernel inside the image; TensorFlow's "same" pads first at the end. The center of
    an even kernel is the pixel before its middle. `explicit` is the padding of a `ZeroPadding2D`
    before the old one, whose input `shape` is then.
    """
    aligned = []
    for axis, (stride, rate, size) in enumerate(
        zip(conv.strides, conv.dilation_rate, conv.kernel_size, strict=True)
    ):
        reach = rate * (size - 1)
        before, after = explicit[axis] if explicit else (0, 0)
        if conv.padding == "same":
            length = shape[1 + axis]
            total = reach  # of an unknown size
            if length is not None:
                last = (strided_length(length, stride) - 1) * stride
                total = max(last + reach + 1 - length, 0)
            before, after = total // 2, total - total // 2
        # what exceeds half a kernel is cropped, in steps of the stride
        excesses = before - reach // 2, after - (reach - reach // 2)
        padding = tuple(max(excess, excess % stride) for excess in excesses)
        cropping = tuple((p - e) // stride for p, e in zip(padding, excesses, strict=True))
        aligned.append((padding, cropping))
    return tuple(zip(*aligned, strict=True))


def _new_layers(site: Site, conv: Any, activation: Any) -> list:
    """Return the layers that take the place of `site.output`, one after the other."""
    name = site.output.name
    shared = {"dtype": site.output.dtype_policy, **CHANNELS_LAST}
    pad = layers.ZeroPadding2D(site.padding, name=f"{name}_align_pad", **shared)
    crop = layers.Cropping2D(site.cropping, name=f"{name}_align_crop", **shared)
    new = (
        _multiception(site, activation)
        if conv == "multiception"
        else _nested_conv_bn(site, activation, conv)
    )
    needed = np.any(site.padding), True, np.any(site.cropping)
    return list(itertools.compress((pad, new, crop), needed))


def _multiception(site: Site, activation: Any) -> MulticeptionConv2D:
    old, output, batch_norm = site.layer, site.output, site.batch_norm
    kernels = {
        "depthwise": (old, "kernel" if type(old) is layers.Conv2D else "depthwise"),
        "pointwise": (output, "kernel" if type(output) is layers.Conv2D else "pointwise"),
        "bias": (output, "bias"),
    }
    kept = {
        f"{part}_{kind}": getattr(layer, f"{prefix}_{kind}")
        for part, (layer, prefix) in kernels.items()
        for kind in ("regularizer", "constraint")
    }
    if batch_norm is not None:
        kept.update(momentum=batch_norm.momentum, epsilon=batch_norm.epsilon)
    return MulticeptionConv2D(
        output.filters,
        site.kernel_sizes,
        old.strides,
        dilation_rate=old.dilation_rate,
        activation=activation,
        activity_regularizer=output.activity_regularizer,
        dtype=output.dtype_policy,
        name=output.name,
        **kept,
    )


def _nested_conv_bn(site: Site, activation: Any, conv: Any) -> keras.Model:
    """Return `km.conv_bn` as a model of its own, so that its names meet no others."""
    old, output = site.layer, site.output
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(output.dtype_policy)
    try:
        x = keras.Input((None, None, old.input_spec.axes[-1]))
        y = conv_bn(x, output.filters, old.strides[0], site.kernel_sizes, conv, name="conv")
        if activation is not keras.activations.linear:
            y = layers.Activation(activation, name="activation")(y)
    finally:
        keras.config.set_dtype_policy(previous)
    return keras.Model(x, y, name=output.name)


def _copy_trainable(site: Site, new: MulticeptionConv2D) -> None:
    """Freeze the parts of a new layer, which has the `trainable` of the old one, as they were."""
    old, output = site.layer, site.output
    depthwise: Any = getattr(old, "depthwise_kernel", getattr(old, "kernel", None))
    pointwise: Any = getattr(output, "pointwise_kernel", getattr(output, "kernel", None))
    for conv in new.depthwise_convs:
        conv.trainable = old.trainable
        conv.kernel.trainable = depthwise.trainable
    new.pointwise_conv.kernel.trainable = pointwise.trainable
    if output.use_bias:
        new.pointwise_conv.bias.trainable = output.bias.trainable
    if isinstance(new.activation, layers.Layer):
        copy_trainable(output.activation, new.activation)


def _copy_batch_norm(old: Any, conv: Any) -> None:
    """Copy a batch norm to the one at the end of a new convolution."""
    if isinstance(conv, MulticeptionConv2D):
        new = conv.pointwise_bn
    else:
        new = conv.layers[-1]
        new.momentum, new.epsilon = old.momentum, old.epsilon
    new.trainable = old.trainable
    for part in ("gamma", "beta"):
        if getattr(old, part) is not None:
            getattr(new, part).assign(copy_values(getattr(old, part)))
            getattr(new, part).trainable = getattr(old, part).trainable


def _report(old: keras.Model, new: keras.Model, sites: list[Site], conv: Any) -> None:
    left = collections.defaultdict(list)
    for site in sites:
        if site.reason is not None:
            left[site.reason].append(site.layer.name)
    replaced = len(sites) - sum(map(len, left.values()))
    kind = getattr(conv, "__name__", conv)
    print(f"{replaced} of {len(sites)} convolutions of the model {old.name!r} are now {kind}.")
    report_costs(old, new)
    if left:
        print("Not replaced:")
    for reason, names in left.items():
        print(f"  {', '.join(names)}: {reason}")
