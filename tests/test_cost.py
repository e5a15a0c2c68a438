import csv
import io

import keras
import numpy as np
import pytest
from keras import layers
from layer_checks import forward_backward

import keras_multiception as km
from keras_multiception.cost import ReceptiveField


def profiled_multiply_adds(model, shape):
    """Half of the floating-point operations that TensorFlow's profiler sees in products.

    The profiler itself is not called: its native part writes beyond its memory.
    """
    import tensorflow as tf
    from tensorflow.python.framework import ops
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )
    from tensorflow.python.profiler.internal import flops_registry  # noqa: F401 (it registers)

    function = tf.function(lambda x: model(x, training=False))
    with km.kernels.plain_operations():  # the fast ones fold batch norms, by small products
        concrete = function.get_concrete_function(tf.TensorSpec((1, *shape)))
    graph = convert_variables_to_constants_v2(concrete).graph
    return sum(
        ops.get_stats_for_node_def(graph, node, "flops").value / 2
        for node in graph.as_graph_def().node
        if node.op in ("Conv2D", "DepthwiseConv2dNative", "MatMul")
    )


@pytest.fixture(scope="module")
def resnet20():
    return km.ResNet20()


def mixed_model():
    """Layers of many kinds: dilation, groups, a separable convolution, a shared and a dense one."""
    x = inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(8, (3, 5), dilation_rate=2)(x)
    x = layers.SeparableConv2D(12, 3, strides=2, depth_multiplier=2, padding="same")(x)
    x = layers.MaxPooling2D(3, strides=2)(x)
    shared = layers.Conv2D(12, 1)
    x = layers.Add()([shared(x), shared(shared(x))])
    x = km.layers.MixConv2D(kernel_sizes=(3, 5), strides=2, depthwise=True)(x)
    x = km.layers.MulticeptionConv2D(9, 3, strides=2)(x)
    x = layers.Dense(7)(x)
    return keras.Model(inputs, x)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's profiler")
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (mixed_model, (62, 50, 3)),  # even sizes: TensorFlow pads what it dilates to a multiple
        pytest.param(km.MobileNetV2, (96, 96, 3), marks=pytest.mark.slow),
    ],
)
def test_multiply_adds_are_half_of_what_the_tensorflow_profiler_counts(make, shape):
    model = make()
    assert km.cost(model, shape).multiply_adds == profiled_multiply_adds(model, shape)


def test_kernels_count_as_they_act_however_they_are_stored():
    x = inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(6, 3, groups=2, activation=layers.PReLU())(x)
    model = keras.Model(inputs, layers.Dense(5)(layers.Dense(7, name="dense")(x)))
    expected = 36 * (9 * 2 * 6 + 6 * 7 + 7 * 5)
    assert km.cost(model).multiply_adds == expected
    model(np.zeros((1, 8, 8, 4)))  # builds the activation
    model.get_layer("dense").quantize("int4")
    packed = km.cost(model)
    assert (packed.multiply_adds, packed.parameters) == (expected, model.count_params())


@pytest.mark.backend
def test_nested_and_shared_layers():
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, name="a"),
            layers.BatchNormalization(name="b"),
        ],
        name="inner",
    )
    x = keras.Input((8, 8, 2))
    model = keras.Model(x, layers.Concatenate(name="both")([inner(x), inner(x)]))
    cost = km.cost(model)
    assert [layer.name for layer in cost.layers] == ["inner/a", "inner/b"] * 2 + ["both"]
    assert cost.parameters == model.count_params()
    assert cost.multiply_adds == 2 * 36 * 9 * 2 * 4
    assert [layer.parameters for layer in cost.layers] == [76, 16, 0, 0, 0]
    inner.trainable = False
    assert km.cost(model).trainable_parameters == 0


@pytest.mark.backend
def test_peak_memory_by_hand():
    x = keras.Input((4, 4, 1))
    a = layers.Conv2D(2, 1, name="a")(x)
    b = layers.Conv2D(3, 1, name="b")(a)
    c = layers.Conv2D(2, 1, name="c")(b)
    model = keras.Model(x, layers.Add(name="sum")([a, c]))
    # pixels of 4 bytes: x + a, a + b, a + b + c, a + c + sum
    expected = [16 * 4 * channels for channels in (1 + 2, 2 + 3, 2 + 3 + 2, 2 + 2 + 2)]
    cost = km.cost(model)
    assert [layer.peak_memory for layer in cost.layers] == expected
    assert cost.peak_memory == max(expected)


@pytest.mark.backend
def test_an_output_in_the_middle_stays_in_memory():
    x = keras.Input((4,))
    a = layers.Dense(4)(x)
    b = layers.Dense(4)(a)
    c = layers.Dense(4)(b)
    assert [step.peak_memory for step in km.cost(keras.Model(x, c)).layers] == [32, 32, 32]
    assert [step.peak_memory for step in km.cost(keras.Model(x, [a, c])).layers] == [32, 32, 48]


def test_activations_have_the_compute_dtype():
    single = km.cost(mixed_model(), (62, 50, 3))
    keras.config.set_dtype_policy("mixed_bfloat16")
    half = km.cost(mixed_model(), (62, 50, 3))
    assert half.layers[-1].peak_memory * 2 == single.layers[-1].peak_memory
    assert half.multiply_adds == single.multiply_adds


@keras.saving.register_keras_serializable("test_cost")
class Kernel(layers.Layer):
    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], 2))

    def call(self, x):
        return keras.ops.matmul(x, self.kernel)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 2)


@pytest.mark.backend
def test_unknown_arithmetic_is_never_counted_as_none():
    x = keras.Input((5, 4))
    y = layers.Dense(2, name="dense")(Kernel(name="kernel")(x))
    y = layers.MultiHeadAttention(1, 2, name="attention")(y, y)
    y = layers.LSTM(3, return_sequences=True, name="lstm")(y)
    y = layers.TimeDistributed(layers.Dense(2), name="wrapped")(y)
    y = layers.Conv1D(2, 1, name="conv1d")(y)
    y = layers.Dot(2, name="dot")([y, y])
    model = keras.Model(x, keras.ops.matmul(y, y))
    cost = km.cost(model)
    assert cost.unknown_layers[:-1] == ("kernel", "attention", "lstm", "wrapped", "conv1d", "dot")
    assert cost.unknown_layers[-1].startswith("matmul")
    assert (cost.parameters, cost.multiply_adds) == (model.count_params(), 5 * 2 * 2)
    assert str(cost).endswith(", ".join(cost.unknown_layers))
    x = keras.Input((8, 20, 16))
    first = layers.Conv2D(8, 3, data_format="channels_first", name="conv")
    cost = km.cost(keras.Model(x, first(x)))
    assert (cost.unknown_layers, cost.multiply_adds, cost.receptive_field) == (("conv",), 0, None)


def test_tables(resnet20):
    cost = km.cost(resnet20)
    rows = list(csv.DictReader(io.StringIO(cost.to_csv())))
    assert len(rows) == len(cost.layers)
    assert sum(int(row["multiply_adds"]) for row in rows) == cost.multiply_adds
    assert sum(int(row["trainable_parameters"]) for row in rows) == 189434
    assert rows[3]["name"] == "stage1_block1_conv1/depthwise_0"
    assert rows[3]["output_shape"] == "32x32x16"
    assert rows[3]["receptive_field"] == "5x5"
    lines = cost.to_markdown().splitlines()
    assert {line.count("|") for line in lines if line.startswith("|")} == {10}
    assert "189,434" in lines[-1]
    assert str(cost) == cost.to_table()
    assert max(map(len, str(cost).splitlines())) < 160


def test_stages_share_out_the_total(resnet20):
    cost = km.cost(resnet20)
    assert list(cost.stages) == ["stem", "stage1", "stage2", "stage3", "top"]
    for attribute in ("parameters", "trainable_parameters", "multiply_adds"):
        shares = [getattr(stage, attribute) for stage in cost.stages.values()]
        assert sum(shares) == getattr(cost, attribute)
    assert max(stage.peak_memory for stage in cost.stages.values()) == cost.peak_memory
    plain = km.cost(mixed_model(), (62, 50, 3))
    assert plain.stages == {}
    assert "stage" not in str(plain)


@pytest.mark.backend
def test_several_inputs():
    image, vector = keras.Input((None, None, 3)), keras.Input((4,))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image))
    model = keras.Model([image, vector], layers.Dense(2)(layers.Add()([pooled, vector])))
    cost = km.cost(model, [(8, 8, 3), (4,)])
    assert cost.multiply_adds == 36 * 9 * 3 * 4 + 4 * 2
    assert cost.receptive_field == ReceptiveField((8, 8), (8, 8))
    assert "8x8x3 + 4" in str(cost)


def test_the_input_must_have_a_size_in_any_sequence():
    x = keras.Input((None, None, 3))
    model = keras.Model(x, layers.Conv2D(2, 3)(x))
    for good in ([8, 8, 3], (np.int64(8), 8, 3), np.array([8, 8, 3]), [[8, 8, 3]]):
        assert km.cost(model, good) == km.cost(model, (8, 8, 3))
    for bad in (None, (32, 32), (32, 32, 4), (0, 32, 3), 32, [(8, 8, 3)] * 2, "32"):
        with pytest.raises(ValueError, match="`input_shape` must give the size"):
            km.cost(model, bad)


def sees(model, length=63):
    """The extent of the input that reaches the middle of the output, measured by its gradient."""
    model.set_weights([np.full(w.shape, 0.1) for w in model.get_weights()])
    x = np.ones((1, length, length, 1), "float32")
    shape = keras.ops.shape(model(x))
    dy = np.zeros(shape, "float32")
    dy[0, shape[1] // 2, shape[2] // 2] = 1
    _, dx, _ = forward_backward(model, x, dy, training=False)
    return tuple(np.ptp(axis) + 1 for axis in np.nonzero(dx)[1:3])


def plain(x):
    x = layers.Conv2D(1, (3, 5), dilation_rate=(2, 1), padding="same")(x)
    x = layers.Cropping2D(1)(layers.AveragePooling2D(2)(layers.ZeroPadding2D(2)(x)))
    return layers.Conv2D(1, 3, strides=2, padding="same")(x)


def branched(x):
    x = km.layers.MulticeptionConv2D(2, (3, (5, 7)), strides=2)(x)
    y = km.layers.MixConv2D(2, (3, 5), strides=2, depthwise=False)(x)
    # not of size 1: of one image with few channels, the gradient of such a kernel with strides
    # corrupts the memory on CPUs with AVX512 (TensorFlow 2.21)
    z = layers.Conv2D(2, 3, strides=2, padding="same")(x)
    return layers.Conv2D(2, 3, padding="same")(layers.Add()([y, z]))


@pytest.mark.parametrize(("build", "size"), [(plain, (10, 10)), (branched, (21, 23))])
def test_receptive_field_is_what_the_gradient_reaches(build, size):
    x = keras.Input((63, 63, 1))
    model = keras.Model(x, build(x))
    assert km.cost(model).receptive_field == ReceptiveField(size, (4, 4))
    assert sees(model) == size


def test_receptive_field_of_known_networks(resnet20):
    vgg = keras.applications.VGG16(weights=None, include_top=False)
    assert km.cost(vgg, (224, 224, 3)).receptive_field == ReceptiveField((212, 212), (32, 32))
    stages = km.cost(resnet20).stages
    assert stages["stage1"].receptive_field == ReceptiveField((27, 27), (1, 1))
    assert stages["top"].receptive_field == ReceptiveField((32, 32), (32, 32))


def test_receptive_field_beyond_the_rules_is_unknown():
    x = keras.Input((8, 8, 3))
    sliced = x[:, ::2]
    pooled = layers.GlobalMaxPooling2D()(sliced)
    fields = [step.receptive_field for step in km.cost(keras.Model(x, pooled)).layers]
    assert fields == [None, ReceptiveField((8, 8), (8, 8))]
