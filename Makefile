# Two commands matter: `make demo` and `make test`. Both make their own virtual environment, .venv.

PYTHON ?= python3
BIN := .venv/bin
PRETRAINED := cifar10/resnet20_multiception
PYTEST := $(BIN)/python -m pytest --numprocesses 2

.PHONY: help demo test test-slow test-torch lint clean

help:  ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: .venv/.demo  ## Train on handwritten digits, export, serve, and ask over REST; then about a photograph
	$(BIN)/python -m training.train --recipe resnet20_multiception_digits --workdir runs/demo
	$(BIN)/python -m serving.export --run runs/demo --base_path runs/demo/served/digits
	$(BIN)/python -m serving.demo --run runs/demo --base_path runs/demo/served/digits
	$(BIN)/python -m serving.export --pretrained $(PRETRAINED) --base_path runs/demo/served/cifar10
	$(BIN)/python -m serving.demo --pretrained $(PRETRAINED) --base_path runs/demo/served/cifar10 --image training/photos/cat.png

test: .venv/.test  ## Run the quick tests, on TensorFlow and on JAX
	$(PYTEST) -m "not slow"
	KERAS_BACKEND=jax $(PYTEST) -m "backend and not slow"

test-slow: .venv/.test  ## Run the tests that take longer, on TensorFlow and on JAX
	$(PYTEST) -m slow
	KERAS_BACKEND=jax $(PYTEST) -m "backend and slow"

test-torch: .venv/.test  ## Run the backend tests on PyTorch (installs it: several GB unless pinned to a CPU build)
	$(BIN)/python -m pip install --quiet "$(or $(TORCH),torch)"
	KERAS_BACKEND=torch $(PYTEST) -m "backend and not slow"

lint: .venv/.lint  ## Check format, style and types of every file
	$(BIN)/pre-commit run --all-files --show-diff-on-failure

.venv/.demo: EXTRAS := training,serving
.venv/.test: EXTRAS := test
.venv/.lint: EXTRAS := lint
.venv/.%: setup.cfg
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed, as by TensorFlow; name one with make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$(EXTRAS)]"
	@touch $@

clean:  ## Remove the virtual environment and what tools left behind (not runs/)
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info
