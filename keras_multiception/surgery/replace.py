"""The rewriting of a network: a new model with other convolutions and the same of all else."""

import collections
import functools
import itertools

import keras
import numpy as np
from keras import layers

from keras_multiception.blocks import CHANNELS_LAST, conv_bn
from keras_multiception.cost import report_costs
from keras_multiception.graphs.copying import copy_activation, copy_values, rebuild
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D
from keras_multiception.surgery.plan import plan_replacements


def replace_convolutions(
    model, conv="multiception", kernel_sizes=None, where=None, absorb=False, verbose=True
):
    """Return a copy of a network in which the convolutions are Multiception.

    Replaced are `Conv2D` larger than 1x1, `SeparableConv2D`, and `DepthwiseConv2D` together with
    the 1x1 convolution behind it, also where a batch norm and an activation stand in between; in
    nested models too. What cannot be replaced stays, and is listed with the reason: grouped
    convolutions, channels first, classes derived from these, depthwise convolutions with anything
    else behind them, such as squeeze-and-excitation, and what is too narrow for the kernel sizes
    of MixConv.

    - *Kept*: all other layers with their names, shapes, weights, `trainable` and dtype policy;
      which calls share a layer; the name of each replaced layer (of a pair that of the 1x1
      convolution, whose output it makes), its stride, dilation, activation, `trainable`, dtype
      policy, regularizers and constraints.
    - *Positions*: the new kernels are centered on the pixels that the old ones were centered on,
      whatever the padding. Where that is not how Multiception pads, a `ZeroPadding2D` or two
      `Cropping2D`, `<name>_align_pad`, `<name>_align_trim` and `<name>_align_crop`, stand around
      the new layer. (With `padding="same"`, a stride above 1 and an unknown input size, only the
      shape is kept.)
    - *Gone*: what stood between a depthwise convolution and its 1x1 convolution; with `absorb`,
      also the batch norm directly behind, which becomes the one that Multiception ends in, with
      its momentum, epsilon, scale and offset, and a `ZeroPadding2D` that serves the convolution
      alone, which becomes its padding.
    - *Dropped*: the weights of the replaced convolutions (the new ones start at random, frozen
      where the old ones were: unfreeze those before training), what `compile` set, and the class
      of a model that is neither a plain Functional nor a plain Sequential one.

    Args:
        model: A Functional `keras.Model` or a built `keras.Sequential`; it stays as it is.
        conv: Type of the new convolutions, as in `km.conv_bn`. All types but `"multiception"`
            take neither dilation nor two different strides, do not take over regularizers and
            constraints, and come as a nested model of the old name.
        kernel_sizes: Kernel sizes of the new convolutions: one list for all, such as (3, 5); a
            list of three, one for each third of the convolutions that can be replaced, from the
            input on; or a function from the layer to a list. The default is the paper's:
            (3, 5, 7), (3, 5) and (3, 3) for Multiception and callables, that of `km.conv_bn` for
            the rest.
        where: Which to replace: a function from a layer to a boolean, a list of names, or a
            regular expression that matches whole names; a pair goes by its depthwise layer. The
            default is all but those that read an image, of 4 channels or fewer, and those that
            make an output of the model.
        absorb: Boolean, whether a batch norm directly behind and a `ZeroPadding2D` in front become
            part of the new layer, for fewer layers and parameters. By default they stay, with
            their names: then the new layer's own batch norm comes in front of the old one.
        verbose: Boolean, whether to print what was replaced, the costs before and after, and
            what was not replaced and why. `keras_multiception.surgery.plan_replacements` returns
            the same as data, in advance.

    Returns:
        A new, uncompiled model.

    Raises:
        ValueError: If the model is not Functional or a built Sequential, a layer cannot be
            rebuilt from its config, or an argument is out of its range.

    Example:
        >>> vgg = keras.applications.VGG16()
        >>> model = km.replace_convolutions(vgg)
        >>> model = km.replace_convolutions(vgg, kernel_sizes=(3, 5), where="block[45]_conv.")
    """
    sites = plan_replacements(model, conv, kernel_sizes, where, absorb)
    new_model = _operate(model, sites, conv)
    if verbose:
        _report(model, new_model, sites, conv)
    return new_model


def _operate(model, sites, conv):
    """Return the new model, with all that is kept of the old one."""
    sites = [site for site in sites if site.reason is None]
    successors: dict = {layer: [] for site in sites for layer in site.absorbed}
    copies: dict = {}
    for site in sites:
        activation = copy_activation(site.output.activation, copies)
        successors[site.output] = _new_layers(site, conv, activation)
    new_model = rebuild(model, successors)
    for site in sites:
        if site.batch_norm is not None:
            (new,) = (x for x in successors[site.output] if x.name == site.output.name)
            _copy_batch_norm(site.batch_norm, new)
    return new_model


def _new_layers(site, conv, activation):
    """Return the layers that take the place of `site.output`, one after the other."""
    name = site.output.name
    shared = {"dtype": site.output.dtype_policy, **CHANNELS_LAST}
    padding = np.array(site.padding)
    pad = layers.ZeroPadding2D(_pairs(padding), name=f"{name}_align_pad", **shared)
    trim = layers.Cropping2D(_pairs(-padding), name=f"{name}_align_trim", **shared)
    make = _multiception if conv == "multiception" else functools.partial(_model_of, conv=conv)
    new = make(site, activation)
    crop = layers.Cropping2D(site.cropping, name=f"{name}_align_crop", **shared)
    needed = np.any(padding > 0), np.any(padding < 0), True, np.any(site.cropping)
    return list(itertools.compress((pad, trim, new, crop), needed))


def _pairs(sides):
    return np.maximum(sides, 0).tolist()


def _multiception(site, activation):
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


def _model_of(site, activation, conv):
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


def _copy_batch_norm(old, conv):
    """Hand a batch norm on to the one at the end of a new convolution."""
    if isinstance(conv, MulticeptionConv2D):
        new = conv.pointwise_bn
    else:
        new = conv.layers[-1]
        new.momentum, new.epsilon = old.momentum, old.epsilon
    for part in ("gamma", "beta"):
        if getattr(old, part) is not None:
            getattr(new, part).assign(copy_values(getattr(old, part)))


def _report(old, new, sites, conv):
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
