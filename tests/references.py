"""Independent NumPy forms of the convolutions, written as the sums of their definitions."""

import numpy as np

EPSILON = 1e-5


def conv2d(x, kernel, strides=(1, 1), dilation=(1, 1), bias=0.0):
    """Full convolution of NHWC `x` with (kh, kw, in, out), padded by half the kernel."""
    windows = _windows(x, kernel.shape[:2], strides, dilation)
    return np.einsum("nhwijc,ijco->nhwo", windows, kernel) + bias


def depthwise_conv2d(x, kernel, strides=(1, 1), dilation=(1, 1)):
    """Depthwise convolution of NHWC `x` with (kh, kw, channels, multiplier)."""
    windows = _windows(x, kernel.shape[:2], strides, dilation)
    y = np.einsum("nhwijc,ijcm->nhwcm", windows, kernel)
    return y.reshape(*y.shape[:3], -1)


def batch_norm(x, gamma, beta, mean, variance):
    """Batch normalization with given statistics."""
    return (x - mean) / np.sqrt(variance + EPSILON) * gamma + beta


def multiception(x, kernels, bn1, pointwise, bias, bn2, strides=(1, 1), dilation=(1, 1)):
    """Algorithm 1 of the paper in inference; bn1, bn2 = (gamma, beta, mean, variance)."""
    branches = [depthwise_conv2d(x, kernel, dilation=dilation) for kernel in kernels]
    y = batch_norm(np.concatenate(branches, axis=-1), *bn1)
    return batch_norm(conv2d(y, pointwise, strides, bias=bias), *bn2)


def mixconv(x, kernels, depthwise, strides=(1, 1), dilation=(1, 1)):
    """MixConv: a convolution in each group of channels, the remainder in the first group."""
    share = x.shape[-1] // len(kernels)
    first = x.shape[-1] - share * (len(kernels) - 1)
    groups = np.split(x, [first + share * i for i in range(len(kernels) - 1)], axis=-1)
    conv = depthwise_conv2d if depthwise else conv2d
    outputs = [conv(g, k, strides, dilation) for g, k in zip(groups, kernels, strict=True)]
    return np.concatenate(outputs, axis=-1)


def _windows(x, size, strides, dilation):
    x = np.asarray(x, "float64")
    reach = [d * (k - 1) for k, d in zip(size, dilation, strict=True)]
    x = np.pad(x, [(0, 0), *((r // 2, r // 2) for r in reach), (0, 0)])
    height, width = (x.shape[i + 1] - reach[i] for i in range(2))
    rows = [
        [
            x[
                :,
                i * dilation[0] : i * dilation[0] + height : strides[0],
                j * dilation[1] : j * dilation[1] + width : strides[1],
            ]
            for j in range(size[1])
        ]
        for i in range(size[0])
    ]
    return np.moveaxis(np.array(rows), (0, 1), (3, 4))


class Released:
    """The networks of the released code in inference, by the names and layouts of its weights.

    Args:
        state: Dictionary of arrays in PyTorch's layout, as a `state_dict()` has them.
    """

    def __init__(self, state):
        self.state = {name: np.asarray(array, "float64") for name, array in state.items()}

    def resnet(self, x):
        x = relu(self.norm("bn1", self.conv("conv1", x)))
        for name, stride in self.blocks():
            y = relu(self.replaceable(f"{name}.conv_bn", x, stride))
            y = self.norm(f"{name}.bn2", self.conv(f"{name}.conv2", y))
            if f"{name}.se.fc.0.weight" in self.state:
                means = relu(y.mean((1, 2)) @ self.state[f"{name}.se.fc.0.weight"].T)
                scale = means @ self.state[f"{name}.se.fc.2.weight"].T
                y = y * (np.tanh(scale / 2) / 2 + 0.5)[:, None, None]  # the logistic function
            if f"{name}.downsample.0.weight" in self.state:
                x = self.norm(f"{name}.downsample.1", self.conv(f"{name}.downsample.0", x, stride))
            x = relu(x + y)
        return self.classify("fc", x)

    def shake_shake(self, x):
        x = self.conv("c_in", x)
        for name, stride in self.blocks():
            branches = []
            for branch in (f"{name}.branch1", f"{name}.branch2"):
                y = relu(self.replaceable(f"{branch}.1", relu(x), stride))
                branches.append(self.norm(f"{branch}.4", self.conv(f"{branch}.3", y)))
            if branches[0].shape != x.shape:
                paths = relu(x), np.pad(relu(x), ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
                convs = [f"{name}.shortcut.conv{index}" for index in (1, 2)]
                x = [self.conv(conv, path, stride) for conv, path in zip(convs, paths, strict=True)]
                x = self.norm(f"{name}.shortcut.bn", np.concatenate(x, axis=-1))
            x = x + sum(branches) / 2
        return self.classify("fc_out", relu(x))

    def mobilenet_v2(self, x):
        """The stem has stride 1, as for small images."""
        x = self.conv_norm_relu6("features.0", x)
        strides = dict.fromkeys((2, 4, 7, 14), 2)  # of the first block of a stage
        for place in range(1, 18):
            name, stride = f"features.{place}.conv", strides.get(place, 1)
            y = self.conv_norm_relu6(f"{name}.0", x) if place > 1 else x
            if place <= 3:  # the first two stages
                first = 1 if place > 1 else 0
                y = relu(self.replaceable(f"{name}.{first}", y, stride))
                y = self.norm(f"{name}.{first + 2}", y)
            else:
                y = self.conv_norm_relu6(f"{name}.1", y, stride)
                y = self.norm(f"{name}.3", self.conv(f"{name}.2", y))
            x = x + y if x.shape == y.shape else y
        return self.classify("classifier.1", self.conv_norm_relu6("features.18", x))

    def blocks(self):
        """Yield the name and stride of each block of a ResNet."""
        for stage in (1, 2, 3):
            index = 0
            while any(name.startswith(f"layer{stage}.{index}.") for name in self.state):
                yield f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
                index += 1

    def kernel(self, name):
        return self.state[f"{name}.weight"].transpose(2, 3, 1, 0)

    def conv(self, name, x, stride=1):
        kernel, strides = self.kernel(name), (stride, stride)
        if kernel.shape[2] == 1:
            return depthwise_conv2d(x, kernel.transpose(0, 1, 3, 2), strides)
        return conv2d(x, kernel, strides, bias=self.state.get(f"{name}.bias", 0.0))

    def statistics(self, name):
        parts = ("weight", "bias", "running_mean", "running_var")
        return [self.state[f"{name}.{part}"] for part in parts]

    def norm(self, name, x):
        return batch_norm(x, *self.statistics(name))

    def conv_norm_relu6(self, name, x, stride=1):
        return np.minimum(relu(self.norm(f"{name}.1", self.conv(f"{name}.0", x, stride))), 6)

    def replaceable(self, name, x, stride):
        """The convolution of a type that the names of the weights tell."""
        if f"{name}.seps.0.weight" in self.state:
            count = sum(each.startswith(f"{name}.seps.") for each in self.state)
            return multiception(
                x,
                [self.kernel(f"{name}.seps.{i}").transpose(0, 1, 3, 2) for i in range(count)],
                self.statistics(f"{name}.bn1"),
                self.kernel(f"{name}.pointwise"),
                self.state[f"{name}.pointwise.bias"],
                self.statistics(f"{name}.bn2"),
                (stride, stride),
            )
        if f"{name}.depthwise.weight" in self.state:
            x = self.conv(f"{name}.pointwise", self.conv(f"{name}.depthwise", x, stride))
            return self.norm(f"{name}.bn", x)
        if f"{name}.1.running_var" in self.state:
            return self.norm(f"{name}.1", self.conv(f"{name}.0", x, stride))
        kernels = [
            self.kernel(f"{name}.{i}") for i in range(3) if f"{name}.{i}.weight" in self.state
        ]
        return mixconv(x, kernels, depthwise=False, strides=(stride, stride))

    def classify(self, name, x):
        return x.mean((1, 2)) @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]


def relu(x):
    return np.maximum(x, 0)
