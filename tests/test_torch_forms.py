"""The PyTorch networks that the benchmark races with are those of the paper, as ours are."""

import keras
import numpy as np
import pytest

import keras_multiception as km

torch = pytest.importorskip("torch")
from training.benchmarks import torch_forms, torch_networks  # noqa: E402
from training.benchmarks.runner import PEERS, Plan  # noqa: E402

NETWORKS = [
    *(("resnet20", conv) for conv in ("standard", "dsconv", "mixconv", "multiception")),
    ("resnet50", "multiception"),
    ("mobilenetv2", "dsconv"),
    ("mobilenetv2", "multiception"),
]


def randomize(network):
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.dtype == torch.float32:
                value.add_(0.1 * torch.randn_like(value))
    return network.eval()


@pytest.mark.parametrize(("name", "conv"), NETWORKS)
def test_parameters_and_logits_equal_ours(name, conv):
    theirs = randomize(torch_networks.create_model(name, conv))
    size = {"input_shape": (32, 32, 3)} if name == "mobilenetv2" else {}
    ours = km.create_model(name, conv=conv, classifier_activation=None, **size)
    count = sum(parameter.numel() for parameter in theirs.parameters())
    assert count == km.cost(ours).trainable_parameters
    km.load_torch_state_dict(ours, theirs.state_dict())
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    with torch.no_grad():
        expected = theirs(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    logits = keras.ops.convert_to_numpy(ours(images, training=False))
    assert np.std(expected) > 1e-3
    np.testing.assert_allclose(logits, expected, atol=2e-4 * np.abs(expected).max())


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match=r"`name` must be one of .* Received: name='vgg'"):
        torch_networks.create_model("vgg", "standard")


@pytest.mark.slow
def test_every_peer_answers_alike():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    settings = {"batch_size": 2, "inference_batch_sizes": (1, 3), "threads": 1}
    answers = {}
    for form in PEERS[:4]:
        plan = Plan(("resnet20",), ("multiception",), ("inference",), PEERS[:4], **settings)
        cases = torch_forms.prepare(form, "resnet20", "multiception", plan)
        answers[form] = [call() for _, call in cases]
    for one, other in (PEERS[:2], PEERS[2:4]):  # the first two were trained for two steps
        for a, b in zip(answers[one], answers[other], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
            np.testing.assert_allclose(a.sum(1), 1, rtol=1e-5)
