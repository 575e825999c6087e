# Installs Lathe into .venv and runs it. `make help` lists the targets; `make PYTHON=python3.12` takes another Python.
PYTHON ?= python3
# In the order of tests/conftest.py, longest first; xdist would sort by the number of tests in a file.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
PIP_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt $(PIP_ARGS)
# pip would compile on one core, which takes a minute. Some packages contain files that do not compile, which is no error.
COMPILE := $(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_DOCS := $(VENV)/.installed-docs

.PHONY: help demo test pytest check quick bench docs clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## install, show the plan of a small network and train it, in about a minute
	$(BIN)/lathe plan experiment=digits_lenet
	$(BIN)/lathe run experiment=digits_lenet

test: check pytest ## check, and run all tests

pytest: $(INSTALLED_DEV)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(INSTALLED_DEV) ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

quick: $(INSTALLED_DEV) ## run the tests that take seconds
	$(BIN)/python -m pytest -m "not slow and not gpu" $(PYTEST_ARGS)

bench: $(INSTALLED_DEV) ## measure every budget against its peer; `.venv/bin/pip install -e '.[bench]'` adds the optional rows
	@failed=0; for file in benchmarks/*.py; do \
		name=$$(basename $$file .py); [ $$name = __init__ ] && continue; \
		echo "== $$name"; $(BIN)/python -m benchmarks.$$name || failed=1; \
	done; exit $$failed

docs: $(INSTALLED_DOCS) ## build the documentation site into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo 'open site/index.html, or run `$(BIN)/mkdocs serve` while you write'

clean: ## remove .venv, the site and caches; runs stay
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else 1)' || { \
		echo "PYTHON=$(PYTHON) is `$(PYTHON) --version 2>&1 | head -n 1`, but Lathe needs Python 3.11 or newer;" \
			"name one, as in: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "PYTHON=$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }

# torch first and alone: it is by far the largest, so a failed download shows at once.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing torch and what else a run needs, one to a few minutes ...'
	$(PIP) torch==2.13.0
	$(PIP) -e .
	@$(COMPILE)
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(PIP) -e '.[dev]'
	@$(COMPILE)
	@touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	$(PIP) -e '.[docs]'
	@$(COMPILE)
	@touch $@
