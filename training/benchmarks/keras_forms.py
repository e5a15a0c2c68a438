"""The forms of a network in Keras: plain layers, ours, and what our engines make of it."""

import contextlib
import io
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import keras_multiception as km  # isort: skip (then TensorFlow loads quietly)
import keras
import numpy as np

from keras_multiception.inference import load_onnx
from keras_multiception.machine import gpu_names, import_tensorflow
from training.benchmarks.runner import Case, Plan

# small, so that many steps on one random batch stay finite
OPTIMIZER = {"learning_rate": 1e-3, "momentum": 0.9, "nesterov": True}
_DATASET = "cifar10"  # whose number of classes the networks have
_CALIBRATION_IMAGES = 64


def prepare(form: str, name: str, conv: str, plan: Plan) -> Iterator[tuple[Case, Callable]]:
    """Build a network and what to measure on it; every answer ends as a NumPy array."""
    import_tensorflow()  # Keras' own `fit` does; before that, hide the GPUs of another backend
    keras.utils.set_random_seed(0)
    with contextlib.ExitStack() as stack:
        if form == "plain":
            stack.enter_context(km.kernels.plain_operations())
        model = km.create_model(name, conv=conv)
        if "train_step" in plan.tasks and form in ("plain", "keras"):
            model.compile(keras.optimizers.SGD(**OPTIMIZER), "sparse_categorical_crossentropy")
            x, y = _batch(model, plan.batch_size)
            yield Case("train_step", plan.batch_size), make_step(model, x, y)
        if "inference" in plan.tasks:
            model = km.create_model(name, conv=conv)
            _give_moments(model)
            make = _inference(form, model, plan)
            for size in plan.inference_batch_sizes:
                images, _ = _batch(model, size)
                if gpu_names():  # as PyTorch's, they are there before
                    images = keras.ops.convert_to_tensor(images)
                yield Case("inference", size), _answering(make(size), images)


def make_step(model: keras.Model, x: Any, y: Any) -> Callable[[], Any]:
    """Compile a training step of a compiled classifier, without anything around it."""
    return {"tensorflow": _tensorflow_step, "jax": _jax_step}[keras.backend.backend()](model, x, y)


def _inference(form: str, model: keras.Model, plan: Plan) -> Callable[[int], Callable]:
    """Return what gives the function of a form for a batch size."""
    if form == "keras" and keras.backend.backend() == "tensorflow":
        fuse = lambda size: km.fuse(model, "auto", size, verbose=False)  # noqa: E731
        return lambda size: km.inference_function(fuse(size))
    if form in ("plain", "keras"):  # on JAX our layers are faster than what fusion makes of them
        run = km.inference_function(model)
    elif form == "saved_model":
        run = _saved_model(model)
    elif form == "litert":
        run = _litert(km.fuse(model, verbose=False), plan.threads)
    elif form.endswith("_int8"):
        run = _int8(model, form.removesuffix("_int8"), plan.threads)
    else:
        run = km.inference_function(model, engine=form, threads=plan.threads)
    return lambda size: run


def _batch(model: keras.Model, batch_size: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, *model.input_shape[1:])).astype("float32")
    return images, rng.integers(0, model.output_shape[-1], batch_size)


def _answering(run: Callable, images: Any) -> Callable[[], Any]:
    return lambda: keras.ops.convert_to_numpy(run(images))


def _give_moments(model: keras.Model) -> None:
    """Give the batch norms moments as after training, so that folding them is not trivial."""
    rng = np.random.default_rng(0)
    for weight in model.non_trainable_variables:
        if weight.name == "moving_mean":
            weight.assign(rng.normal(scale=0.1, size=weight.shape))
        elif weight.name == "moving_variance":
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))


def _saved_model(model: keras.Model) -> Callable:
    """Return the function of a SavedModel in the forms that are the fastest."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "1"
        with contextlib.redirect_stdout(io.StringIO()):
            km.export_saved_model(model, path, _DATASET, form="auto")
        loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]

    def run(images: Any) -> Any:
        return loaded and signature(image=tf.convert_to_tensor(images))["probabilities"]

    return run


def _litert(model: keras.Model, threads: int) -> Callable:
    from keras_multiception.compression import LiteRTModel, convert_to_litert

    litert = LiteRTModel(convert_to_litert(model), num_threads=threads)
    return lambda images: litert.predict(images, batch_size=len(images))


def _int8(model: keras.Model, engine: str, threads: int) -> Callable:
    from keras_multiception.compression import quantize_onnx

    images, _ = _batch(model, _CALIBRATION_IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "int8.onnx"
        quantize_onnx(model, images, path)
        run = load_onnx(path, engine, threads)
    return lambda images: run([images])[0]


def _loss(y: Any, prediction: Any) -> Any:
    return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, prediction))


def _tensorflow_step(model: keras.Model, x: Any, y: Any) -> Callable[[], Any]:
    import tensorflow as tf

    x, y = tf.constant(x), tf.constant(y)
    variables = model.trainable_variables

    @tf.function(autograph=False)
    def step() -> Any:
        with tf.GradientTape() as tape:
            loss = _loss(y, model(x, training=True))
        model.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return lambda: step().numpy()


def _jax_step(model: keras.Model, x: Any, y: Any) -> Callable[[], Any]:
    import jax

    x, y = jax.numpy.asarray(x), jax.numpy.asarray(y)
    model.optimizer.build(model.trainable_variables)

    def loss_of(trainable: Any, non_trainable: Any) -> Any:
        prediction, non_trainable = model.stateless_call(trainable, non_trainable, x, training=True)
        return _loss(y, prediction), non_trainable

    @jax.jit
    def step(trainable: Any, non_trainable: Any, optimizer: Any) -> Any:
        gradient = jax.value_and_grad(loss_of, has_aux=True)
        (loss, non_trainable), gradients = gradient(trainable, non_trainable)
        trainable, optimizer = model.optimizer.stateless_apply(optimizer, gradients, trainable)
        return loss, (trainable, non_trainable, optimizer)

    variables = model.trainable_variables, model.non_trainable_variables, model.optimizer.variables
    # copies: `fit` gives the memory of the model's own to its step
    state = jax.tree.map(jax.numpy.array, [[v.value for v in part] for part in variables])

    def run() -> Any:
        nonlocal state
        loss, state = step(*state)
        return loss.block_until_ready()

    return run
