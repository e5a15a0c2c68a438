"""The runner of Keras: every form of every network, and the limits of the machine."""

import contextlib
import io
import itertools
import pathlib
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras_multiception as km  # isort: skip (then TensorFlow loads quietly)
import keras
import numpy as np

from keras_multiception.machine import describe, gpu_names, import_tensorflow
from training.benchmarks.runner import Case, Job, Plan, Prepared

# small, so that many steps on one random batch stay finite
OPTIMIZER = {"learning_rate": 1e-3, "momentum": 0.9, "nesterov": True}
_DATASET = "cifar10"  # whose number of classes the networks have
_LITERT = ("litert", "litert_threads")
_ACTIVATIONS = {"Activation", "ReLU"}
_MOVE_NOTHING = {
    *("Concatenate", "Dropout", "Flatten", "InputLayer", "Reshape", "Split", "ZeroPadding2D")
}
_PASSES = 3  # of a training step: forward, and the gradients of inputs and of weights
# bytes of each of three arrays to stream: far more than a cache holds
_STREAM, _STREAM_ON_GPU = 64 * 2**20, 2**30


def prepare(plan: Plan) -> Prepared:
    """Build the networks and what to measure on them."""
    unknown = [name for name in plan.models if name not in km.list_models()]
    if unknown:
        raise ValueError(
            f"`model` must be among {', '.join(km.list_models())}. "
            f"Received: model={', '.join(unknown)}"
        )
    import_tensorflow()  # Keras' own `fit` does; before that, hide the GPUs of another backend
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(plan.dtype_policy)
    machine = describe(["ai-edge-litert"])
    settings = {"dtype_policy": plan.dtype_policy, "threads": plan.threads}
    ready = Prepared({}, {**settings, **machine["hardware"], "versions": machine["versions"]})
    forms = _possible_forms(plan.forms, ready.left_out)
    if "plain" in forms:
        dtype = keras.DTypePolicy(plan.dtype_policy).compute_dtype
        ready.jobs |= _limit_jobs(plan.threads, dtype)
    for name, conv in plan.networks():
        try:
            model = km.create_model(name, conv=conv)
        except ValueError as error:
            ready.left_out.append(f"{name} with {conv}: {error}")
            continue
        for form in ("plain", "fast"):
            if form in forms:
                ready.jobs |= _training_jobs(plan, name, conv, form)
        if "inference" in plan.tasks:
            ready.jobs |= _inference_jobs(plan, model, (name, conv), forms)
        trained, fused = km.cost(model), km.cost(km.fuse(model, verbose=False))
        for task in ("train_step", "fit"):
            work = count_work(trained, plan.batch_size, training=True)
            ready.work[task, name, conv, plan.batch_size] = work
        for size in plan.inference_batch_sizes:
            work = count_work(fused, size, training=False)
            ready.work["inference", name, conv, size] = work
    return ready


def make_step(model: keras.Model, x: Any, y: Any) -> Callable[[], Any]:
    """Compile a training step of a compiled classifier, without anything around it."""
    return {"tensorflow": _tensorflow_step, "jax": _jax_step}[keras.backend.backend()](model, x, y)


def make_fit(model: keras.Model, x: Any, y: Any, steps: int) -> Callable[[], Any]:
    """Return a function that trains some steps on a batch with `model.fit`."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        options = tf.data.Options()
        options.autotune.enabled = False  # as in training.data.batches_tensorflow
        batches = tf.data.Dataset.from_tensors((x, y)).repeat(steps).with_options(options)
        return lambda: model.fit(batches, shuffle=False, verbose=0)
    images, classes = (np.concatenate([array] * steps) for array in (x, y))
    return lambda: model.fit(images, classes, batch_size=len(x), shuffle=False, verbose=0)


def _possible_forms(forms: tuple[str, ...], left_out: list[str]) -> list[str]:
    """Return the forms that this process can measure, and note why not the others."""
    backend = keras.backend.backend()
    reasons = {}
    if km.kernels.fused_ops() is None:
        reasons["fast"] = f"there are no fused operations for {backend}; ours are the plain ones"
    if backend != "tensorflow":
        reasons |= dict.fromkeys(("saved_model", *_LITERT), "it needs Keras on TensorFlow")
    elif any(form in forms for form in _LITERT):
        try:
            from keras_multiception.compression import LiteRTModel, convert_to_litert  # noqa: F401
        except ImportError as error:
            reasons |= dict.fromkeys(_LITERT, str(error))
    for reason in dict.fromkeys(reasons.values()):
        dropped = [form for form in forms if reasons.get(form) == reason]
        left_out += [f"{', '.join(dropped)}: {reason}"] if dropped else []
    return [form for form in forms if form not in reasons]


def _operations(form: str) -> contextlib.AbstractContextManager:
    return km.kernels.plain_operations() if form == "plain" else contextlib.nullcontext()


def _batch(model: keras.Model, batch_size: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, *model.input_shape[1:])).astype("float32")
    return images, rng.integers(0, model.output_shape[-1], batch_size)


def _training_jobs(plan: Plan, name: str, conv: str, form: str) -> dict[Case, Job]:
    with _operations(form):
        model = km.create_model(name, conv=conv)
        model.compile(keras.optimizers.SGD(**OPTIMIZER), "sparse_categorical_crossentropy")
    x, y = _batch(model, plan.batch_size)
    jobs = {}
    if "train_step" in plan.tasks:
        jobs["train_step"] = Job(_traced_under(form, make_step(model, x, y)))
    if "fit" in plan.tasks:
        jobs["fit"] = Job(_traced_under(form, make_fit(model, x, y, plan.steps)), plan.steps)
    return {Case(task, name, conv, plan.batch_size, form): job for task, job in jobs.items()}


def _traced_under(form: str, call: Callable[[], Any]) -> Callable[[], Any]:
    """Let the first call, which compiles, happen with the operations of a form."""
    waiting = [True]

    def run() -> Any:
        if waiting:
            waiting.clear()
            with _operations(form):
                return call()
        return call()

    return run


def _inference_jobs(
    plan: Plan, model: keras.Model, network: tuple[str, str], forms: list[str]
) -> dict[Case, Job]:
    _give_moments(model)
    separate = km.fuse(model, verbose=False)
    if not separate.fusion_report.forms:  # no depthwise convolution: every form is the same
        forms = [form for form in forms if form not in ("merged", "dense", "auto")]
    exported = _saved_model(model, plan.inference_batch_sizes) if "saved_model" in forms else None
    jobs: dict[Case, Job] = {}
    for size, form in itertools.product(plan.inference_batch_sizes, forms):
        images, _ = _batch(model, size)
        if gpu_names():  # as PyTorch's, they are there before
            images = keras.ops.convert_to_tensor(images)
        if form in ("plain", "fast"):
            run = km.inference_function(model)
        elif form == "separate":
            run = km.inference_function(separate)
        elif exported and form == "saved_model":
            run = exported
        elif form in _LITERT:
            run = _litert(separate, 1 if form == "litert" else plan.threads)
        else:
            run = km.inference_function(km.fuse(model, form, size, verbose=False))
        job = Job(_traced_under(form, _answering(run, images)))
        jobs[Case("inference", *network, size, form)] = job
    return jobs


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


def _saved_model(model: keras.Model, batch_sizes: tuple[int, ...]) -> Callable:
    """Return the function of a SavedModel in the forms that are the fastest for each batch size."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "1"
        with contextlib.redirect_stdout(io.StringIO()):
            km.export_saved_model(
                model, path, _DATASET, form="auto", form_batch_size=list(batch_sizes)
            )
        loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]

    def run(images: Any) -> Any:
        return loaded and signature(image=tf.convert_to_tensor(images))["probabilities"]

    return run


def _litert(model: keras.Model, threads: int) -> Callable:
    from keras_multiception.compression import LiteRTModel, convert_to_litert

    litert = LiteRTModel(convert_to_litert(model), num_threads=threads)
    return lambda images: litert.predict(images, batch_size=len(images))


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


def count_work(cost: Any, batch_size: int, training: bool) -> dict[str, float]:
    """Count the `flop` and `bytes` of a step or call, by the `km.cost` of one image.

    Operations read their inputs and write their outputs once, and weights are read once a batch.
    Reshapes and the like move nothing, nor do activations at inference.
    """
    skipped = _MOVE_NOTHING if training else _MOVE_NOTHING | _ACTIVATIONS
    passes = _PASSES if training else 1
    traffic = sum(layer.traffic for layer in cost.layers if layer.kind not in skipped)
    return {
        "flop": passes * 2 * cost.multiply_adds * batch_size,
        "bytes": passes * (traffic * batch_size + 4 * cost.parameters),
    }


def _limit_jobs(threads: int, dtype: str) -> dict[Case, Job]:
    """Make the measurements of the machine, in 10^9 operations and in 10^9 bytes moved."""
    size, stream_bytes = (8192, _STREAM_ON_GPU) if gpu_names() else (2048, _STREAM)
    stream = _stream_on_gpu() if gpu_names() else _stream(threads)
    rng = np.random.default_rng(0)
    a, b = (keras.ops.convert_to_tensor(rng.normal(size=(size, size)), dtype) for _ in range(2))
    product = Job(lambda: _wait(keras.ops.matmul(a, b)), 2 * size**3 / 1e9)
    return {
        Case("limit", "", "", 0, "product"): product,
        Case("limit", "", "", 0, "stream"): Job(stream, 3 * stream_bytes / 1e9),
    }


def _stream(threads: int) -> Callable[[], Any]:
    """Add two arrays into a third, a part in each thread: nothing is allocated."""
    size = _STREAM // 4 // threads
    parts = [[np.ones(size, "float32") for _ in range(3)] for _ in range(threads)]
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(lambda part: np.add(part[0], part[1], out=part[2]), parts))


def _stream_on_gpu() -> Callable[[], Any]:
    a, b = (keras.ops.ones((_STREAM_ON_GPU // 4,)) for _ in range(2))
    return lambda: _wait(keras.ops.add(a, b))


def _wait(x: Any) -> Any:
    """Wait for the end of a computation, by one number of its result."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.ravel(x)[:1]))
