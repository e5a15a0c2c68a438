"""The client against our own server, and against what else may answer at a port."""

import http.server
import io
import json
import signal
import socket
import subprocess
import sys
import threading

import pytest
from light_model import light_server, write_image
from PIL import Image

from serving import client


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    with light_server(tmp_path_factory.mktemp("light")) as running:
        yield running


@pytest.fixture
def url(light):
    return light.url


@pytest.fixture
def images(tmp_path):
    """A dark and a bright file in each format."""
    suffixes = ("png", "jpeg", "bmp", "gif")
    return [
        str(write_image(tmp_path / f"{suffix}.{suffix}", [0, 204][index % 2]))
        for index, suffix in enumerate(suffixes)
    ]


@pytest.fixture
def odd_server():
    """Starts a server that answers every call with given bytes, or never (`None`)."""
    servers = []

    def start(answer, status=200):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                if answer is None:
                    start.asked.set()
                    done.wait()
                    return
                self.send_response(status)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        done = threading.Event()
        odd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=odd.serve_forever, daemon=True).start()
        servers.append((odd, done))
        return f"http://127.0.0.1:{odd.server_port}"

    start.asked = threading.Event()
    yield start
    for odd, done in servers:
        done.set()
        odd.shutdown()
        odd.server_close()


def a_png():
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    return buffer.getvalue()


def test_predict_files_and_bytes(url, images):
    answers = client.predict([*images, a_png()], url, model_name="light", version=2)
    assert [answer.label for answer in answers] == ["dark", "bright", "dark", "bright", "dark"]
    assert [answer.class_id for answer in answers] == [0, 1, 0, 1, 0]
    assert answers[1].probability == pytest.approx(0.8)
    assert answers[1].probabilities == pytest.approx((0.2, 0.8))


def test_grpc_says_what_rest_says(light, images):
    grpc = f"grpc://{light.grpc_address}"
    answers = client.predict(images, grpc, model_name="light")
    others = client.predict(images, light.url, model_name="light", version=2)
    assert [answer.label for answer in answers] == [other.label for other in others]
    for answer, other in zip(answers, others, strict=True):
        assert answer.probabilities == pytest.approx(other.probabilities, abs=1e-6)
    with pytest.raises(client.ServerError, match=r"Latest\(nope\)") as caught:
        client.predict(images, grpc, model_name="nope")
    assert caught.value.status == 5
    with pytest.raises(client.ServerError, match='"nope" not found'):
        client.predict(images, grpc, model_name="light", signature_name="nope")
    with pytest.raises(client.ServerError, match="does this signature classify images"):
        client.predict(images, grpc, model_name="light", signature_name="size")
    with pytest.raises(client.ServerError, match="does this signature classify images"):
        client.predict(images, grpc, model_name="light", signature_name="count")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectionError, match=rf"at 127\.0\.0\.1:{port} over gRPC"):
        client.predict(images, f"grpc://127.0.0.1:{port}", timeout=0.5)


def test_the_command_line_prints_a_table(url, images):
    command = [sys.executable, "-m", "serving.client", "--url", url, "--model_name", "light"]
    done = subprocess.run(
        [*command, "--image", *images[:2]], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    header, dark, bright = done.stdout.splitlines()
    assert header.split() == ["file", "label", "class", "probability"]
    assert dark.split() == [images[0], "dark", "0", "1.0000"]
    assert bright.split() == [images[1], "bright", "1", "0.8000"]


def test_the_command_line_prints_json(url, images, capsys):
    port = url.rpartition(":")[2]
    arguments = ["--port", port, "--model_name=light", "--json", "--image", images[1]]
    assert client.main(arguments) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["file"] == images[1]
    assert (row["label"], row["class_id"], len(row["probabilities"])) == ("bright", 1, 2)


def test_files_that_cannot_be_sent(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none\.png\."):
        client.predict([tmp_path / "none.png"])
    with pytest.raises(OSError, match=r"Cannot read .*: Is a directory\."):
        client.predict([tmp_path])
    with pytest.raises(ValueError, match=r"a JPEG, PNG, GIF or BMP image. Received: .*text\.png"):
        client.predict([tmp_path / "text.png"])
    with pytest.raises(ValueError, match="Received: 3 bytes"):
        client.predict([b"abc"])
    with pytest.raises(ValueError, match="Received: url='file:///etc'"):
        client.predict([a_png()], "file:///etc")


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectionError, match=r"Cannot reach .*: Connection refused\."):
        client.predict([a_png()], f"http://127.0.0.1:{port}")


def test_the_server_s_error_is_passed_on(url, images):
    with pytest.raises(client.ServerError, match=r"Latest\(nope\)") as caught:
        client.predict(images, url, model_name="nope")
    assert caught.value.status == 404
    with pytest.raises(client.ServerError, match="'nope' not found") as caught:
        client.predict(images, url, model_name="light", signature_name="nope")
    assert caught.value.status == 400
    with pytest.raises(client.ServerError, match=r"version 9|Specific\(light, 9\)"):
        client.predict(images, url, model_name="light", version=9)
    with pytest.raises(client.ServerError, match="does this signature classify images"):
        client.predict(images, url, model_name="light", signature_name="size")
    with pytest.raises(client.ServerError, match="needs outputs of one batch size"):
        client.predict(images, url, model_name="light", signature_name="count")
    truncated = a_png()[:40]
    with pytest.raises(client.ServerError, match="The server answered: "):
        client.predict([truncated], url, model_name="light")


def test_a_server_that_does_not_answer(odd_server):
    with pytest.raises(TimeoutError, match=r"did not answer within 0\.2 seconds"):
        client.predict([a_png()], odd_server(None), timeout=0.2)


def test_ctrl_c_while_it_waits(odd_server, images):
    url = odd_server(None)
    command = [sys.executable, "-m", "serving.client", "--url", url, "--timeout=120", "--image"]
    with subprocess.Popen(
        [*command, images[0]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background
    ) as process:
        assert odd_server.asked.wait(timeout=60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "Interrupted.\n")


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (b"not JSON", 200, "answered without `label`"),
        (b'{"predictions": []}', 200, "for 0 images instead of 1"),
        (b"<html>", 502, "HTTP status 502: Bad Gateway"),
        (b'{"error": "too much"}', 429, "answered: too much"),
    ],
)
def test_a_server_that_answers_something_else(odd_server, answer, status, words):
    with pytest.raises(client.ServerError, match=words):
        client.predict([a_png()], odd_server(answer, status))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "required: --image"),
        (["--image", "a.png", "--port", "0"], 2, "--port: must be from 1 to 65535, not 0"),
        (["--image", "a.png", "--timeout", "0"], 2, "--timeout: must be a positive number"),
        (["--image", "none.png"], 1, "There is no file none.png."),
        (["--image", __file__], 1, "Expected a JPEG, PNG, GIF or BMP image."),
    ],
)
def test_the_command_line_fails_in_one_line(arguments, code, words, capsys):
    with pytest.raises(SystemExit) as caught:
        sys.exit(client.main(arguments))
    assert caught.value.code == code
    [line] = capsys.readouterr().err.splitlines()
    assert words in line
