"""`km.fuse`: the same answers from fewer and simpler layers."""

import keras
from keras import tree

from keras_multiception.fusion.folding import exchange, fold, pairs
from keras_multiception.fusion.forms import FORMS, obstacle_to, to_form
from keras_multiception.fusion.measuring import measure_forms
from keras_multiception.fusion.reading import read_network
from keras_multiception.fusion.report import FusionReport
from keras_multiception.fusion.writing import write_network
from keras_multiception.graphs.equality import (
    linear_outputs,
    require_equal_answers,
    sample_inputs,
)
from keras_multiception.graphs.reading import graph_of
from keras_multiception.layers.arguments import standardize_integer


def fuse(model, form="separate", batch_size=1, inputs=None, tolerance=None, verbose=True):
    """Return a network for inference that answers like the model and has no batch norms.

    - *Folded*: batch norms, into the convolution or dense layer in front, through additions,
      concatenations, crops and average pooling too, or else into all that read them, where these
      do not pad. A batch norm that no neighbor can take in exactly, such as one between a ReLU
      and an addition, becomes a scale and shift of each channel (a 1x1 depthwise convolution of
      its name) and is listed with the reason.
    - *Moved*: the stride of a 1x1 convolution into the depthwise convolutions in front, which are
      padded symmetrically for it: at stride 2, `padding="same"` would look at other positions.
      The bias of a depthwise convolution into the 1x1 convolution behind.
    - *Opened*: nested models (but those that are called more than once), `MulticeptionConv2D`,
      `MixConv2D` and `SeparableConv2D`; the convolution that makes their output has their name.
    - *Removed*: dropout and noise; Shake-Shake becomes an addition.
    - *Kept*: all other layers with their names, weights and dtype policies; which calls share a
      layer. Regularizers and constraints of convolutions are dropped, and what `compile` set.

    A depthwise convolution and the 1x1 convolution behind it, such as a Multiception, can take
    several forms, all exact:

    - `"separate"`: a depthwise convolution for each kernel size; concatenation; 1x1 convolution.
    - `"merged"`: one depthwise convolution for all sizes, the smaller kernels padded with zeros,
      with a channel multiplier; 1x1 convolution.
    - `"dense"`: both composed into one full convolution of the largest size.
    - `"auto"`: for each layer the fastest of the three on this machine, measured.

    Args:
        model: A Functional `keras.Model` or a built `keras.Sequential`; it stays as it is.
        form: `"separate"`, `"merged"`, `"dense"` or `"auto"`.
        batch_size: Integer, the number of images that `form="auto"` measures with.
        inputs: Inputs of the model, for the comparison and the sizes that `form="auto"` measures
            with. The default is two random ones; 64 along each axis that the model leaves open.
            A model that takes strings needs them.
        tolerance: Float, how far the outputs may differ from those of the model, relative to the
            largest. The default is 1e-5, or five times what rounding alone does to those of the
            model, where that is more: in half precision, and where large numbers cancel.
        verbose: Boolean, whether to print the report.

    Returns:
        A new, uncompiled Functional model, with the attribute `fusion_report`, a `FusionReport`:
        what was folded, moved, removed and measured, and what is left and why. (It is not saved
        with the model; `fusion_report.to_dict()` is fit for JSON.)

    Raises:
        ValueError: If the model is not Functional or a built Sequential one of Keras 3, a layer
            cannot be rebuilt from its config, or an argument is out of its range.
        RuntimeError: If the new model answers otherwise than the model, or the model's own
            answers are not finite.

    Example:
        >>> fused = km.fuse(model)
        >>> fused.save("fused.keras")
    """
    if not isinstance(model, keras.Model) or graph_of(model) is None:
        raise ValueError(
            "`model` must be a Functional model or a built Sequential one of Keras 3. "
            f"Received: model={model!r}"
        )
    if form not in (*FORMS, "auto"):
        raise ValueError(f"`form` must be one of {', '.join(FORMS)}, auto. Received: form={form!r}")
    batch_size = standardize_integer(batch_size, "batch_size")
    inputs = sample_inputs(model, inputs)
    report = FusionReport()
    fused = _fuse(model, [x.shape for x in tree.flatten(inputs)], form, batch_size, report)
    answers = linear_outputs(fused, inputs)
    report.difference = require_equal_answers(model, answers, inputs, tolerance)
    if verbose:
        print(f"Fused the model {model.name!r}: {report}")
    fused.fusion_report = report
    return fused


def _fuse(model, shapes, form, batch_size, report):
    network, names = read_network(model, shapes, report)
    fold(network, report)
    _choose_forms(network, form, batch_size, report)
    return write_network(
        network,
        model,
        names,
        lambda nested, shapes: _fuse(nested, shapes, form, batch_size, report),
    )


def _choose_forms(network, form, batch_size, report):
    """Rewrite each depthwise convolution and the 1x1 convolution behind it."""
    forms = {}
    if form == "auto":
        measurements = measure_forms(network, batch_size)
        report.measurements += measurements
        for row in measurements:
            forms.update(dict.fromkeys(row["layers"], row["form"]))
    for depthwise, pointwise in pairs(network):
        chosen = forms.get(pointwise.name, form)
        obstacle = obstacle_to(chosen, depthwise, pointwise)
        if obstacle is not None:
            report.kept_forms[pointwise.name] = obstacle
            chosen = FORMS[0]
        report.forms[pointwise.name] = chosen
        *first, last = to_form(chosen, depthwise, pointwise)
        if first:
            exchange(network, [(depthwise, *first)])
        else:
            for step in network.calls(depthwise):
                network.remove(step)
        exchange(network, [(pointwise, last)])
