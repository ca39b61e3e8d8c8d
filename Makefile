# Every target sets up what it needs: a virtual environment in .venv with the project and its tools.
# Needs only Python 3.11 or later, git and make. PYTHON=... names another interpreter;
# PIP_ARGS=... reaches pip (a CPU build of PyTorch, a mirror: see CONTRIBUTING.md).

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.attentune-installed
PIP_ARGS ?=
PYTHON ?=
PYTEST_ARGS ?=
WORKERS ?= 2

# Each worker has one thread: two tests at a time on two cores, instead of four threads that wait for each other.
export OMP_NUM_THREADS ?= 1
demo bench: export OMP_NUM_THREADS := $(WORKERS)

PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --jaxtyping-packages=attentune,shape_checks.checked $(PYTEST_ARGS)

.PHONY: help demo test check format lint types imports tests slow bench setup

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: setup ## optimise the attention of a small language model on built-in text, in minutes
	$(BIN)/attentune optimize --config configs/demo.toml --out runs/demo

test: check ## everything that continuous integration runs

check: lint types imports tests ## format, lint, types, import contract, tests

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

tests: setup
	$(PYTEST)

format: setup ## write the house format, and repair what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

slow: setup ## the tests that take minutes
	$(PYTEST) -m slow

bench: setup ## the scripts of benchmarks/, on this machine
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if [ ! -x "$(BIN)/python" ]; then \
	  found=""; \
	  for candidate in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	      found="$$candidate"; break; \
	    fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "make: no Python 3.11 or later as $(or $(PYTHON),python3); install one, or name it: make PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	  fi; \
	  echo "creating $(VENV) with $$found ($$($$found --version))"; \
	  if ! "$$found" -m venv $(VENV); then \
	    rm -rf $(VENV); \
	    echo "make: $$found cannot create a virtual environment; Debian and Ubuntu need the package python3-venv" >&2; exit 1; \
	  fi; \
	fi; \
	echo "installing attentune and its tools into $(VENV) (a few minutes the first time)"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[dev]"; \
	touch $(STAMP)
