# Every target sets up its own environment first; nothing else need be installed than Python and a C compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What was tested, so that tomorrow's release of a dependency breaks no clone of today (docs/versions.md).
PINNED := --constraint constraints.txt --build-constraint constraints.txt
export OMP_NUM_THREADS := 1

.PHONY: demo test test-fast check format test-newest test-lowest constraints clean

demo: $(VENV)/ready
	$(BIN)/python pipelines/prepare.py miniature
	$(BIN)/python pipelines/compare.py configs/miniature.yaml --out runs/demo --resume

# Two processes: one has the tests of the Ray cluster, which wait a good deal; the other goes on meanwhile.
PYTEST := -m pytest --numprocesses 2 --dist loadgroup

test: check
	$(BIN)/python $(PYTEST)

# What can be said of the core in a minute: no Ray, no whole runs.
test-fast: $(VENV)/ready
	$(BIN)/python $(PYTEST) --ignore tests/runtime --ignore tests/cli -m "not ray and not slow"

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The tests with the newest release of everything that pyproject.toml admits, and with the lowest of what it names.
test-newest: .venv-newest/ready
	.venv-newest/bin/python $(PYTEST)

test-lowest: .venv-lowest/ready
	.venv-lowest/bin/python $(PYTEST)

# Writes down what is newest now, once `make test-newest` has passed with it.
constraints: .venv-newest/ready
	.venv-newest/bin/python tools/write_constraints.py > constraints.txt

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fcit_ray needs Python 3.11 or later, this is %d.%d; name another with make PYTHON=..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet $(PINNED) --editable '.[dev]'
	touch $@

.venv-newest/ready: pyproject.toml
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade pip
	.venv-newest/bin/python -m pip install --quiet --editable '.[dev,jobs]'
	touch $@

.venv-lowest/ready: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	.venv-lowest/bin/python tools/lowest_constraints.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .venv-newest .venv-lowest runs data
