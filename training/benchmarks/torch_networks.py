"""The networks of the paper in PyTorch, as plainly as its modules allow.

Written from the paper and the published tables of the backbones; nothing of Keras is loaded. The
modules have the names of `km.load_torch_state_dict`, so that weights can go from one to the other.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

KERNEL_SIZES = ((3, 5, 7), (3, 5), (3, 3))  # of Multiception, by stage, as PAPER_KERNEL_SIZES
BLOCKS = {"resnet20": 3, "resnet32": 5, "resnet50": 8, "resnet56": 9, "resnet110": 18}
# of MobileNetV2: expansion, filters, blocks and the stride of the first block, of each stage
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
REPLACEABLE_STAGES = 2
STEM_FILTERS, HEAD_FILTERS = 32, 1280
CLASSES = 10


def create_model(name: str, conv: str, classes: int = CLASSES) -> nn.Module:
    """Build a network that takes images, channels first, and gives logits."""
    if name == "mobilenetv2":
        return _mobilenetv2(conv, classes)
    if name not in BLOCKS:
        raise ValueError(
            f"`name` must be one of {', '.join(BLOCKS)}, mobilenetv2. Received: name={name!r}"
        )
    return _resnet(BLOCKS[name], conv, classes)


class _Multiception(nn.Module):
    """Algorithm 1 of the paper; the 1x1 convolution carries the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel_sizes: tuple[int, ...]):
        super().__init__()
        self.seps = nn.ModuleList(_conv(inputs, inputs, k, groups=inputs) for k in kernel_sizes)
        self.bn1 = nn.BatchNorm2d(inputs * len(kernel_sizes))
        self.pointwise = nn.Conv2d(inputs * len(kernel_sizes), outputs, 1, stride)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = torch.cat([branch(x) for branch in self.seps], 1)
        return self.bn2(self.pointwise(self.bn1(branches)))


class _MixConv(nn.ModuleList):
    """A full convolution for each group of channels, the remainder in the first group."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel_sizes: tuple[int, ...]):
        groups = len(kernel_sizes)
        self.shares, widths = (
            [total - total // groups * (groups - 1)] + [total // groups] * (groups - 1)
            for total in (inputs, outputs)
        )
        super().__init__(
            _conv(share, width, k, stride)
            for share, width, k in zip(self.shares, widths, kernel_sizes, strict=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups = torch.split(x, self.shares, 1)
        return torch.cat([conv(group) for conv, group in zip(self, groups, strict=True)], 1)


def _separable_conv(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Make a depthwise convolution with the stride, a 1x1 convolution with a bias, batch norm."""
    depthwise = _conv(inputs, inputs, 3, stride, groups=inputs)
    pointwise, bn = nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise, bn=bn))


class _BasicBlock(nn.Module):
    """The residual block of the CIFAR ResNets."""

    def __init__(self, inputs: int, outputs: int, stride: int, conv: str, stage: int):
        super().__init__()
        self.conv_bn = CONVOLUTIONS[conv](inputs, outputs, stride, KERNEL_SIZES[stage])
        self.conv2 = _conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.downsample = nn.Identity() if same else _conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.conv_bn(x))))
        return torch.relu(y + self.downsample(x))


def _resnet(blocks: int, conv: str, classes: int) -> nn.Sequential:
    """Make the 6n + 2 layers of a CIFAR ResNet."""
    layers: dict[str, nn.Module] = {}
    width = 16
    for stage, filters in enumerate((16, 32, 64)):
        layer = nn.Sequential()
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layer.append(_BasicBlock(width, filters, stride, conv, stage))
            width = filters
        layers[f"layer{stage + 1}"] = layer
    stem = {"conv1": _conv(3, 16, 3), "bn1": nn.BatchNorm2d(16), "relu": nn.ReLU()}
    return nn.Sequential(OrderedDict(**stem, **layers, **_mean(), fc=nn.Linear(width, classes)))


class _InvertedResidual(nn.Module):
    """The block of MobileNetV2; with `conv`, its depthwise and 1x1 convolutions make way."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, conv: str | None, stage: int
    ):
        super().__init__()
        width = inputs * expansion
        self.conv = nn.Sequential()
        if expansion > 1:
            self.conv.append(_conv_bn(inputs, width, 1).append(nn.ReLU6()))
        if conv is None:
            self.conv.append(_conv_bn(width, width, 3, stride, groups=width).append(nn.ReLU6()))
            self.conv.append(_conv(width, outputs, 1))
        else:
            sizes = KERNEL_SIZES[stage]
            self.conv.append(CONVOLUTIONS[conv](width, outputs, stride, sizes))
            self.conv.append(nn.ReLU())
        self.conv.append(nn.BatchNorm2d(outputs))
        self.adds = inputs == outputs and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


def _mobilenetv2(conv: str, classes: int) -> nn.Sequential:
    """Make MobileNetV2 with the first convolution at stride 1, as the paper has it for STL-10."""
    width = STEM_FILTERS
    features = nn.Sequential(_conv_bn(3, width, 3).append(nn.ReLU6()))
    for stage, (expansion, filters, blocks, first_stride) in enumerate(STAGES):
        kind = conv if stage < REPLACEABLE_STAGES else None
        for block in range(blocks):
            stride = 1 if block else first_stride
            features.append(_InvertedResidual(width, filters, stride, expansion, kind, stage))
            width = filters
    features.append(_conv_bn(width, HEAD_FILTERS, 1).append(nn.ReLU6()))
    classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(HEAD_FILTERS, classes))
    return nn.Sequential(OrderedDict(features=features, **_mean(), classifier=classifier))


def _mean() -> dict[str, nn.Module]:
    return {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)


def _conv_bn(
    inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    convolution = _conv(inputs, outputs, size, stride, groups)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


CONVOLUTIONS: dict[str, Callable[..., nn.Module]] = {
    "standard": lambda inputs, outputs, stride, _: _conv_bn(inputs, outputs, 3, stride),
    "dsconv": lambda inputs, outputs, stride, _: _separable_conv(inputs, outputs, stride),
    "mixconv": lambda inputs, outputs, stride, _: _MixConv(inputs, outputs, stride, (3, 5, 7)),
    "multiception": _Multiception,
}
