import dataclasses

import keras
import pytest

from training.loop.network import learning_rate_schedule
from training.recipe import Recipe

PAPER = Recipe("cifar10", "resnet20", "multiception", epochs=30)
STEPS = 7


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("warmup_epochs", [0, 1, 5])
def test_every_step_has_the_rate_of_the_recipe(interval, warmup_epochs):
    recipe = dataclasses.replace(PAPER, schedule_interval=interval, warmup_epochs=warmup_epochs)
    schedule = learning_rate_schedule(recipe, STEPS)
    for step in range(recipe.epochs * STEPS):
        epoch = step // STEPS if interval == "epoch" else step / STEPS
        rate = float(schedule(keras.ops.convert_to_tensor(step)))
        assert rate == pytest.approx(recipe.learning_rate_at(epoch), rel=1e-4)


@pytest.mark.backend
def test_an_optimizer_follows_the_schedule_in_fit():
    recipe = dataclasses.replace(PAPER, epochs=4, warmup_epochs=2)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(learning_rate_schedule(recipe, 2)), "mse")
    rates = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: rates.append(float(model.optimizer.learning_rate))
    )
    data = keras.ops.ones((4, 1))
    model.fit(data, data, batch_size=2, epochs=4, callbacks=[watch], verbose=0)
    assert rates == pytest.approx([recipe.learning_rate_at(epoch) for epoch in range(4)])
