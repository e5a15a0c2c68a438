"""Serve an exported model, ask it about an image, and hold its answer against the notebook's.

    python -m serving.demo --run runs/demo --base_path runs/demo/served/digits --image digit.png
    python -m serving.demo --pretrained cifar10/resnet20_multiception \
        --base_path runs/demo/served/cifar10 --image training/photos/cat.png

The server is another process, the request a real one over HTTP. "The notebook" is what a user
would type: load the network, read the image, preprocess, predict.
"""

import argparse
import contextlib
import pathlib
import subprocess
import sys

import numpy as np

from serving import client

MODEL_NAME = "demo"
# The exported network has its batch norms folded: the same numbers, rounded otherwise.
TOLERANCE = 1e-5


@contextlib.contextmanager
def server(base_path):
    """Run `python -m serving.server` on a free port for the length of a `with` block.

    Args:
        base_path: Path of the folder that holds the model's versions.

    Yields:
        The server's URL.

    Raises:
        RuntimeError: If the server does not start.
    """
    ports = ["--port=0", "--rest_api_port=0"]
    flags = [f"--model_name={MODEL_NAME}", f"--model_base_path={base_path}", *ports]
    command = [sys.executable, "-m", "serving.server", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = next(iter(process.stdout or ()), "").strip()
            if " at http" not in line:
                raise RuntimeError(f"The server did not start: {line or 'see the message above'}")
            print(line)
            yield line.split(" at ")[-1].split("/v1/")[0]
        finally:
            process.terminate()
            process.wait(timeout=60)
            print("Server stopped.")


def notebook_answer(model, facts, image):
    """Return the probabilities that a network gives an image file, as in a notebook.

    Args:
        model: A `keras.Model`.
        facts: The `km.preprocessing.Dataset` of its images.
        image: Path of the image file.

    Returns:
        Array of shape (classes,).
    """
    from keras import ops
    from PIL import Image

    import keras_multiception as km

    pixels = np.asarray(Image.open(image).convert("RGB"), "float32")
    pixels = ops.image.resize(pixels[None], facts.image_shape[:2], antialias=True)
    x = km.preprocessing.preprocess_input(np.asarray(pixels), facts)
    return model.predict(x, verbose=0)[0]


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: List of arguments; the default is the process's.

    Returns:
        The exit code: 0 if both answers are the same, 1 if not, 2 if there are not both, 130 if it
        was interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m serving.demo", description=__doc__)
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--run", type=pathlib.Path, help="folder of the training run it is from")
    network.add_argument("--pretrained", help="name of the weights that it is from")
    parser.add_argument("--base_path", required=True, help="folder of the served model's versions")
    parser.add_argument("--image", required=True, type=pathlib.Path, help="image file to ask about")
    args = parser.parse_args(arguments)
    try:
        with server(args.base_path) as url:
            (served,) = client.predict([args.image], url, model_name=MODEL_NAME)
        probabilities, class_names = _ask_notebook(args)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130

    answers = {"server": np.array(served.probabilities), "notebook": probabilities}
    print(f"\n{args.image}\n{'':<10}{'label':<12}{'class id':<10}probability")
    for who, answer in answers.items():
        best = int(answer.argmax())
        print(f"{who:<10}{class_names[best]:<12}{best:<10}{answer[best]:.7f}")
    difference = float(np.abs(answers["server"] - answers["notebook"]).max())
    same = served.label == class_names[int(probabilities.argmax())] and difference <= TOLERANCE
    print(
        f"{'The answers are the same' if same else 'THE ANSWERS DIFFER'}: all "
        f"{len(probabilities)} probabilities within {difference:.1e} of each other."
    )
    return 0 if same else 1


def _ask_notebook(args):
    from serving.publishing.networks import load_pretrained, load_run

    if args.run:
        model, facts = load_run(args.run)
    else:
        model, facts, _ = load_pretrained(args.pretrained)
    return notebook_answer(model, facts, args.image), facts.class_names


if __name__ == "__main__":
    sys.exit(main())
