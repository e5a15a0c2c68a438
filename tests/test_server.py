"""The server's command line in a real process, and `running` in this one."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import requests
from commands import usage_error
from saved_models import export_various, saved

from serving import server
from serving.server import parse


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    """A base path that holds version 3 of a model with a signature that takes its time."""
    folder = tmp_path_factory.mktemp("various")
    shutil.copytree(saved(export_various), folder / "3")
    return folder


def predict(url, **request):
    response = requests.post(f"{url}:predict", json=request, timeout=30)
    response.raise_for_status()
    return response.json()


def test_the_command_serves_until_sigterm_and_finishes_what_has_begun(base_path, tmp_path):
    """With config files of all kinds, a label, batching, own metrics and an access log."""
    texts = {
        "models": f'''model_config_list {{ config {{
          name: "m" base_path: "{base_path}" model_platform: "tensorflow"
          model_version_policy {{ all {{}} }} version_labels {{ key: "stable" value: 3 }}
        }} }}''',
        "batching": "max_batch_size { value: 4 }",
        "monitoring": 'prometheus_config { enable: true path: "/own/metrics" }',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    log = tmp_path / "access.log"
    flags = [
        "--port=0",
        "--rest_api_port=0",
        f"--model_config_file={tmp_path}/models",
        "--model_config_file_poll_wait_seconds=1",
        "--enable_batching",
        f"--batching_parameters_file={tmp_path}/batching",
        f"--monitoring_config_file={tmp_path}/monitoring",
        "--allow_version_labels_for_unavailable_models=true",
        "--rest_api_timeout_in_ms=20000",
        "--max_num_load_retries=2",
        "--enable_model_warmup=false",
        "--tensorflow_inter_op_parallelism=1",
        "--grpc_channel_arguments=grpc.max_concurrent_streams=9",
        f"--access_log={log}",
    ]
    command = [sys.executable, "-m", "serving.server", *flags]
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            ready = process.stdout.readline()
            found = re.fullmatch(r"Serving m version 3 at (http://\S+:\d+)/v1/models/m\n", ready)
            assert found, ready + process.stderr.read()
            assert re.fullmatch(r"Serving gRPC at 127\.0\.0\.1:\d+\n", process.stdout.readline())
            model = f"{found[1]}/v1/models/m"
            assert predict(f"{model}/labels/stable", inputs=[2.0]) == {"outputs": [3.0]}
            with pytest.raises(requests.HTTPError, match="400"):
                predict(model, inputs=[2.0] * 5)
            metrics = requests.get(f"{found[1]}/own/metrics", timeout=20).text
            assert ":tensorflow:serving:request_count" in metrics
            answers = []
            slow = {"signature_name": "slow", "inputs": 1500}
            call = threading.Thread(target=lambda: answers.append(predict(model, **slow)))
            call.start()
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
            call.join()
            assert answers == [{"outputs": 1.0}]
            assert process.stdout.read() == ""
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            assert [line["code"] for line in lines] == [200, 400, 200]
        finally:
            process.kill()


@pytest.fixture
def kept_signals():
    """Gives the handlers back that the command line replaces."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model_base_path=none"], "`model_base_path`"),
        (["--model_config_file=none"], "ModelServerConfig"),
        (["--model_base_path=.", f"--ssl_config_file={__file__}"], "SSLConfig"),
    ],
)
@pytest.mark.usefixtures("kept_signals")
def test_what_cannot_be_served_is_one_line(capsys, flags, words):
    assert server.main([*flags, "--rest_api_port=0", "--port=0", "--access_log="]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize(
    "flag",
    [
        "rest_api_port=65536",
        "file_system_poll_wait_seconds=nan",
        "model_base_path=",
        "model_nam=y",
        "use_alts_credentials",
        "enable_batching=maybe",
        "batching_parameters_file=y",
        "grpc_channel_arguments=y",
        "engine=tensorrt",
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(flag, capsys):
    line = usage_error(capsys, server.main, ["--model_base_path=x", f"--{flag}"])
    assert flag.partition("=")[0] in line


# Every flag of tensorflow_model_server, and its default.
TENSORFLOW_SERVING = """
    port=8500 grpc_socket_path= rest_api_port=0 rest_api_num_threads=16
    rest_api_timeout_in_ms=30000 rest_api_enable_cors_support=false enable_batching=false
    allow_version_labels_for_unavailable_models=false batching_parameters_file=
    enable_per_model_batching_parameters=false model_config_file=
    model_config_file_poll_wait_seconds=0 model_name=default model_base_path=/models/model
    num_load_threads=0 num_unload_threads=0 max_num_load_retries=5
    load_retry_interval_micros=60000000 file_system_poll_wait_seconds=1
    flush_filesystem_caches=true tensorflow_session_parallelism=0 tensorflow_session_config_file=
    tensorflow_intra_op_parallelism=0 tensorflow_inter_op_parallelism=0 use_alts_credentials=false
    ssl_config_file= platform_config_file= per_process_gpu_memory_fraction=0 saved_model_tags=
    grpc_channel_arguments= grpc_max_threads=16 enable_model_warmup=true
    num_request_iterations_for_warmup=0 monitoring_config_file=
    remove_unused_fields_from_bundle_metagraph=true prefer_tflite_model=false num_tflite_pools=4
    num_tflite_interpreters_per_pool=1 enable_signature_method_name_check=false
    xla_cpu_compilation_enabled=false xla_gpu_compilation_enabled=false enable_profiler=true
    mixed_precision= skip_initialize_tpu=false thread_pool_factory_config_file=
    enable_grpc_healthcheck_service=false enable_serialization_as_tensor_content=false
"""


def test_every_flag_of_tensorflow_serving_is_taken_at_its_default(capsys):
    flags = parse([f"--{flag}" for flag in TENSORFLOW_SERVING.split()])
    assert (flags.model_config_file, flags.batching_parameters_file) == (None, None)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m serving.server: warning: ignored, without a meaning here: ")
    assert "--flush_filesystem_caches" in line
    assert "--model_name" not in line


def test_the_container_s_entry_point_names_a_folder_beside_a_config_file(capsys):
    flags = parse(["--model_name=model", "--model_base_path=/models/m", "--model_config_file=y"])
    assert flags.model_config_file.name == "y"
    assert capsys.readouterr().err == ""


def test_running_serves_and_gives_its_port_back(base_path):
    with server.running(base_path, model_name="m") as url:
        assert predict(f"{url}/v1/models/m", inputs=[2.0]) == {"outputs": [3.0]}
        port = int(url.rpartition(":")[2])
        with pytest.raises(OSError, match=f"port {port} .* already in use"):
            server.running(base_path, rest_api_port=port).__enter__()
    with server.running(base_path, model_name="m", rest_api_port=port) as again:
        assert again == url


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_running_on_ipv6(base_path):
    with server.running(base_path, rest_api_host="::1") as url:
        assert predict(f"{url}/v1/models/default", inputs=[2.0]) == {"outputs": [3.0]}
