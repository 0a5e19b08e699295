# Every target sets up its own environment first; nothing else need be installed than Python and a C compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What was tested, so that tomorrow's release of a dependency breaks no clone of today (docs/versions.md).
PINNED := --constraint constraints.txt --build-constraint constraints.txt
WHEEL_TEST := /tmp/fcit-ray-wheel-test
export OMP_NUM_THREADS := 1

.PHONY: demo test test-fast check format docs wheel-test test-newest test-lowest constraints faults soak clean

demo: $(VENV)/ready
	$(BIN)/fcit-ray prepare miniature
	$(BIN)/fcit-ray compare miniature --out runs/demo --resume

# Two processes: one has the tests of the Ray cluster, which wait a good deal; the other goes on meanwhile.
PYTEST := -m pytest --numprocesses 2 --dist loadgroup

test: check
	$(BIN)/python $(PYTEST)

# What can be said of the core in a minute: no Ray, no whole runs, no Java.
test-fast: $(VENV)/ready
	$(BIN)/python $(PYTEST) --ignore tests/runtime --ignore tests/cli --ignore tests/docs \
	  --ignore tests/tools -m "not ray and not slow"

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# From the wheel alone, in an environment that knows nothing of this clone and a folder outside it: data, a run of one
# stage, a table. Minutes, most of them pip's.
wheel-test: $(VENV)/ready
	rm -rf $(WHEEL_TEST) && mkdir -p $(WHEEL_TEST)
	$(BIN)/python -m pip wheel --quiet --no-deps --build-constraint constraints.txt --wheel-dir $(WHEEL_TEST) .
	$(PYTHON) -m venv $(WHEEL_TEST)/venv
	$(WHEEL_TEST)/venv/bin/python -m pip install --quiet --constraint constraints.txt $(WHEEL_TEST)/fcit_ray-*.whl
	cd $(WHEEL_TEST) && PATH=$(WHEEL_TEST)/venv/bin:$$PATH && fcit-ray --version && fcit-ray prepare miniature && \
	  fcit-ray run miniature disco 'benchmark.tasks=[ArxivQA]' benchmark.num_rounds=1 train.epochs=1 --out runs/one && \
	  fcit-ray report runs/one

# The site, strictly: a broken link or a docstring that is missing ends it. It lands in site/.
docs: $(VENV)/docs-ready
	$(BIN)/python -m mkdocs build

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

$(VENV)/docs-ready: $(VENV)/ready
	$(BIN)/python -m pip install --quiet $(PINNED) --editable '.[dev,docs]'
	touch $@

.venv-newest/ready: pyproject.toml
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade pip
	.venv-newest/bin/python -m pip install --quiet --editable '.[dev,jobs,docs]'
	touch $@

.venv-lowest/ready: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	.venv-lowest/bin/python tools/lowest_constraints.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt --editable '.[dev]'
	touch $@

# Some ninety faults on real runs, half a minute to two each; as root for those that mount a small disk.
faults: $(VENV)/ready
	$(BIN)/python -m tools.faults --out docs/results/faults.md

# Random kills of everything for an hour, or SOAK_S seconds, each run resumed until it is finished: the same bits.
SOAK_S ?= 3600
soak: $(VENV)/ready
	$(BIN)/python -m tools.faults soak --seconds $(SOAK_S)

clean:
	rm -rf $(VENV) .venv-newest .venv-lowest runs data site
