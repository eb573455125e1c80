# Every target makes .venv first, with the versions that constraints.txt pins.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: test lint check demo bench faults fuzz site-install reproduce docs clean

.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# A process for each core, each with one thread of torch.
test: .venv/.done
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

lint: .venv/.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

demo: .venv/.done
	PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/cholesterol/run.sh

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

docs: .venv/.done
	$(BIN)/python docs/generate.py

# Hours. DATA: the folder of real data; OUT: where to work, beside the data.
reproduce: .venv/.done
	PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/reproduce/paper.sh "$(DATA)" "$(OUT)" docs/reproduction

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
