"""The serial limit: how fast a network could be on a machine, operation by operation.

    seconds = 2 * multiply_adds / FLOP/s + bytes / (bytes/s)

with the two rates that this machine was measured to reach (`training.benchmarks.machine_limit`).
Nothing overlaps and no output is still in a cache when it is read, as where a framework runs a
network one operation after the other; so it is no hard bound, but op by op it is rarely beaten.

- *Multiply-adds* are those of `km.cost`: of convolutions and dense layers only.
- *Bytes*: each operation reads its inputs and writes its outputs once, and its weights are read
  once a batch. What need not exist moves nothing: padding, splits and concatenations (a
  convolution can read and write in place), reshapes, dropout.
- *Inference* is counted on the network of `km.fuse`, without batch norms, and activations move
  nothing: they can be applied where their input is made. So all forms have one limit.
- *Training* counts three times the forward pass (itself, and the gradients of inputs and of
  weights) of the network as it is, batch norms and activations included.
"""

# classes of layers
_MOVE_NOTHING = {
    "Concatenate",
    "Dropout",
    "Flatten",
    "InputLayer",
    "Reshape",
    "Split",
    "ZeroPadding2D",
}
_ACTIVATIONS = {"Activation", "ReLU"}
PASSES = 3  # of a training step, in forward passes


def count_work(cost, batch_size, training):
    """Count what a network computes and moves, as the docstring of this module says.

    Args:
        cost: A `Cost`, as of `km.cost`; for inference, of a fused network.
        batch_size: Integer, the number of images.
        training: Boolean, whether it is a training step.

    Returns:
        A dictionary of `flop`, the floating point operations, and `bytes`.
    """
    skipped = _MOVE_NOTHING if training else _MOVE_NOTHING | _ACTIVATIONS
    passes = PASSES if training else 1
    traffic = sum(layer.traffic for layer in cost.layers if layer.kind not in skipped)
    weights = 4 * cost.parameters
    return {
        "flop": passes * 2 * cost.multiply_adds * batch_size,
        "bytes": passes * (traffic * batch_size + weights),
    }


def serial_limit(work, flops, bandwidth):
    """Return the least seconds that work takes, one operation after the other.

    Args:
        work: Dictionary of `flop` and `bytes`.
        flops: Float, the floating point operations that the machine does in a second.
        bandwidth: Float, the bytes that it moves in a second.

    Returns:
        A float.
    """
    return work["flop"] / flops + work["bytes"] / bandwidth
