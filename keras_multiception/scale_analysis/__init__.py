"""What the kernel sizes of a trained network do: their shares, their reach and their worth.

    shares = km.scale_analysis.weight_shares(model)
    km.scale_analysis.stage_shares(shares)             # {"stage1": {(3, 3): 0.41, ...}, ...}
    km.scale_analysis.without_kernel_size(model, 7)    # evaluate it: what are 7x7 kernels worth?

`python -m training.analyze` does all of it with a training run, and draws it.
"""

from keras_multiception.scale_analysis.receptive_field import (
    EffectiveReceptiveField,
    effective_receptive_field,
)
from keras_multiception.scale_analysis.shares import (
    ScaleShares,
    energy_shares,
    kernel_grid,
    multiception_layers,
    size_name,
    stage_shares,
    weight_shares,
    without_kernel_size,
)

__all__ = [
    "EffectiveReceptiveField",
    "ScaleShares",
    "effective_receptive_field",
    "energy_shares",
    "kernel_grid",
    "multiception_layers",
    "size_name",
    "stage_shares",
    "weight_shares",
    "without_kernel_size",
]
