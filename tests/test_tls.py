"""TLS of the gRPC server and of the client, with own certificates; two addresses of a name."""

import contextlib
import shutil
import ssl
import subprocess
import sys
import threading

import pytest
from saved_models import export_half_plus, export_light, saved, served, write_image
from test_client_failures import Scripted

from serving import client, server
from serving.client import Client
from serving.config_files import SSLConfig, read_ssl_config, single_model
from serving.model_server import ServerOptions, model_server

MAKE = """
set -e
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca
for name in server client; do
  openssl req -newkey rsa:2048 -nodes -keyout $name.key -out $name.csr -subj /CN=$name
  echo "subjectAltName=IP:127.0.0.1,DNS:localhost" > names
  openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
    -extfile names -out $name.pem
done
cat client.pem client.key > both.pem
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a CA and the certificates of a server and a client that it signed."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not on this machine")
    folder = tmp_path_factory.mktemp("certificates")
    subprocess.run(["sh", "-c", MAKE], cwd=folder, check=True, capture_output=True)
    write_image(folder / "image.png", 255)
    return folder


def ssl_config(files, client_verify=False, **changes):
    names = {"server_key": "server.key", "server_cert": "server.pem"}
    if client_verify:
        names["custom_ca"] = "ca.pem"
    texts = {field: (files / name).read_text() for field, name in (names | changes).items()}
    path = files / "ssl.config"
    path.write_text(str(SSLConfig(**texts, client_verify=client_verify)))
    return path


@contextlib.contextmanager
def served_over(scheme, files, client_verify):
    """A server of a model over gRPC, or the answers of one over HTTPS, which a proxy would send."""
    if scheme == "grpcs":
        config = read_ssl_config(ssl_config(files, client_verify))
        model = single_model("light", saved(export_light).parent)
        with served(model, port=0, ssl_config=config) as running:
            yield f"grpcs://{running.grpc_address}"
        return
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files / "ca.pem")
    context.load_cert_chain(files / "server.pem", files / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED if client_verify else ssl.CERT_NONE
    answers = Scripted([200] * 9, {})
    answers.socket = context.wrap_socket(answers.socket, server_side=True)
    answers.handle_error = lambda *_: None
    thread = threading.Thread(target=answers.serve_forever, args=(0.02,))
    thread.start()
    yield f"https://127.0.0.1:{answers.server_port}"
    answers.shutdown()
    thread.join()
    answers.server_close()


def ask(url, files, **options):
    options = {name: files / file for name, file in options.items()}
    with Client(url, model_name="light", retries=0, timeout=5, **options) as asking:
        return asking.predict([files / "image.png"])


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_a_server_is_trusted_by_its_authority(files, scheme):
    with served_over(scheme, files, False) as url:
        assert len(ask(url, files, ca_certificate="ca.pem")) == 1
        for options in ({}, {"ca_certificate": "client.pem"}):
            with pytest.raises(ConnectionError, match="certificate"):
                ask(url, files, **options)
        plain = url.replace("grpcs", "grpc").replace("https", "http")
        with pytest.raises(ConnectionError):
            ask(plain, files)


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_a_server_may_verify_its_clients(files, scheme):
    with served_over(scheme, files, True) as url:
        trusted = {"ca_certificate": "ca.pem"}
        pair = {"client_certificate": "client.pem", "client_key": "client.key"}
        for own in (pair, {"client_certificate": "both.pem"}):
            assert len(ask(url, files, **trusted, **own)) == 1
        with pytest.raises(ConnectionError):
            ask(url, files, **trusted)


def test_the_command_takes_the_files(files, capsys):
    arguments = ["--model_name=light", f"--image={files}/image.png"]
    with served_over("grpcs", files, True) as url:
        flags = [f"--ca_certificate={files}/ca.pem", f"--client_certificate={files}/both.pem"]
        assert client.main([*arguments, "--url", url, *flags]) == 0
    assert "bright" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        {"ca_certificate": "none.pem"},
        {"ca_certificate": "ca.key"},
        {"client_certificate": "client.pem", "client_key": "server.key"},
        {"client_certificate": "client.pem"},
    ],
)
def test_files_that_the_client_cannot_take(files, options):
    for url in ("grpcs://127.0.0.1", "https://127.0.0.1"):
        with pytest.raises(ValueError, match="must be PEM files"):
            ask(url, files, **options)
    with pytest.raises(ValueError, match="need https:// or grpcs://"):
        ask("grpc://127.0.0.1", files, **options)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"server_key": "client.key"}, "mismatch"),
        ({"server_cert": "ca.key"}, "PEM texts"),
        ({"client_verify": True, "custom_ca": "ca.key"}, "PEM texts"),
        ({"client_verify": True, "custom_ca": "none"}, "without custom_ca"),
    ],
)
def test_files_that_the_server_cannot_take(files, changes, words):
    (files / "none").touch()
    with pytest.raises(ValueError, match=words):
        read_ssl_config(ssl_config(files, **changes))


HOSTS = "127.0.0.1 localhost\n127.0.0.1 pods\n127.0.0.2 pods\n"
ASK = """
import collections, sys
from serving.client import Client
with Client(sys.argv[1], model_name="half") as client:
    print(min(collections.Counter(str(client.states()) for _ in range(50)).values()))
"""


@pytest.mark.slow
def test_all_addresses_of_a_name_are_asked_in_turns(tmp_path):
    """As the pods of a headless Service: `pods` is two servers here, of two versions."""
    (tmp_path / "hosts").write_text(HOSTS)
    shell = ["unshare", "--mount", "sh", "-c", f'mount --bind {tmp_path}/hosts /etc/hosts && "$@"']
    if subprocess.run([*shell, "sh", "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root may give a process other names of hosts")
    with contextlib.ExitStack() as stack:
        port = 0
        for number, host in enumerate(("127.0.0.1", "127.0.0.2"), start=1):
            shutil.copytree(saved(export_half_plus, 1), tmp_path / host / str(number))
            options = ServerOptions(host=host, port=port)
            listener = stack.enter_context(server.listen(host, 0))
            config = single_model("half", tmp_path / host)
            running = stack.enter_context(model_server(config, listener, options))
            port = int(running.grpc_address.rpartition(":")[2])
        command = [*shell, "sh", sys.executable, "-c", ASK, f"grpc://pods:{port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert 10 < int(done.stdout) <= 25, done.stderr
