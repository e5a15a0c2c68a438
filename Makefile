# Two commands matter: `make demo` and `make test`. Both make their own virtual environment, .venv.

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest --numprocesses 2

.PHONY: help demo test test-slow test-torch lint docs dist clean

help:  ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: .venv/.demo  ## Train on handwritten digits, export, serve, and ask over REST; about a photograph too
	@echo "No downloads from here on: the digits are in scikit-learn, the trained weights in this package."
	@$(BIN)/python -m serving.demo

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

docs: .venv/.docs  ## Build the reference of the library and the client in docs/
	PDOC_ALLOW_EXEC=1 $(BIN)/python -W error::UserWarning -m pdoc --docformat google --output-directory docs \
		keras_multiception keras_multiception.compression serving.client '!keras_multiception.kernels'

dist: .venv/.dist  ## Build the package in dist/, and check it as the package index does
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*

.venv/.demo: EXTRAS := training,serving
.venv/.test: EXTRAS := test
.venv/.lint: EXTRAS := lint
.venv/.docs: EXTRAS := docs
.venv/.dist: EXTRAS := dist
.venv/.%: setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed, as by TensorFlow; name one with make PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing [$(EXTRAS)] into .venv from the package index, once: minutes, and up to 1 GB of downloads."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$(EXTRAS)]"
	@touch $@

clean:  ## Remove the virtual environment and what tools left behind (not runs/)
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist docs *.egg-info
