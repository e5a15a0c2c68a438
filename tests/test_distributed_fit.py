"""The loop over replicas against `keras.Model.fit` on one device, in float64.

TensorFlow has to be told of two devices before its first use: a process of its own trains every
case, both ways.
"""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

CASES: dict[str, dict] = {
    "plain": {},
    "clipping and accumulation": {"clip_norm": 0.1, "accumulate_steps": 2},
    "modern": {
        "ema": 0.9,
        "l2": 0.1,
        "l2_on_vectors": False,
        "label_smoothing": 0.1,
        "warmup_epochs": 1,
        "schedule_interval": "step",
    },
    "muon": {"optimizer": "muon", "momentum": 0.5, "l2": 0.0, "weight_decay": 0.1},
}


@pytest.fixture(scope="module")
def results():
    process = subprocess.run(
        [sys.executable, "-m", "tests.test_distributed_fit"], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_two_replicas_equal_one_device(results, case):
    one, two = results[case]
    assert two["logs"].keys() == one["logs"].keys()
    for name, values in one["logs"].items():
        assert two["logs"][name] == pytest.approx(values, rel=1e-6), name
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-8, abs=1e-10)
    assert two["copy"] == two["weights"]


def test_replicas_share_statistics_that_are_not_synchronized(results):
    (two,) = results["statistics by replica"]
    assert two["copy"] == two["weights"]
    assert two["weights"] != pytest.approx(results["plain"][1]["weights"], rel=1e-8)


def main():
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_multiception as km
    from training.fit import AveragedWeights
    from training.loop import distributed_fit, network, strategies
    from training.recipe import Recipe

    epochs, batch, examples = 2, 8, 37
    rng = np.random.default_rng(0)
    images = rng.normal(size=(examples, 4, 4, 3))
    labels = rng.integers(0, 7, examples)
    mirrored = strategies.make_strategy(strategies.Execution("mirrored", cpu_replicas=2))

    def train(strategy, sync_batch_norm=True, **options):
        recipe = Recipe(
            "digits",
            "resnet20",
            "standard",
            epochs=epochs,
            batch_size=batch,
            sync_batch_norm=sync_batch_norm,
            **options,
        )
        steps = examples // batch
        keras.utils.set_random_seed(0)
        with strategies.scope_of(strategy):
            # MulticeptionConv2D has batch norms inside
            model = keras.Sequential(
                [
                    keras.Input((4, 4, 3)),
                    km.layers.MulticeptionConv2D(4, (3, 3), activation="relu"),
                    keras.layers.Flatten(),
                    keras.layers.Dense(7),
                ]
            )
            network.compile_for_training(
                model, recipe, steps, 2 if strategy else 0, steps_per_execution=2
            )
        whole = tf.data.Dataset.from_tensor_slices((images, labels))
        batches = whole.batch(batch, drop_remainder=True).repeat()
        validation = whole.batch(16)
        logs = []
        watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, log: logs.append(dict(log)))
        callbacks = [*([AveragedWeights()] if recipe.ema else []), watch]
        if strategy is None:
            model.fit(
                batches,
                epochs=epochs,
                steps_per_epoch=steps,
                validation_data=validation,
                callbacks=callbacks,
                verbose=0,
            )
        else:
            distributed_fit.fit(
                model,
                strategy,
                batches,
                (validation, 16, examples),
                network.loss_and_metrics(recipe),
                epochs=epochs,
                initial_epoch=0,
                steps_per_epoch=steps // recipe.accumulate_steps,
                accumulate_steps=recipe.accumulate_steps,
                callbacks=callbacks,
                verbose=0,
            )
            model.optimizer.finalize_variable_values(model.trainable_variables)
        replicas = [
            strategy.experimental_local_results(v.value) if strategy else [v.value]
            for v in model.variables
        ]
        return {
            "logs": {name: [log[name] for log in logs] for name in logs[0]},
            "weights": np.concatenate([r[0].numpy().ravel() for r in replicas]).tolist(),
            "copy": np.concatenate([r[-1].numpy().ravel() for r in replicas]).tolist(),
        }

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    results = {
        case: [train(strategy, **options) for strategy in (None, mirrored)]
        for case, options in CASES.items()
    }
    results["statistics by replica"] = [train(mirrored, sync_batch_norm=False)]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
