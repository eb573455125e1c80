# Every target makes .venv first, with the versions that constraints.txt pins.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: test test-slow lint check demo build install-check bench faults fuzz site-install reproduce docs docs-site first-prediction clean

.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# A process for each core, each with one thread of torch.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test: .venv/.done
	$(PYTEST) -m "not slow"

# Whole comparisons, examples and tutorials, and commands that each start as a process.
test-slow: .venv/.done
	$(PYTEST) -m slow

lint: .venv/.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test test-slow

demo: .venv/.done
	PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/cholesterol/run.sh

# The same bytes for the same commit: the time in the archives is the commit's.
build: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1577836800)
build: .venv/.done
	rm -rf dist
	$(BIN)/python -m build --no-isolation

# Installs the wheel with its dependencies alone into a new environment, and runs it there.
install-check: build
	rm -rf build/installed
	$(PYTHON) -m venv build/installed
	build/installed/bin/pip install --quiet --constraint constraints.txt dist/*.whl
	cd build && installed/bin/sltool --help >/dev/null && installed/bin/sltool --version
	cd build && installed/bin/pip check

bench: .venv/.done
	$(BIN)/python -m tests.bench

# Strikes every system call of every stage: some twenty minutes.
faults: .venv/.done
	SLTOOL_FAULTS=all $(BIN)/python -m pytest tests/faults

# Ten times as many changed shards as the suite: some ten minutes.
fuzz: .venv/.done
	SLTOOL_FUZZ=long $(BIN)/python -m pytest tests/shard/test_fuzz.py

# Installs `.[site]` and `.[server]` into two new environments: the coordinator has torch, the hospital
# has not. Prints sizes, peak memory and times.
site-install:
	$(PYTHON) tests/site_install.py

# Types the tutorial of three hospitals in a new environment: number of commands, minutes.
first-prediction: .venv/.done
	$(BIN)/python -m tests.first_prediction

docs: .venv/.done
	$(BIN)/python docs/generate.py

# The docs as a site in build/site, which opens from disk. A warning is an error. Nothing is fetched.
docs-site: .venv/.done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# Hours. DATA: the folder of real data; OUT: where to work, beside the data.
reproduce: .venv/.done
	PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/reproduce/paper.sh "$(DATA)" "$(OUT)" docs/reproduction

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
