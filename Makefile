PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
JOBS ?= 2

.PHONY: help setup demo test slow mutants lint clean

help:
	@echo "make demo     set up .venv and run the whole loop on the tiny world (no GPU, no network after the install)"
	@echo "make test     set up .venv and run the tests      make slow      the long tests: kill -9, full data"
	@echo "make lint     ruff, rules and format              make mutants   planted bugs that the tests must catch"

$(VENV)/.ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

setup: $(VENV)/.ready

demo: setup
	@$(PY) demo.py

test: $(VENV)/.ready-dev
	$(PY) -m pytest -q -m "not slow" -n $(JOBS) --dist worksteal tests

slow: $(VENV)/.ready-dev
	$(PY) -m pytest -q -m slow $(if $(PART),--part $(PART)) tests

mutants: $(VENV)/.ready-dev
	$(PY) tests/run_mutants.py
	$(PY) tests/random_mutants.py --count 40 --seed $(or $(shell git rev-list --count HEAD 2>/dev/null),0)

lint: $(VENV)/.ready-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf runs/demo $(VENV)
