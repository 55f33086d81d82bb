# PYTHON selects the interpreter that .venv is made with, e.g. `make test PYTHON=python3.12`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo endurance release-check test test-rest test-all fuzz lint types docs reference clean

# A table of baseline, (f)+MixER and e2e+MixER on generated images, within minutes on a CPU.
# Continues an interrupted run; remove results/demo to start afresh.
demo: .venv/.demo
	$(BIN)/mixer-plugin table3 --config benchmarks/configs/demo.yaml --out results/demo --resume

# A file's tests stay in one process, which makes their fixtures once. Files run in the order of
# their names: otherwise those of few long tests come last, and one process waits for the other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Lint, types and the tests that are marked neither slow nor endurance.
test: lint types
	$(PYTEST) -m "not slow and not endurance"

# The slow tests, and those of properties with 100 examples each in place of 25.
test-rest: .venv/.dev
	HYPOTHESIS_PROFILE=thorough $(PYTEST) -m "(slow or hypothesis) and not endurance"

test-all: test test-rest

# A store and a service under load for a minute, a hundred kills, more toys compiled and as ONNX.
endurance: .venv/.dev
	$(PYTEST) -m endurance

# Damaged files at every door that reads one, ten minutes a door, two doors at a time.
SECONDS_A_DOOR ?= 600
fuzz: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --seconds $(SECONDS_A_DOOR)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/imports.py

types: .venv/.dev
	$(BIN)/python scripts/typecheck.py

# The documentation site, in build/site. Its search needs a server, such as
# python -m http.server --directory build/site
docs: .venv/.dev
	$(BIN)/python scripts/build_docs.py

# The pages of docs/reference that are made from parsers, dataclasses and docstrings.
reference: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python scripts/reference

# Versions and dates agree; both distributions are built into dist/ and checked.
release-check: .venv/.dev
	$(BIN)/python scripts/release_check.py

# Leaves .venv, which takes long to make; remove it by hand to start afresh.
clean:
	rm -rf build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .typecheck
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# Each stamp stands for a finished installation; a changed setup.py makes it anew.
.venv/.created:
	$(PYTHON) -m venv .venv
	touch $@

.venv/.demo: .venv/.created setup.py
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

# Includes what the demo needs.
.venv/.dev: .venv/.created setup.py
	$(BIN)/python -m pip install --quiet --editable '.[bench,dev]'
	touch .venv/.demo $@
