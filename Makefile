# make demo: the main job on the embedded models. make test: every check. Both set up .venv when missing.
PYTHON ?= python3
# Pins torch first, so that no other package pulls a build of its own choice; GPU users may give their own file.
CONSTRAINTS ?= constraints.txt
VENV ?= .venv
BIN := $(VENV)/bin
# Other implementations, to compare with: an environment of their own over that one. PEERS_IN_TEST=0 leaves them out.
PEERS ?= .venv-peers
PEERS_IN_TEST ?= 1
OUT ?= runs/demo

.PHONY: setup demo test lint test-peers test-gpu docs graphs bench clean

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

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
ifeq ($(PEERS_IN_TEST),1)
	$(MAKE) test-peers
endif

$(PEERS)/.ready: requirements-peers.txt $(CONSTRAINTS) $(VENV)/.ready
	test -x $(PEERS)/bin/python || $(BIN)/python -m venv $(PEERS)
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
		> $$($(PEERS)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/causalnet.pth
	$(PEERS)/bin/python -m pip install --quiet --no-compile -c $(CONSTRAINTS) -r requirements-peers.txt
	touch $@

test-peers: $(PEERS)/.ready
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PEERS)/bin/python -m pytest -W default -rs tests/peers tests/docs/test_coming_from.py

test-gpu: setup
	$(BIN)/python -m pytest -m gpu -rs

bench: setup
	-$(MAKE) $(PEERS)/.ready
	$(BIN)/python benchmarks/sweep.py --peers $(PEERS)/bin/python --write
	$(BIN)/python benchmarks/paper.py --write
	$(BIN)/python benchmarks/scale.py --write

docs: setup
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo "documentation: build/docs/index.html"

graphs: setup
	$(BIN)/python graphs/build.py

clean:
	rm -rf $(VENV) $(PEERS) build dist *.egg-info
