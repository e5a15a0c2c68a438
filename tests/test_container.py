"""The files that deploy TensorFlow Serving, checked against schemas, linters and each other."""

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from commands import usage_error
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig
from test_floors import ROOT

from serving.api.rest import METRICS_PATH
from serving.config_files import MonitoringConfig, read_config
from serving.engine.batching import read_batching
from serving.server import parse
from serving.telemetry import Call, Telemetry
from training import train, tune

SERVING = ROOT / "serving"
TRAINING = ROOT / "training"
KUBERNETES = ("volume", "deployment", "service", "headless", "autoscaler")


def document(name, folder=SERVING):
    return yaml.safe_load((folder / name).read_text())


def validate(manifest):
    kubernetes_validate.validate(manifest, "1.33", strict=True)


def pod(spec):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


def dockerfile_command():
    text = (SERVING / "Dockerfile").read_text().replace("\\\n", "")
    return ast.literal_eval(re.search(r"^CMD (\[.*\])$", text, re.MULTILINE)[1])


def container():
    [container] = document("k8s/deployment.yaml")["spec"]["template"]["spec"]["containers"]
    return container


def arguments(container):
    """The arguments as Kubernetes gives them to the container."""
    cpus = container["resources"]["requests"]["cpu"]
    return [argument.replace("$(CPUS)", cpus) for argument in container["args"]]


@pytest.mark.parametrize(
    "command",
    [
        ("hadolint", "Dockerfile"),
        ("hadolint", "../training/Dockerfile"),
        ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"),
    ],
)
def test_docker_s_files_pass_the_linters(command):
    tool = Path(sys.executable).with_name(command[0])
    result = subprocess.run([tool, *command[1:]], cwd=SERVING, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", KUBERNETES)
def test_kubernetes_manifests_fit_the_schemas(name):
    validate(document(f"k8s/{name}.yaml"))


def test_the_kserve_service_holds_a_container_that_kubernetes_takes():
    service = document("k8s/inference_service.yaml")
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert service.keys() == {"apiVersion", "kind", "metadata", "spec"}
    predictor = service["spec"]["predictor"]
    assert predictor["scaleMetric"] in ("concurrency", "rps", "cpu", "memory")
    model = predictor["model"]
    assert model["modelFormat"] == {"name": "tensorflow"}
    kept = {"name": "model", **{key: model[key] for key in ("args", "env", "resources")}}
    validate(pod({"containers": [kept]}))
    parsed = parse([*arguments(kept), "--model_base_path=x"])
    assert parsed.tensorflow_inter_op_parallelism == int(model["resources"]["requests"]["cpu"])
    claim = document("k8s/volume.yaml")["metadata"]["name"]
    assert model["storageUri"] == f"pvc://{claim}/{served_models()[0]}"


def served_models():
    config = read_config(SERVING / "models.config", ModelServerConfig)
    return [model.name for model in config.model_config_list.config]


def test_settings_are_messages_of_the_model_server():
    assert served_models() == ["digits"]
    assert read_batching(SERVING / "batching.config").allowed_batch_sizes[-1] == 64
    monitoring = read_config(SERVING / "monitoring.config", MonitoringConfig)
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == METRICS_PATH


@pytest.mark.parametrize("given", [dockerfile_command(), arguments(container())])
def test_containers_are_started_with_flags_that_our_server_takes_too(given):
    parsed = parse(given)
    assert (parsed.port, parsed.rest_api_port, parsed.enable_batching) == (8500, 8501, True)
    settings = [parsed.model_config_file, parsed.batching_parameters_file]
    for file in [*settings, parsed.monitoring_config_file]:
        assert file.parent == Path("/etc/serving")
        assert (SERVING / file.name).is_file()


def test_every_image_is_of_the_release_of_the_serving_api():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    api = re.search(r"tensorflow-serving-api~=(\S+)", setup["options.extras_require"]["serving"])
    versions = [
        re.search(r"TF_SERVING_VERSION=(\S+)", (SERVING / "Dockerfile").read_text())[1],
        container()["image"].removeprefix("tensorflow/serving:"),
        document("k8s/inference_service.yaml")["spec"]["predictor"]["model"]["runtimeVersion"],
    ]
    assert set(versions) == {api[1]}


def test_open_requests_end_before_the_server_which_ignores_sigterm_is_killed():
    waited = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert waited >= 5 + parse(arguments(container())).rest_api_timeout_in_ms / 1000
    pod = document("k8s/deployment.yaml")["spec"]["template"]["spec"]
    assert waited < pod["terminationGracePeriodSeconds"] <= waited + 5


def test_probes_ask_for_a_model_that_is_served_and_ports_agree():
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        get = container()[probe]["httpGet"]
        assert get["path"].split("/")[3] in served_models()
        assert get["port"] in ports
    service = document("k8s/service.yaml")["spec"]
    deployment = document("k8s/deployment.yaml")["spec"]
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports
    assert service["selector"] == deployment["template"]["metadata"]["labels"]
    assert service["selector"] == deployment["selector"]["matchLabels"]
    headless = document("k8s/headless.yaml")["spec"]
    assert (headless["clusterIP"], headless["selector"]) == ("None", service["selector"])
    assert headless["ports"] == [{"name": "grpc", "port": ports["grpc"], "targetPort": "grpc"}]
    for autoscaler in ("autoscaler", "scaled_object"):
        target = document(f"k8s/{autoscaler}.yaml")["spec"]["scaleTargetRef"]["name"]
        assert target == document("k8s/deployment.yaml")["metadata"]["name"]


def test_threads_and_memory_are_those_that_a_pod_has():
    cpus = int(container()["resources"]["requests"]["cpu"])
    parsed = parse(arguments(container()))
    assert parsed.tensorflow_intra_op_parallelism == cpus
    assert parsed.tensorflow_inter_op_parallelism == cpus
    assert dict(parsed.grpc_channel_arguments)["grpc.max_connection_age_ms"] >= 60_000
    memory = [container()["resources"][kind]["memory"] for kind in ("requests", "limits")]
    assert memory[0] == memory[1]


def test_the_scaled_object_asks_for_a_metric_that_the_server_has():
    scaled = document("k8s/scaled_object.yaml")
    assert (scaled["apiVersion"], scaled["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    by_cpu, by_requests = scaled["spec"]["triggers"]
    assert by_cpu["type"] == "cpu"
    query = by_requests["metadata"]["query"]
    telemetry = Telemetry()
    telemetry.record(Call("REST", model="digits"))
    metric = re.search('__name__="(.*?)"', query)[1]
    assert f"\n{metric}{{".encode() in telemetry.page()


# ---- training


def test_training_s_manifests_fit_the_schemas_and_the_commands(capsys):
    validate(document("k8s/volume.yaml", TRAINING))
    claim = document("k8s/volume.yaml", TRAINING)["metadata"]["name"]
    job = document("k8s/multi_worker.yaml", TRAINING)
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "TFJob")
    worker = job["spec"]["tfReplicaSpecs"]["Worker"]
    assert worker.keys() == {"replicas", "restartPolicy", "template"}
    service, chief, workers = document("k8s/tuner.yaml", TRAINING)["items"]
    for manifest in (service, chief, workers, pod(worker["template"]["spec"])):
        validate(manifest)
    jobs = [each["spec"]["template"]["spec"] for each in (chief, workers)]
    for spec in (worker["template"]["spec"], *jobs):
        assert spec["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim
    [container] = worker["template"]["spec"]["containers"]
    assert container["name"] == "tensorflow"
    (first,), (other,) = (spec["containers"] for spec in jobs)
    assert first["args"] == other["args"]
    for command, (module, *flags) in ((train, container["args"]), (tune, first["args"])):
        assert module == command.__name__
        assert "no_value" in usage_error(capsys, command.main, [*flags, "--set", "no_value=1"])
    variables = {each["name"]: each.get("value") for each in other["env"]}
    assert variables["KERASTUNER_ORACLE_IP"] == service["metadata"]["name"]
    assert variables["KERASTUNER_ORACLE_PORT"] == str(service["spec"]["ports"][0]["port"])
    assert service["spec"]["selector"] == {
        "batch.kubernetes.io/job-name": chief["metadata"]["name"]
    }


def test_kustomization_names_files_and_settings_that_are_there():
    kustomization = document("kustomization.yaml")
    assert kustomization["resources"] == [f"k8s/{name}.yaml" for name in KUBERNETES]
    [settings] = kustomization["configMapGenerator"]
    files = [*kustomization["resources"], *settings["files"]]
    assert all((SERVING / file).is_file() for file in files)
    volumes = document("k8s/deployment.yaml")["spec"]["template"]["spec"]["volumes"]
    assert settings["name"] in [volume.get("configMap", {}).get("name") for volume in volumes]
