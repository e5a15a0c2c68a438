import keras
import numpy as np
import pytest

from keras_multiception.compression import calibrate_ranges, quantize_model, to_tf_keras

BATCHES = [np.random.default_rng(i).uniform(0, 9, (8, 6, 6, 3)).astype("float32") for i in range(8)]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((6, 6, 3), name="image")
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    x = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))


def ranges(aware):
    return {
        variable.name.removesuffix(":0"): variable.numpy()
        for variable in aware.non_trainable_variables
        if variable.name.removesuffix(":0").endswith(("_min", "_max"))
    }


def test_ranges_are_those_of_the_activations(model):
    aware = quantize_model(model)
    before = [variable.numpy() for variable in aware.trainable_variables]
    calibrate_ranges(aware, BATCHES)
    for variable, value in zip(aware.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)

    found = ranges(aware)
    features = keras.Model(model.input, [model.get_layer(n).output for n in ("relu", "pool")])
    outputs = [list(map(np.asarray, features(batch))) for batch in BATCHES[len(BATCHES) // 2 :]]
    for name, index in {"quant_relu/output": 0, "quant_pool/output": 1}.items():
        highest = np.mean([output[index].max() for output in outputs])
        assert found[f"{name}_max"] == pytest.approx(highest, rel=0.03), name
        assert found[f"{name}_min"] == pytest.approx(0, abs=float(0.03 * highest))
    assert found["quantize_layer/quantize_layer_max"] == max(batch.max() for batch in BATCHES)
    assert found["quantize_layer/quantize_layer_min"] == 0


def test_answers_are_near_those_of_the_model_without_training(model):
    aware = quantize_model(model)
    expected = np.concatenate([np.asarray(model(batch)) for batch in BATCHES])

    def error():
        answers = np.concatenate([np.asarray(aware(batch)) for batch in BATCHES])
        return np.abs(answers - expected).mean() / np.abs(expected).mean()

    untouched = error()
    calibrate_ranges(aware, BATCHES)
    assert error() < 0.05 < untouched


def test_other_models_and_too_few_batches_are_refused(model):
    with pytest.raises(ValueError, match=r"`model` must be one of `quantize_model`"):
        calibrate_ranges(to_tf_keras(model), BATCHES)
    with pytest.raises(ValueError, match=r"`batches` must be at least two. Received: 1 batches"):
        calibrate_ranges(quantize_model(model), BATCHES[:1])


@pytest.mark.parametrize(
    ("batches", "received"),
    [
        ([BATCHES[0], BATCHES[1][:, :5]], r"ndarray of shape \(8, 5, 6, 3\) and dtype float32"),
        ([BATCHES[0], BATCHES[1].astype("float64")], "dtype float64"),
        ([BATCHES[0], BATCHES[1][:0]], r"shape \(0, 6, 6, 3\)"),
        ([BATCHES[0], np.full_like(BATCHES[1], np.nan)], "NaN or infinite"),
        (BATCHES[0], r"ndarray of shape \(6, 6, 3\)"),
        ([(batch, np.zeros(8)) for batch in BATCHES], "2 arrays"),
        (None, "NoneType"),
    ],
)
def test_batches_that_do_not_fit_are_refused_and_change_nothing(model, batches, received):
    aware = quantize_model(model)
    before = [variable.numpy() for variable in aware.variables]
    with pytest.raises(ValueError, match=rf"`batches` must be .*Received: .*{received}"):
        calibrate_ranges(aware, batches)
    for variable, value in zip(aware.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.name)


def test_a_failure_half_way_changes_nothing(model, monkeypatch):
    aware = quantize_model(model)
    before = [variable.numpy() for variable in aware.variables]
    call = type(aware).call
    calls = []

    def fail_at_the_third(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise MemoryError
        return call(self, *args, **kwargs)

    monkeypatch.setattr(type(aware), "call", fail_at_the_third)
    with pytest.raises(MemoryError):
        calibrate_ranges(aware, BATCHES)
    for variable, value in zip(aware.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.name)
