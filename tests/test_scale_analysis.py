import keras
import numpy as np
import pytest
from fusion_checks import assert_unchanged
from keras import layers, ops
from layer_checks import forward

import keras_multiception as km
from keras_multiception import scale_analysis
from keras_multiception.layers import MulticeptionConv2D

SHAPE = (12, 12, 3)


def images():
    return np.random.default_rng(0).normal(size=(6, *SHAPE)).astype("float32")


def network(strides=1):
    """Two stages of one Multiception layer each, with batch norms as of some training."""
    x = inputs = keras.Input(SHAPE)
    x = MulticeptionConv2D(4, (3, 5, 7), strides, name="stage1_conv")(x)
    x = layers.ReLU(name="stage1_relu")(x)
    x = MulticeptionConv2D(5, (3, 3), name="stage2_conv")(x)
    outputs = layers.Dense(2)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if "_bn" in weight.path:
            weight.assign(rng.uniform(0.5, 2, weight.shape))
    return model


def carry_everything(layer, branch):
    """Zero the pointwise rows that read all other branches."""
    kernel = np.array(ops.convert_to_numpy(layer.pointwise_conv.kernel))
    rows = kernel.reshape(len(layer.kernel_sizes), -1, layer.filters)  # a view
    rows[[i for i in range(len(rows)) if i != branch]] = 0
    layer.pointwise_conv.kernel.assign(kernel)


def both_shares(model):
    weight = scale_analysis.weight_shares(model)
    return weight, scale_analysis.energy_shares(model, images())


class TestLayers:
    def test_names_are_those_of_the_costs(self):
        inner = network()
        x = keras.Input(SHAPE)
        outer = keras.Model(x, keras.Sequential([inner, layers.ReLU()], name="head")(x))
        found = scale_analysis.multiception_layers(outer)
        prefix = f"head/{inner.name}/"
        assert list(found) == [f"{prefix}stage1_conv", f"{prefix}stage2_conv"]
        assert found[f"{prefix}stage1_conv"] is inner.get_layer("stage1_conv")
        parts = [layer.name for layer in km.cost(outer).layers]
        assert f"{prefix}stage1_conv/pointwise" in parts
        assert [x.stage for x in scale_analysis.weight_shares(outer)] == ["stage1", "stage2"]

    def test_a_shared_layer_counts_once(self):
        x = keras.Input(SHAPE)
        conv = MulticeptionConv2D(3, (3, 5), name="shared")
        model = keras.Model(x, conv(conv(x)))
        assert list(scale_analysis.multiception_layers(model)) == ["shared"]
        assert len(scale_analysis.energy_shares(model, images())) == 1

    @pytest.mark.parametrize("layers", [[keras.Input(SHAPE)], []], ids=["without", "no graph"])
    def test_none_is_an_error(self, layers):
        with pytest.raises(ValueError, match="`model` must be a Functional model"):
            scale_analysis.weight_shares(keras.Sequential(layers))


class TestShares:
    @pytest.mark.parametrize("strides", [1, 2])
    def test_sum_to_one(self, strides):
        for entry in [x for shares in both_shares(network(strides)) for x in shares]:
            assert entry.branches.sum() == pytest.approx(1, abs=1e-12)
            np.testing.assert_allclose(entry.channels.sum(axis=0), 1, atol=1e-12)
            assert entry.channels.shape == (len(entry.kernel_sizes), len(entry.channels[0]))
            assert (entry.channels >= 0).all()
            assert sum(entry.sizes.values()) == pytest.approx(1)

    def test_one_branch_carries_everything(self):
        model = network()
        carry_everything(model.get_layer("stage1_conv"), branch=1)
        for first, second in both_shares(model):
            assert first.sizes == {(3, 3): 0, (5, 5): 1, (7, 7): 0}
            np.testing.assert_array_equal(first.channels, [[0] * 3, [1] * 3, [0] * 3])
            assert second.kernel_sizes == ((3, 3), (3, 3))
            assert second.sizes == pytest.approx({(3, 3): 1})
            assert 0 < second.branches[0] < 1

    @pytest.mark.backend
    def test_weights_by_hand(self):
        x = keras.Input((8, 8, 1))
        layer = MulticeptionConv2D(2, (3, 5), epsilon=1.0)
        model = keras.Model(x, layer(x))
        layer.depthwise_bn.gamma.assign([2.0, -1.0])
        layer.depthwise_bn.moving_variance.assign([3.0, 1.0])
        layer.pointwise_conv.kernel.assign([[[[3.0, 4.0], [0.0, 1.0]]]])
        strengths = np.array([2 * (3 / 4) ** 0.5 * 5, (1 / 2) ** 0.5])
        (entry,) = scale_analysis.weight_shares(model)
        np.testing.assert_allclose(entry.branches, strengths / strengths.sum(), rtol=1e-6)

    @pytest.mark.backend
    def test_energy_is_the_variance_of_what_a_branch_adds(self):
        model = network(strides=2)
        layer = model.get_layer("stage1_conv")
        x = images()
        whole = scale_analysis.energy_shares(model, x)[0]
        energies = []
        for branch in range(3):
            one = keras.models.clone_model(model)
            one.set_weights(model.get_weights())
            layer = one.get_layer("stage1_conv")
            carry_everything(layer, branch)
            normed = layer.depthwise_bn(
                ops.concatenate([c(x) for c in layer.depthwise_convs], axis=-1)
            )
            added = ops.convert_to_numpy(layer.pointwise_conv(normed))
            energies.append(added.var(axis=(0, 1, 2)).sum())
        np.testing.assert_allclose(whole.branches, energies / np.sum(energies), rtol=1e-4)

    def test_a_channel_that_is_always_zero_has_no_shares(self):
        model = network()
        x = images()
        x[..., 1] = 0
        first = scale_analysis.energy_shares(model, x)[0]
        assert np.isnan(first.channels).tolist() == [[False, True, False]] * 3
        assert np.isfinite(first.branches).all()

    def test_by_stage(self):
        def entry(layer, sizes, *shares):
            return scale_analysis.ScaleShares(layer, sizes, np.array(shares), np.array(shares))

        stages = scale_analysis.stage_shares(
            [
                entry("stem_conv", ((3, 3),), 1.0),
                entry("stage2_block1_conv1", ((5, 5), (3, 3)), 0.25, 0.75),
                entry("body/stage2_block2_conv1", ((3, 3), (3, 3)), 0.5, 0.5),
                entry("stage_conv", ((1, 3),), 1.0),
            ]
        )
        assert stages == {
            "stem": {(3, 3): 1},
            "stage2": {(3, 3): 0.875, (5, 5): 0.125},
            "other": {(1, 3): 1},
        }
        assert list(stages["stage2"]) == [(3, 3), (5, 5)]


class TestWithoutKernelSize:
    def test_without_what_counts_for_nothing_nothing_changes(self):
        model = network()
        carry_everything(model.get_layer("stage1_conv"), branch=1)
        expected = forward(model, images())
        for size in (7, (3, 3)):
            copy = scale_analysis.without_kernel_size(model, size, ["stage1_conv"])
            np.testing.assert_array_equal(forward(copy, images()), expected)

    @pytest.mark.backend
    def test_each_channel_becomes_its_mean(self):
        model = network()
        layer = model.get_layer("stage1_conv")
        copy = scale_analysis.without_kernel_size(model, 5)
        x = images()
        branches = ops.concatenate([conv(x) for conv in layer.depthwise_convs], axis=-1)
        before = ops.convert_to_numpy(layer.depthwise_bn(branches))
        after = ops.convert_to_numpy(copy.get_layer("stage1_conv").depthwise_bn(branches))
        beta = ops.convert_to_numpy(layer.depthwise_bn.beta)
        np.testing.assert_array_equal(
            after[..., [0, 1, 2, 6, 7, 8]], before[..., [0, 1, 2, 6, 7, 8]]
        )
        np.testing.assert_allclose(after[..., 3:6], np.broadcast_to(beta[3:6], (6, 12, 12, 3)))

    def test_a_layer_with_no_other_size_becomes_constant(self):
        model = network()
        copy = scale_analysis.without_kernel_size(model, 3, "stage2_conv")
        outputs = forward(copy, images())
        np.testing.assert_allclose(outputs, np.tile(outputs[:1], (6, 1)), rtol=1e-5)

    def test_leaves_the_model_as_it_is_and_says_what_it_drops(self, capsys):
        inner = network()
        x = keras.Input(SHAPE)
        outer = keras.Model(x, inner(x))
        before = outer.get_weights()
        copy = scale_analysis.without_kernel_size(outer, 3)
        names = [f"{inner.name}/stage1_conv", f"{inner.name}/stage2_conv"]
        assert capsys.readouterr().out == f"Left out 3x3 in 2 layers: {', '.join(names)}\n"
        assert_unchanged(outer, before)
        assert list(scale_analysis.multiception_layers(copy)) == names
        assert not np.allclose(forward(copy, images()), forward(inner, images()))

    @pytest.mark.parametrize(
        ("size", "names", "message"),
        [
            (9, None, "`size` must"),
            (5, ["stage2_conv"], "`size` must"),
            (3, [], "`size` must"),
            (3, ["stage1_conv", "stage9_conv", "conv"], "`layers` must .*: 'stage9_conv', 'conv'$"),
            (4, None, "odd positive integer"),
        ],
    )
    def test_errors(self, size, names, message):
        with pytest.raises(ValueError, match=message):
            scale_analysis.without_kernel_size(network(), size, names)
