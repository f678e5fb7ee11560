# `make demo` and `make test` do all the set-up themselves: python3 (3.11 or later) with venv, and the package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --durations 10

.PHONY: demo test thorough slow lint format docs evidence tables clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/jaxmia run configs/demo.toml --out runs/demo --resume

test: $(VENV)/.installed
	$(PYTEST)

# What CI runs beside `make test`: several processes, kills, tutorials, repeated cases.
thorough: $(VENV)/.installed
	$(PYTEST) -m 'thorough and not slow'

slow: $(VENV)/.installed
	XLA_FLAGS= $(BIN)/python -m pytest -m slow

# Imports what it documents; opens no address: links inside the site and the repository are checked, others are not.
docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m sphinx --nitpicky --fail-on-warning --keep-going --builder html docs docs/_build/html

# All measurements that the pages show, how long they take, and the commands that make them again.
evidence: $(VENV)/.installed
	$(BIN)/python docs/evidence/tables.py --list

# Tables and figures of the pages, rendered from the JSON in docs/evidence.
tables: $(VENV)/.installed
	$(BIN)/python docs/evidence/tables.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist docs/_build docs/_generated docs/api *.egg-info
