import csv
import io

import keras
import numpy as np
import pytest
from keras import layers

import keras_multiception as km
from keras_multiception.cost_table import ReceptiveField


def profiled_multiply_adds(model, shape):
    """Half of the floating-point operations that TensorFlow's profiler sees in products.

    These are the numbers that its profiler adds up. The profiler itself is not called: its native
    part writes beyond its memory, and the process crashes later, in whatever test comes then.
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
        (km.ResNet20, (32, 32, 3)),
        (lambda: km.ResNet20(conv="mixconv"), (32, 32, 3)),
        (lambda: km.ResNet20(include_top=False), (37, 26, 3)),
        (lambda: km.create_model("mobilenetv2", alpha=0.35), (96, 96, 3)),
        (mixed_model, (62, 50, 3)),  # even sizes: TensorFlow pads what it dilates to a multiple
    ],
)
def test_multiply_adds_are_half_of_what_the_tensorflow_profiler_counts(make, shape):
    model = make()
    assert km.cost(model, shape).multiply_adds == profiled_multiply_adds(model, shape)


def test_multiply_adds_of_layers_the_profiler_does_not_know():
    x = keras.Input((6, 4, 3))
    assert km.cost(keras.Model(x, layers.Conv2DTranspose(5, 3, 2)(x))).multiply_adds == (
        6 * 4 * 3 * 9 * 5
    )
    x = keras.Input((20, 3))
    assert km.cost(keras.Model(x, layers.Conv1D(5, 3, groups=1)(x))).multiply_adds == (
        18 * 3 * 3 * 5
    )
    x = keras.Input((20,), dtype="int32")
    assert km.cost(keras.Model(x, layers.Embedding(50, 8)(x))).multiply_adds == 0


def test_kernels_count_as_they_act_however_they_are_stored():
    x = inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(6, 3, groups=2, name="conv", activation=layers.PReLU())(x)
    x = layers.Dense(5, name="odd")(layers.Dense(7, name="dense")(x))
    model = keras.Model(inputs, x)
    expected = 36 * (9 * 2 * 6 + 6 * 7 + 7 * 5)
    assert km.cost(model).multiply_adds == expected
    model(np.zeros((1, 8, 8, 4)))  # builds the activation
    for name in ("conv", "dense"):
        model.get_layer(name).enable_lora(2)
    adapted = km.cost(model)
    assert (adapted.multiply_adds, adapted.parameters) == (expected, model.count_params())
    for name in ("dense", "odd"):
        model.get_layer(name).quantize("int4")
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


def test_layers_and_models_that_are_called_by_keyword():
    x = keras.Input((8, 8, 3))
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)])
    multiception, mixconv = km.layers.MulticeptionConv2D(4), km.layers.MixConv2D(4)
    by_name = keras.Model(x, mixconv(inputs=multiception(inputs=inner(inputs=x))))
    assert (
        km.cost(by_name).layers == km.cost(keras.Model(x, mixconv(multiception(inner(x))))).layers
    )


def test_an_input_that_nothing_reads():
    a, b = keras.Input((4,)), keras.Input((5,))
    total = km.cost(keras.Model([a, b], layers.Dense(3)(a)))
    assert total.parameters == 15
    assert total.peak_memory == 4 * (4 + 5 + 3)


def test_frozen_weights_are_not_trainable():
    model = km.ResNet20()
    model.get_layer("stage1_block1_conv1").trainable = False
    cost = km.cost(model)
    frozen = model.get_layer("stage1_block1_conv1").count_params()
    assert cost.parameters == model.count_params()
    assert cost.trainable_parameters == 189434 - frozen + 2 * (48 + 16)


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


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="strings")
def test_strings_take_no_memory_that_counts():
    word = keras.Input((1,), dtype="string")
    index = layers.StringLookup(vocabulary=["a", "b"])(word)
    cost = km.cost(keras.Model(word, layers.Embedding(3, 5)(index)))
    assert [layer.peak_memory for layer in cost.layers] == [8, 8 + 4 * 5]
    assert cost.layers[0].traffic == 8


@pytest.mark.backend
def test_an_output_in_the_middle_stays_in_memory():
    x = keras.Input((4,))
    a = layers.Dense(4)(x)
    b = layers.Dense(4)(a)
    c = layers.Dense(4)(b)
    assert [step.peak_memory for step in km.cost(keras.Model(x, c)).layers] == [32, 32, 32]
    assert [step.peak_memory for step in km.cost(keras.Model(x, [a, c])).layers] == [32, 32, 48]


def test_activations_have_the_compute_dtype():
    shape = (32, 32, 3)
    single = km.cost(km.ResNet20(include_top=False), shape)
    keras.config.set_dtype_policy("mixed_bfloat16")
    half = km.cost(km.ResNet20(include_top=False), shape)
    assert half.peak_memory * 2 == single.peak_memory
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
    y = layers.Dot(2, name="dot")([y, y])
    model = keras.Model(x, keras.ops.matmul(y, y))
    cost = km.cost(model)
    assert cost.unknown_layers[:-1] == ("kernel", "attention", "lstm", "wrapped", "dot")
    assert cost.unknown_layers[-1].startswith("matmul")
    assert cost.parameters == model.count_params()
    assert cost.multiply_adds == 5 * 2 * 2
    assert "unknown" in str(cost)
    assert ">= 20" in str(cost)
    assert str(cost).endswith(", ".join(cost.unknown_layers))


@pytest.mark.parametrize("is_nested", [False, True])
def test_pooled_channels_first_networks_see_the_whole_image(is_nested):
    first = {"data_format": "channels_first"}
    x = inputs = keras.Input((3, 20, 16))
    for layer in (layers.Conv2D(8, 3, **first), layers.GlobalAveragePooling2D(**first)):
        x = layer(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    if is_nested:
        model = keras.Sequential([inputs, layers.ReLU(), model])
    assert km.cost(model).receptive_field == ReceptiveField((20, 16), (20, 16))


def test_an_image_whose_channels_are_moved_is_channels_last():
    first = {"data_format": "channels_first"}
    parts = [layers.Permute((3, 1, 2)), layers.GlobalAveragePooling2D(**first)]
    cost = km.cost(keras.Sequential([keras.Input((20, 16, 3)), *parts]))
    assert cost.receptive_field == ReceptiveField((20, 16), (20, 16))


def test_tables():
    cost = km.cost(km.ResNet20())
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


def test_a_model_without_layers():
    x = keras.Input((8, 6, 3))
    cost = km.cost(keras.Model(x, x))
    assert (cost.output_shape, cost.peak_memory, cost.receptive_field) == ((8, 6, 3), 0, None)
    assert "8x6x3" in str(cost)


def test_stages_share_out_the_total():
    cost = km.cost(km.ResNet20())
    assert list(cost.stages) == ["stem", "stage1", "stage2", "stage3", "top"]
    for attribute in ("parameters", "trainable_parameters", "multiply_adds"):
        shares = [getattr(stage, attribute) for stage in cost.stages.values()]
        assert sum(shares) == getattr(cost, attribute)
    assert max(stage.peak_memory for stage in cost.stages.values()) == cost.peak_memory
    vgg = km.cost(keras.applications.VGG16(weights=None, include_top=False), (32, 32, 3))
    assert vgg.stages == {}
    assert "stage" not in str(vgg)


@pytest.mark.backend
def test_several_inputs():
    image, vector = keras.Input((None, None, 3)), keras.Input((4,))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image))
    model = keras.Model([image, vector], layers.Dense(2)(layers.Add()([pooled, vector])))
    cost = km.cost(model, [(8, 8, 3), (4,)])
    assert cost.multiply_adds == 36 * 9 * 3 * 4 + 4 * 2
    assert cost.receptive_field == ReceptiveField((8, 8), (8, 8))
    assert "8x8x3 + 4" in str(cost)


@pytest.mark.parametrize(
    "input_shape",
    [[8, 8, 3], (np.int64(8), 8, 3), np.array([8, 8, 3]), [[8, 8, 3]]],
    ids=str,
)
def test_a_shape_may_be_any_sequence(input_shape):
    x = keras.Input((None, None, 3))
    model = keras.Model(x, layers.Conv2D(2, 3)(x))
    assert km.cost(model, input_shape) == km.cost(model, (8, 8, 3))


@pytest.mark.parametrize(
    "input_shape",
    [None, (32, 32), (32, 32, 4), (0, 32, 3), (None, 32, 3), 32, [(8, 8, 3), (8, 8, 3)], "32"],
)
def test_the_input_must_have_a_size(input_shape):
    x = keras.Input((None, None, 3))
    model = keras.Model(x, layers.Conv2D(2, 3)(x))
    with pytest.raises(ValueError, match="`input_shape` must give the size"):
        km.cost(model, input_shape)


def test_the_model_must_have_a_graph():
    for model in (keras.Sequential([layers.Dense(2)]), layers.Dense(2), None):
        with pytest.raises(ValueError, match="`model` must be a Functional model"):
            km.cost(model, (4,))


def test_the_model_stays_as_it_was():
    model = km.ResNet20()
    config, nodes = model.get_config(), [len(layer._inbound_nodes) for layer in model.layers]
    km.cost(model)
    assert model.get_config() == config
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
