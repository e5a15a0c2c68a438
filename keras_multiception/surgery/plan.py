"""Which convolutions of a network can be replaced, by what, and why the others stay."""

import dataclasses
import difflib
import math
import re

import keras
import numpy as np
from keras import layers

from keras_multiception.applications.classifier import stage_kernel_sizes
from keras_multiception.blocks import DEFAULT_KERNEL_SIZES, require_conv
from keras_multiception.graphs.reading import Calls, graph_of, resolve_output
from keras_multiception.layers.arguments import standardize_kernel_sizes
from keras_multiception.layers.batch_normalization import BatchNormalization
from keras_multiception.surgery.positions import align

_CONVOLUTIONS = (layers.Conv2D, layers.SeparableConv2D, layers.DepthwiseConv2D)
_BATCH_NORMS = (layers.BatchNormalization, BatchNormalization)
_ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU)
_ENDS_IN_BATCH_NORM = ("standard", "dsconv", "mixconv_depthwise", "multiception")
_IMAGE_CHANNELS = 4  # an input of up to as many is taken for an image


@dataclasses.dataclass(frozen=True)
class Site:
    """A spatial convolution of a network, and what becomes of it.

    Attributes:
        layer: The `Conv2D`, `SeparableConv2D` or `DepthwiseConv2D`.
        reason: Why it stays, as a string; `None` if it is replaced.
        output: The layer whose name and output the new layer takes over: the 1x1 convolution
            behind a `DepthwiseConv2D`, and `layer` itself otherwise.
        absorbed: The other layers that become part of the new one and go: what stands between a
            `DepthwiseConv2D` and its 1x1 convolution and, with `absorb`, the `ZeroPadding2D` in
            front and `batch_norm`.
        batch_norm: The `BatchNormalization` directly behind, if it becomes the new layer's own.
        kernel_sizes: The kernel sizes of the new layer, as in `km.conv_bn`.
        padding: Zero rows and columns to put around its input, `((top, bottom), (left, right))`;
            negative where rows and columns come off.
        cropping: Rows and columns to take off its output.
    """

    layer: layers.Layer
    reason: str | None = None
    output: layers.Layer | None = None
    absorbed: tuple = ()
    batch_norm: layers.Layer | None = None
    kernel_sizes: tuple | None = None
    padding: tuple = ((0, 0), (0, 0))
    cropping: tuple = ((0, 0), (0, 0))


def plan_replacements(model, conv="multiception", kernel_sizes=None, where=None, absorb=False):
    """Find the spatial convolutions of a network and decide what becomes of each.

    Args:
        model: A Functional `keras.Model` or a built `keras.Sequential`; it stays as it is.
        conv: Type of the new convolutions, as in `km.replace_convolutions`.
        kernel_sizes: Their kernel sizes, as in `km.replace_convolutions`.
        where: Which to replace, as in `km.replace_convolutions`.
        absorb: Whether neighbors become part of it, as in `km.replace_convolutions`.

    Returns:
        A list of `Site`, in the order of the network.

    Raises:
        ValueError: If an argument is out of its range, or `where` names a layer that is no
            spatial convolution of the model.

    Example:
        >>> from keras_multiception.surgery import plan_replacements
        >>> sites = plan_replacements(keras.applications.VGG16(weights=None))
        >>> {site.layer.name: site.reason for site in sites if site.reason}
        {'block1_conv1': 'it reads the image'}
    """
    if graph_of(model) is None:
        raise ValueError(
            "`model` must be a Functional model or a built Sequential one. "
            f"Received: model={model!r}"
        )
    require_conv(conv)
    calls = Calls(model)
    sites = [_survey(layer, calls, conv, absorb) for layer in calls.layers if _is_spatial(layer)]
    reason = _chooser(where, model, sites, calls)
    by_stage = None if callable(kernel_sizes) else stage_kernel_sizes(conv, kernel_sizes)
    replaceable = [index for index, site in enumerate(sites) if site.reason is None]
    for position, index in enumerate(replaceable):
        site = sites[index]
        sizes = by_stage[position * 3 // len(replaceable)] if by_stage else kernel_sizes(site.layer)
        if sizes is not None:
            sizes = standardize_kernel_sizes(sizes)
        left = reason(site) or _too_narrow(site, conv, sizes)
        sites[index] = dataclasses.replace(site, kernel_sizes=sizes, reason=left)
    return sites


def _too_narrow(site, conv, sizes):
    """Return why MixConv cannot share out the channels among its kernel sizes, or `None`."""
    groups = len(sizes or DEFAULT_KERNEL_SIZES)
    widths = {"channels": site.layer.input_spec.axes[-1], "filters": site.output.filters}
    if conv not in ("mixconv", "mixconv_depthwise"):
        return None
    for name in ("channels", "filters") if conv == "mixconv" else ("channels",):
        if widths[name] < groups:
            return f"it has {widths[name]} {name}, fewer than the {groups} kernel sizes of MixConv"
    return None


def _survey(layer, calls, conv, absorb):
    """Return the `Site` of a layer, its kernel sizes left open."""
    reason = _obstacle(layer, conv)
    path = [layer]
    if reason is None and type(layer) is layers.DepthwiseConv2D:
        path = _path_to_pointwise(layer, calls)
        reason = _obstacle_behind(path, calls)
    if reason is not None:
        return Site(layer, reason)
    pad = _own_padding(layer, calls)
    alignments = {
        align(layer, calls.of[pad or layer][index].input_tensors[0].shape, pad and pad.padding)
        for index in range(len(calls.of[layer]))
    }
    if len(alignments) > 1:
        return Site(layer, "it is shared by inputs whose sizes need different padding")
    ((padding, cropping),) = alignments
    if np.any(cropping) and _weighs_positions(path[-1]):
        return Site(layer, "its activation has a weight for each position, and there will be more")
    batch_norm = None
    if absorb and conv in _ENDS_IN_BATCH_NORM:
        batch_norm = _own_batch_norm(path[-1], calls)
    if pad is not None and not absorb:  # its zeros come off again
        padding, pad = _less(padding, pad.padding), None
    absorbed = tuple(x for x in (pad, *path[:-1], batch_norm) if x is not None)
    return Site(layer, None, path[-1], absorbed, batch_norm, padding=padding, cropping=cropping)


def _weighs_positions(convolution):
    weights = getattr(convolution.activation, "weights", ())
    return any(math.prod(weight.shape) > convolution.filters for weight in weights)


def _less(padding, other):
    return tuple(
        tuple(a - b for a, b in zip(*sides, strict=True))
        for sides in zip(padding, other, strict=True)
    )


def _is_spatial(layer):
    return isinstance(layer, _CONVOLUTIONS) and max(layer.kernel_size) > 1


def _is_pointwise(layer):
    return (
        type(layer) is layers.Conv2D
        and (*layer.kernel_size, *layer.strides, layer.groups) == (1, 1, 1, 1, 1)
        and layer.data_format == "channels_last"
    )


def _obstacle(layer, conv):
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


def _path_to_pointwise(depthwise, calls):
    """Follow the layers behind a depthwise convolution up to its 1x1 convolution, if it has one."""
    path = [depthwise]
    while (layer := calls.next(path[-1])) is not None:
        if _is_pointwise(layer):
            return [*path, layer]
        if type(layer) not in (*_BATCH_NORMS, *_ACTIVATIONS):
            break
        path.append(layer)
    return path


def _obstacle_behind(path, calls):
    if _is_pointwise(path[-1]):
        return None
    if len(calls.of[path[-1]]) > 1:
        return "it is called more than once, or what stands behind it is"
    readers = calls.readers_of(path[-1])
    kinds = ["the model's end" if reader is None else type(reader).__name__ for reader in readers]
    return f"no plain 1x1 convolution stands behind it, but {' and '.join(kinds)}"


def _own_padding(conv, calls):
    """Return the `ZeroPadding2D` that stands in front of a convolution and serves it alone."""
    layer = calls.of[conv][0].input_tensors[0]._keras_history.operation
    own = (
        type(layer) is layers.ZeroPadding2D
        and layer.data_format == "channels_last"
        and conv.padding == "valid"
        and calls.next(layer) is conv
    )
    return layer if own else None


def _own_batch_norm(conv, calls):
    """Return the batch norm directly behind a convolution, if the new layer's can stand for it."""
    layer = calls.next(conv)
    own = (
        type(layer) in _BATCH_NORMS
        and conv.activation is keras.activations.linear
        and layer.axis in (-1, 3)
        and layer.dtype_policy == conv.dtype_policy
        and not any(getattr(layer, attribute) for attribute in _NOT_OURS)
    )
    return layer if own else None


# what a batch norm can have and that of a `MulticeptionConv2D` has not
_NOT_OURS = (
    "synchronized",
    "renorm",
    *(f"{w}_{kind}" for w in ("gamma", "beta") for kind in ("regularizer", "constraint")),
)


def _chooser(where, model, sites, calls):
    """Return the function from a site to the reason why `where` leaves it out, or `None`."""
    if where is None:
        return lambda site: _reason_by_default(site, model, calls)
    if callable(where):
        return lambda site: None if where(site.layer) else "`where` leaves it out"
    chosen = _match(where, [site.layer.name for site in sites])
    return lambda site: None if site.layer.name in chosen else "`where` leaves it out"


def _reason_by_default(site, model, calls):
    if site.layer.input_spec.axes[-1] <= _IMAGE_CHANNELS:
        return "it reads the image"
    ends = {id(call.outputs[0]) for call in calls.of[site.batch_norm or site.output]}
    if ends & {id(resolve_output(x)) for x in graph_of(model).outputs}:
        return "it makes the model's output, which would be batch normalized"
    return None


def _match(where, names):
    if isinstance(where, str):
        try:
            chosen = {name for name in names if re.fullmatch(where, name)}
        except re.error as error:
            raise ValueError(
                f"`where` must be a valid regular expression. Received: where={where!r} ({error})"
            ) from None
        unknown = [] if chosen else [where]
    elif isinstance(where, list | tuple | set | frozenset):
        chosen, unknown = set(where), [name for name in where if name not in names]
    else:
        chosen, unknown = set(), [where]
    if unknown:
        close = difflib.get_close_matches(str(unknown[0]), names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            "`where` must be None, a function of a layer, or the names, as a list or a regular "
            f"expression, of convolutions larger than 1x1. Received: {unknown[0]!r}.{hint}"
        )
    return chosen
