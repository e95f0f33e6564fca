# `make` prints what there is. Every target may be called again at any time; an environment that is up to date is left alone.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS := pyproject.toml constraints.txt setup.py $(wildcard app/lstm/native/*)

.PHONY: help run test check audit format clean
.DELETE_ON_ERROR:

help: ## Print this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  ARGS=...      goes to the command:  make run ARGS='--port 9000'    make test ARGS='-k calendar'"
	@echo "  PIP_ARGS=...  goes to pip install, PYTHON=... is the interpreter of the environment (3.11 or newer)"

run: $(VENV)/installed ## Run the service: migrate, start the API and one worker, print the URL
	@$(BIN)/engram serve $(ARGS)

test: $(VENV)/installed-dev ## Run all tests; those that need PostgreSQL or Redis are skipped where there is none
	$(BIN)/python -m pytest -n 4 --dist loadscope --no-loadscope-reorder $(ARGS)

check: $(VENV)/installed-dev ## Check format, lint, types, imports, that the migrations lead to the tables and the packages fit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m migrations check
	$(BIN)/python -m pip check --disable-pip-version-check

audit: $(VENV)/installed-dev ## Ask the advisory database about every dependency (needs the network, and installs pip-audit)
	$(BIN)/python -m pip install --disable-pip-version-check -q pip-audit
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r constraints.txt

format: $(VENV)/installed-dev ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove the environment and the caches; the data under var/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Engram needs Python 3.11 or newer, and $(PYTHON) is not: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/created $(REQUIREMENTS)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/created $(REQUIREMENTS)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[dev]'
	@touch $@ $(VENV)/installed
