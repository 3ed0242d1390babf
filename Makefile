# c2s-toolkit: `make demo` and `make test` on a fresh clone, with nothing done before. `make` lists the rest.
#
#   make demo PYTHON=python3.12          another interpreter (3.11 or newer)
#   make test ARGS="tests/cells -x"      arguments for the command that is run
#   make demo TORCH="torch==2.13.0 --index-url URL"   another build of PyTorch, e.g. for your CUDA version

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
TORCH ?= $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)
# The published networks that the scGPT encoder is checked against; what it depends on is not installed.
SCGPT := $(shell grep '^scgpt==' constraints.txt)

# vLLM's tests have an environment of their own, since it needs other versions of some libraries.
VLLM_VENV ?= .venv-vllm

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A person wants to see that something happens during a long download; a log does not.
QUIET := $(if $(CI),--quiet)
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(QUIET)
# Most of what is installed there is never imported, so nothing is compiled beforehand.
VLLM_PIP := $(VLLM_VENV)/bin/python -m pip install --disable-pip-version-check --no-compile $(QUIET)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast test-vllm tokenizers lint docs clean clean-all

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## make .venv with the package and its tools; nothing to do when it is up to date

# PyTorch comes first and on its own, from its pin: drawn in as a dependency it would be the newest one, with
# gigabytes of CUDA libraries. The stamp is written last, so an installation that was cut short starts again.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "c2s-toolkit needs Python 3.11 or newer, and there is no '$(PYTHON)' here; name one: make demo PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "c2s-toolkit needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1); name another: make demo PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing into $(VENV) (some minutes, once)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt $(TORCH)
	$(PIP) -c constraints.txt -e ".[dev,docs]"
	$(PIP) --no-deps $(SCGPT)
	@touch $@

demo: $(STAMP) ## train, annotate, generate and measure on real cells; writes demo/report.html
	$(BIN)/c2s demo $(ARGS)

test: $(STAMP) ## run all tests
	$(BIN)/python -m pytest $(ARGS)

test-fast: $(STAMP) ## run the tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto $(ARGS)

test-vllm: $(VLLM_VENV)/.installed ## run the tests of the vLLM engine in .venv-vllm
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest tests/vllm $(ARGS)

$(VLLM_VENV)/.installed: pyproject.toml constraints-vllm.txt
	@echo "Installing into $(VLLM_VENV) (some minutes, once)"
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_PIP) -c constraints-vllm.txt $(TORCH)
	$(VLLM_PIP) --no-deps -r constraints-vllm.txt
	$(VLLM_PIP) --no-deps -e .
	@touch $@

tokenizers: $(STAMP) ## fetch the tokenizers of real models into .tokenizers/; some tests need them
	$(BIN)/python scripts/fetch_tokenizers.py .tokenizers

lint: $(STAMP) ## ruff, mypy and the import rules between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP) ## build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python scripts/check_docs.py site

clean: ## remove what was built and what tools remember
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks scripts docs -name __pycache__ -type d -prune -exec rm -rf {} +

clean-all: clean ## remove .venv, .venv-vllm and demo/ too
	rm -rf $(VENV) $(VLLM_VENV) demo
