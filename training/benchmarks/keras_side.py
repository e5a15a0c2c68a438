"""The side of Keras: every form of every network, in one process."""

import contextlib
import io
import itertools
import pathlib
import tempfile

import keras
import numpy as np

import keras_multiception as km
from keras_multiception.machine import describe, gpu_names, import_tensorflow
from training.benchmarks import machine_limit
from training.benchmarks.plan import FUSED, Case, Job
from training.benchmarks.roofline import count_work
from training.benchmarks.training_steps import make_fit, make_step

# small, so that many steps on one random batch stay finite
OPTIMIZER = {"learning_rate": 1e-3, "momentum": 0.9, "nesterov": True}
_DATASET = "cifar10"  # whose number of classes the networks have


def make_jobs(plan):
    """Build the networks and return what to measure on them.

    Args:
        plan: A `Plan`.

    Returns:
        A dictionary from `Case` to `Job`, and a list of sentences on what was left out.

    Raises:
        ValueError: If there is no such network.
    """
    unknown = [name for name in plan.models if name not in km.list_models()]
    if unknown:
        raise ValueError(
            f"`model` must be among {', '.join(km.list_models())}. "
            f"Received: model={', '.join(unknown)}"
        )
    import_tensorflow()  # Keras' own `fit` does; before that, hide the GPUs of another backend
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(plan.dtype_policy)
    forms, left_out = _possible_forms(plan.forms)
    dtype = keras.DTypePolicy(plan.dtype_policy).compute_dtype
    jobs = machine_limit.make_jobs(plan.threads, dtype) if "plain" in forms else {}
    for model, conv in plan.networks():
        try:
            km.create_model(model, conv=conv)
        except ValueError as error:
            left_out.append(f"{model} with {conv}: {error}")
            continue
        for form in ("plain", "fast"):
            if form in forms:
                jobs |= _training_jobs(plan, model, conv, form)
        if "inference" in plan.tasks:
            jobs |= _inference_jobs(plan, model, conv, forms)
    return jobs, left_out


def work(plan):
    """Count what the networks compute and move.

    Args:
        plan: A `Plan`.

    Returns:
        A dictionary from task, model, type of convolution and batch size to a `count_work`.
    """
    counts = {}
    for name, conv in plan.networks():
        try:
            model = km.create_model(name, conv=conv)
        except ValueError:
            continue
        trained, fused = km.cost(model), km.cost(km.fuse(model, verbose=False))
        for task in ("train_step", "fit"):
            size = plan.batch_size
            counts[task, name, conv, size] = count_work(trained, size, training=True)
        for size in plan.inference_batch_sizes:
            counts["inference", name, conv, size] = count_work(fused, size, training=False)
    return counts


def environment(plan):
    """Return versions, devices and threads.

    Args:
        plan: A `Plan`.

    Returns:
        A dictionary fit for JSON.
    """
    machine = describe(["ai-edge-litert"])
    return {
        "dtype_policy": plan.dtype_policy,
        "threads": plan.threads,
        **machine["hardware"],
        "versions": machine["versions"],
    }


def _possible_forms(forms):
    """Return the forms that this process can measure, and why not the others."""
    backend = keras.backend.backend()
    possible, left_out = list(forms), []

    def leave_out(names, reason):
        dropped = [name for name in names if name in possible]
        if dropped:
            possible[:] = [name for name in possible if name not in names]
            left_out.append(f"{', '.join(dropped)}: {reason}")

    if km.kernels.fast_forms() is None:
        leave_out(["fast"], f"there are no fast forms for {backend}; ours is the plain one")
    litert = ["litert", "litert_threads"]
    if backend != "tensorflow":
        leave_out(["saved_model", *litert], "it needs Keras on TensorFlow")
    elif any(form in possible for form in litert):
        try:
            from keras_multiception.compression import LiteRTModel, convert_to_litert  # noqa: F401
        except ImportError as error:
            leave_out(litert, str(error))
    return possible, left_out


def _operations(form):
    return km.kernels.plain_operations() if form == "plain" else contextlib.nullcontext()


def _batch(model, batch_size):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, *model.input_shape[1:])).astype("float32")
    return images, rng.integers(0, model.output_shape[-1], batch_size)


def _training_jobs(plan, name, conv, form):
    jobs = {}
    with _operations(form):
        model = km.create_model(name, conv=conv)
        model.compile(keras.optimizers.SGD(**OPTIMIZER), "sparse_categorical_crossentropy")
    x, y = _batch(model, plan.batch_size)
    makers = {
        "train_step": lambda: Job(make_step(model, x, y)),
        "fit": lambda: Job(make_fit(model, x, y, plan.steps), plan.steps),
    }
    for task, make in makers.items():
        if task in plan.tasks:
            job = make()
            call = _traced_under(form, job.call)
            jobs[Case(task, name, conv, plan.batch_size, form)] = job._replace(call=call)
    return jobs


def _traced_under(form, call):
    """Let the first call, which compiles, happen with the operations of a form."""
    waiting = [True]

    def run():
        if waiting:
            waiting.clear()
            with _operations(form):
                return call()
        return call()

    return run


def _inference_jobs(plan, name, conv, forms):
    model = km.create_model(name, conv=conv)
    _give_moments(model)
    separate = km.fuse(model, verbose=False)
    has_forms = bool(separate.fusion_report.forms)
    exported = None
    jobs = {}
    for size, form in itertools.product(plan.inference_batch_sizes, forms):
        if form in ("merged", "dense", "auto") and not has_forms:
            continue  # no depthwise convolution: every form is the same
        images, _ = _batch(model, size)
        if gpu_names():  # as PyTorch's, they are there before
            images = keras.ops.convert_to_tensor(images)
        if form in ("plain", "fast"):
            run = km.inference_function(model)
        elif form == "separate":
            run = km.inference_function(separate)
        elif form in FUSED:
            run = km.inference_function(km.fuse(model, form, size, verbose=False))
        elif form == "saved_model":
            exported = exported or _saved_model(model, plan.inference_batch_sizes)
            run = exported
        elif form in ("litert", "litert_threads"):
            run = _litert(separate, 1 if form == "litert" else plan.threads)
        else:
            continue
        call = _traced_under(form, _answering(run, images))
        jobs[Case("inference", name, conv, size, form)] = Job(call)
    return jobs


def _answering(run, images):
    return lambda: keras.ops.convert_to_numpy(run(images))


def _give_moments(model):
    """Give the batch norms moments as after training, so that folding them is not trivial."""
    rng = np.random.default_rng(0)
    for weight in model.non_trainable_variables:
        if weight.name == "moving_mean":
            weight.assign(rng.normal(scale=0.1, size=weight.shape))
        elif weight.name == "moving_variance":
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))


def _saved_model(model, batch_sizes):
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

    def run(images):
        return loaded and signature(image=tf.convert_to_tensor(images))["probabilities"]

    return run


def _litert(model, threads):
    from keras_multiception.compression import LiteRTModel, convert_to_litert

    litert = LiteRTModel(convert_to_litert(model), num_threads=threads)
    return lambda images: litert.predict(images, batch_size=len(images))
