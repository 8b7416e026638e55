# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Both create the environment in .venv the first time, and do only what is missing afterwards.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Compiled code is kept, whatever the shell says: tests start many processes.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test exhaustive docs lint format clean help

help:
	@echo "make demo    install, run configs/quickstart.yaml, say where to look"
	@echo "make test    install, then linters, types and tests"
	@echo "make exhaustive  the tests that make test leaves out: further cases of what it shows"
	@echo "make docs    the pages of docs/ as a site in docs/_build"
	@echo "make format  let ruff rewrite the code"
	@echo "make clean   remove the environment and caches; results/ stays"

demo: $(VENV)/.installed
	@echo "== running the main job on scikit-learn's digits (a few minutes)"
	$(BIN)/nas-proxy run configs/quickstart.yaml
	@echo "== the report:      results/quickstart/report.html"
	@echo "== the model:       results/quickstart/retrain/champion"
	@echo "== MLflow's pages:  $(BIN)/nas-proxy ui"

test: lint
	@echo "== tests"
	$(BIN)/python -m pytest -n auto --maxprocesses 4

exhaustive: $(VENV)/.installed-dev $(VENV)/.installed-docs
	@echo "== exhaustive tests"
	$(BIN)/python -m pytest -m exhaustive -n auto --maxprocesses 4

docs: $(VENV)/.installed-docs
	@echo "== building the site; its notebooks run (some minutes)"
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build
	@echo "== open docs/_build/index.html"

lint: $(VENV)/.installed-dev
	@echo "== linters and types"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	@echo "== creating the environment $(VENV)"
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "nas_proxy needs Python 3.11 or later; name it as in make demo PYTHON=python3.12"'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "== installing nas_proxy and what it needs (torch is large: some minutes)"
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"  # before, it knows no groups
	$(BIN)/python -m pip install --quiet --editable ".[export]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	@echo "== installing the development tools"
	$(BIN)/python -m pip install --quiet --editable ".[all]" --group dev
	@touch $@

$(VENV)/.installed-docs: pyproject.toml $(VENV)/.installed
	@echo "== installing what builds the site"
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@

clean:
	rm -rf $(VENV) docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
