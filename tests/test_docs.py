"""Every public name has an example, and the examples of the docstrings run."""

import doctest
import importlib
import importlib.util
import inspect
import itertools

import keras
import numpy as np
import pytest
from test_saved_model import small_network

import keras_multiception as km
import serving
from keras_multiception import compression
from serving.server import running

MODULES = [
    *("keras_multiception", "keras_multiception.layers", "keras_multiception.optimizers"),
    *("keras_multiception.preprocessing", "keras_multiception.equations"),
    *("keras_multiception.scale_analysis", "keras_multiception.compression", "serving.client"),
]
PARSER = doctest.DocTestParser()


def public_objects(module):
    names = getattr(module, "__all__", None)
    for name, value in vars(module).items():
        mine = getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
        if callable(value) and (mine if names is None else name in names):
            yield name, value


def docstrings():
    """The docstrings that have examples, by where they are."""
    found = {}
    for module in map(importlib.import_module, MODULES):
        for name, value in [("", module), *public_objects(module)]:
            text = inspect.getdoc(value) or ""
            if PARSER.get_examples(text) and text not in found.values():
                found[f"{module.__name__} {name}".strip()] = text
    return found


DOCSTRINGS = docstrings()


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_an_example(module):
    examples = itertools.chain(*map(PARSER.get_examples, DOCSTRINGS.values()))
    shown = "".join(example.source + example.want for example in examples)
    for name, value in public_objects(importlib.import_module(module)):
        assert name in shown or PARSER.get_examples(inspect.getdoc(value) or ""), name


class Checker(doctest.OutputChecker):
    """Compares what an example shows; one that shows nothing may say anything."""

    def check_output(self, want, got, optionflags):
        return not want or super().check_output(want, got, optionflags)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the examples take for granted: imports, a network, images, files and a server."""
    folder = tmp_path_factory.mktemp("examples")
    model = small_network()
    images = np.random.default_rng(0).integers(0, 256, (640, 32, 32, 3), dtype="uint8")
    keras.utils.save_img(folder / "digit.png", images[0])
    (folder / "photo.jpg").write_text("not an image")
    content = compression.convert_to_litert(model)
    compression.save_litert(content, folder / "model.tflite")
    km.export_saved_model(model, folder / "models" / "digits" / "1", "digits", form="plain")
    x = km.preprocessing.preprocess_input(images, "digits")
    labels = np.zeros(len(x), int)
    base = {"keras": keras, "km": km, "np": np, "serving": serving, "model": model}
    base |= {name: getattr(compression, name) for name in compression.__all__}
    with (
        pytest.MonkeyPatch.context() as patch,
        running(folder / "models" / "digits", model_name="digits") as url,
    ):
        patch.chdir(folder)
        yield base | {"images": x, "x": x[:8], "image": x[0], "labels": labels, "url": url}


@pytest.mark.slow
@pytest.mark.parametrize("where", DOCSTRINGS)
def test_examples_run(where, names):
    if "torch." in DOCSTRINGS[where]:
        pytest.importorskip("torch")
    module = importlib.import_module(where.split()[0])
    test = PARSER.get_doctest(DOCSTRINGS[where], vars(module) | names, where, None, 0)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    output = []
    doctest.DocTestRunner(Checker(), optionflags=flags).run(test, out=output.append)
    assert not output, "".join(output)
