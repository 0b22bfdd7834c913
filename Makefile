# make demo: the main job on the embedded models. make test: every check. Both set up .venv when missing.
PYTHON ?= python3
# Pins torch first, so that no other package pulls a build of its own choice; GPU users may give their own file.
CONSTRAINTS ?= constraints.txt
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= runs/demo

.PHONY: setup demo test lint test-gpu bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml $(CONSTRAINTS)
	sh .ci/system-packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) --group dev -e .
	touch $@

demo: setup
	$(BIN)/causalnet hydra --out $(OUT) --overwrite
	@echo "report: $(OUT)/report.html"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

test: lint
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest

test-gpu: setup
	$(BIN)/python -m pytest -m gpu -rs

bench: setup
	$(BIN)/python benchmarks/sweep.py

clean:
	rm -rf $(VENV) build dist *.egg-info
