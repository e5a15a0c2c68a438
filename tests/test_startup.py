"""What comes with TensorFlow's import: oneDNN, a hint where it is too late, no lines of its own."""

import os
import subprocess
import sys

import pytest

IS_ON = "from tensorflow.python.util import _pywrap_util_port as port; print(port.IsMklEnabled())"


def run(code, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TF_") and "KERAS" not in k}
    return subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("end", ["", "os.abort()"])
def test_news_is_dropped_and_errors_come_through_even_the_last_words(end):
    code = f"""
import os
from keras_multiception.startup import quiet
with quiet():
    os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called\\n")
    os.write(2, b"I0000 00:00:1.2 7 port.cc:153] oneDNN custom operations are on.\\n")
    os.write(2, b"E0000 00:00:1.2 7 cuda.cc:1] no such device\\n")
    {end}
os.write(2, b"I0000 after\\n")
"""
    result = run(code, TF_CPP_MIN_LOG_LEVEL="3", KERAS_BACKEND="numpy")  # it is imported soonest
    after = [] if end else ["I0000 after"]
    assert result.stderr.splitlines()[:2] == ["E0000 00:00:1.2 7 cuda.cc:1] no such device", *after]


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["1", "0", None])
def test_import_is_quiet_and_turns_onednn_on_unless_the_user_did_not_want_it(setting):
    chosen = {} if setting is None else {"TF_ENABLE_ONEDNN_OPTS": setting}
    result = run(f"import keras_multiception; {IS_ON}", TF_CPP_MIN_LOG_LEVEL="3", **chosen)
    assert (result.stdout.strip(), result.stderr) == (str(setting != "0"), "")


@pytest.mark.slow
def test_where_tensorflow_came_first_without_onednn_one_hint_says_so():
    # as on a CPU where TensorFlow does not turn it on
    code = "import os, keras; del os.environ['TF_ENABLE_ONEDNN_OPTS']; import keras_multiception"
    result = run(code, TF_ENABLE_ONEDNN_OPTS="0")
    assert result.stderr.count("TF_ENABLE_ONEDNN_OPTS=1") == 1
    result = run("import keras, keras_multiception", TF_ENABLE_ONEDNN_OPTS="0")
    assert "UserWarning" not in result.stderr
