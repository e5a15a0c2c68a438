"""The server's page: its routes, and what a person sees and does in headless Chromium."""

import base64
import hashlib
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import requests
from PIL import Image
from saved_models import export_half_plus, export_light, saved, served, write_image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from test_floors import ROOT

from serving.config_files import ModelServerConfig
from serving.lifecycle.versions import Loading
from serving.version_folder import LABELS_FILE

SECONDS = 60
CLASSES = ["dark", "<b>bright</b>"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of a model for images, a plain one, and one with a version that does not load."""
    folder = tmp_path_factory.mktemp("page")
    export_light(folder / "brightness" / "1", CLASSES)
    (folder / "brightness" / "1" / "assets.extra").mkdir()
    (folder / "brightness" / "1" / LABELS_FILE).write_text("\n".join(CLASSES))
    shutil.copytree(saved(export_half_plus, 2), folder / "half" / "1")
    shutil.copytree(folder / "half" / "1", folder / "broken" / "1")
    (folder / "broken" / "2").mkdir()
    (folder / "broken" / "2" / "saved_model.pb").write_bytes(b"<script>alert(1)</script>")
    config = ModelServerConfig()
    for name in ("brightness", "half", "broken"):
        model = config.model_config_list.config.add(name=name, base_path=str(folder / name))
        model.model_version_policy.all.SetInParent()
    config.model_config_list.config[0].version_labels["stable"] = 1
    loading = Loading(file_system_poll_wait_seconds=0)
    with served(config, loading=loading) as running:
        yield running


def test_the_page_is_one_document_that_may_only_talk_to_its_server(server):
    response = requests.get(server.url, timeout=SECONDS)
    assert response.headers["Content-Type"].startswith("text/html")
    policy = dict(
        part.strip().split(" ", 1)
        for part in response.headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for tag in ("style", "script"):
        [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", response.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
        assert len(text) > 1000
    assert not re.findall(r"https?://", response.text)
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_the_state_tells_models_versions_labels_and_failures(server):
    state = requests.get(f"{server.url}/page.json", timeout=SECONDS).json()
    assert state["metrics_path"] == "/monitoring/prometheus/metrics"
    models = {model["name"]: model for model in state["models"]}
    assert "serving_bytes" in models["brightness"]["signatures"]
    assert models["brightness"]["labels"] == {"stable": 1}
    assert models["brightness"]["class_names"] == CLASSES
    assert models["half"]["class_names"] == []
    [failed, loaded] = models["broken"]["versions"]
    assert (loaded["version"], loaded["state"], loaded["error_message"]) == (1, "AVAILABLE", "")
    assert (failed["version"], failed["state"], failed["error_code"]) == (2, "END", "UNKNOWN")
    answer = requests.get(f"{server.url}/v1/models/broken", timeout=SECONDS).json()
    message = answer["model_version_status"][0]["status"]["error_message"]
    assert message == failed["error_message"] != ""


@pytest.fixture(scope="module")
def large_image(tmp_path_factory):
    """An image that is too large for one argument of a command."""
    path = tmp_path_factory.mktemp("image") / "large image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), "uint8")
    Image.fromarray(pixels).save(path)
    assert path.stat().st_size > 2**17
    return path


def labels_by_shell(command):
    if not shutil.which("curl"):
        pytest.skip("curl is not on this machine")
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [row["label"] for row in json.loads(result.stdout)["predictions"]]


def test_the_readme_s_command_takes_a_large_image(server, large_image):
    text = (ROOT / "README.md").read_text()
    command = re.search(r"^printf .*\n.*:predict -d @-$", text, re.MULTILINE)[0]
    for old, new in (
        ("http://127.0.0.1:8501", server.url),
        ("models/cifar10", "models/brightness"),
        ("photo.jpg", f"'{large_image}'"),
    ):
        assert old in command
        command = command.replace(old, new)
    assert labels_by_shell(command) in [["dark"], ["<b>bright</b>"]]


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium and chromedriver are not on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture
def page(browser, server):
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(server.url)
    until(browser, lambda: "available" in text(browser, "#health"))
    yield browser
    messages = [entry["message"] for entry in browser.get_log("browser")]
    assert not [message for message in messages if "400 (Bad Request)" not in message]


def until(browser, condition):
    return WebDriverWait(browser, SECONDS).until(lambda _: condition())


def text(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector).text


def choose(page, file, awaited):
    page.find_element(By.ID, "file").send_keys(str(file))
    until(page, lambda: page.find_elements(By.CSS_SELECTOR, f"#answer {awaited}"))


def scores(page):
    cells = [cell.text for cell in page.find_elements(By.CSS_SELECTOR, ".scores li span")]
    return dict(zip(cells[::2], cells[1::2], strict=True))


@pytest.mark.slow
def test_models_versions_and_health_are_shown(page):
    assert text(page, "#health") == "3 versions available, 1 failed"
    cards = [card.text for card in page.find_elements(By.CSS_SELECTOR, "#models .card")]
    assert "stable" in cards[0]
    assert "FAILED" in cards[2]


@pytest.mark.slow
@pytest.mark.parametrize(("value", "label"), [(0, CLASSES[0]), (255, CLASSES[1])])
def test_an_image_is_answered_with_its_scores(page, tmp_path, value, label):
    choose(page, write_image(tmp_path / "<i>image.png", value), ".label")
    assert text(page, "#answer .label") == label
    assert scores(page) == dict.fromkeys(CLASSES, "0.0 %") | {label: "100.0 %"}
    assert "<i>image.png" in text(page, "#file-name")
    assert page.find_element(By.ID, "preview").get_property("naturalWidth") == 6
    assert page.find_elements(By.CSS_SELECTOR, "#answer b, #file-name i") == []


@pytest.mark.slow
def test_the_command_shown_answers_as_the_page_does(page, large_image, tmp_path):
    (tmp_path / "letter.png").write_bytes(b"Dear server")
    choose(page, tmp_path / "letter.png", ".failure")
    assert "image" in text(page, "#answer .failure").lower()
    choose(page, large_image, "pre")
    command = page.find_element(By.CSS_SELECTOR, "#answer pre").get_property("textContent")
    assert "IMAGE" in command
    labels = labels_by_shell(command.replace("IMAGE", f"'{large_image}'"))
    assert labels == [text(page, "#answer .label")]


@pytest.mark.slow
def test_an_image_can_be_dropped(page):
    page.execute_script("""
        const canvas = Object.assign(document.createElement("canvas"), {width: 9, height: 9});
        canvas.toBlob((blob) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([blob], "dropped.png", {type: "image/png"}));
            const event = new DragEvent("drop", {dataTransfer: transfer, bubbles: true});
            document.getElementById("drop").dispatchEvent(event);
        });
    """)
    until(page, lambda: page.find_elements(By.CSS_SELECTOR, "#answer .label"))
    assert text(page, "#answer .label") == CLASSES[0]


@pytest.mark.slow
def test_latencies_are_shown_as_histograms(page, server):
    body = {"instances": [1.0, 2.0], "signature_name": "serving_default"}
    for _ in range(20):
        url = f"{server.url}/v1/models/half:predict"
        assert requests.post(url, json=body, timeout=SECONDS).status_code == 200
    until(page, lambda: "half predict REST" in text(page, "#latency"))
    card = page.find_element(By.XPATH, "//article[h3='half predict REST']")
    plot = card.find_element(By.CSS_SELECTOR, ".plot")
    assert "p99" in plot.get_attribute("aria-label")
    assert "20" in card.text.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "columns"), [(360, 1), (1200, 2)])
def test_it_fits_phones_and_desktops_in_both_themes(page, server, width, columns):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    grounds = set()
    for theme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": theme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        grounds.add(page.execute_script("return getComputedStyle(document.body).backgroundColor"))
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert len(grounds) == 2
    grid = "return getComputedStyle(document.querySelector('.try-grid')).gridTemplateColumns"
    assert len(page.execute_script(grid).split()) == columns


@pytest.mark.slow
def test_it_is_used_by_keyboard_and_every_control_has_a_name(page):
    reached = []
    for _ in range(3):
        ActionChains(page).send_keys(Keys.TAB).perform()
        reached.append(page.switch_to.active_element.get_attribute("id"))
    assert {"target", "file"} <= set(reached)
    for control in page.find_elements(By.CSS_SELECTOR, "input, select, a"):
        if control.is_displayed() or control.get_attribute("id") == "file":
            assert control.accessible_name


@pytest.mark.slow
def test_a_server_that_is_gone_is_said_to_be(page, server):
    page.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    page.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    try:
        until(page, lambda: text(page, "#health") == "The server does not answer")
    finally:
        online = {**offline, "offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
        page.execute_cdp_cmd("Network.emulateNetworkConditions", online)
    until(page, lambda: "available" in text(page, "#health"))
    page.get_log("browser")  # of what failed meanwhile
