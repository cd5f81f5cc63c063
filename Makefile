# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Requirements of this environment alone, such as another version of taskiq.
PINNED ?=
BENCH_STAMP := $(VENV)/.bench-installed
# Where the bench makes its stores: a directory on a real disk.
DIR ?= .

.PHONY: all fmt check test test-measured test-unmeasured quick dist demo bench bench-full bench-smoke bench-compare mutants mutants-sample crash crash-long model schedules fuzz clean

# Check and test: what a contributor runs.
all: check test

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[testing,demo]' --group dev $(PINNED)
	touch $(STAMP)

# Rewrite the sources in the house format.
fmt: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Read only: format, lint, types.
check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The whole test suite.  With COVERAGE=1 it is run in two halves side by side, and fails unless it has
# run every line and branch of the engine's core, and more than 95 % of the package.  Not measured are
# the tests that mostly look at processes which they start and kill, or set a trace function of their
# own.
CORE := frames log append groups commitqueue writes compaction presence opening joining recovery closing engine publishing foldlock sealing deferral logview overlay
UNMEASURED := tests/bench tests/crash tests/interrupts tests/examples tests/fuzz tests/fuzz_replay
test: $(STAMP)
ifdef COVERAGE
	$(MAKE) -j2 --output-sync=target test-measured test-unmeasured
else
	$(BIN)/python -m pytest
endif

test-unmeasured: $(STAMP)
	$(BIN)/python -m pytest -p no:cacheprovider $(UNMEASURED)

test-measured: $(STAMP)
	$(BIN)/python -m coverage run -m pytest -p no:cacheprovider $(UNMEASURED:%=--ignore=%)
	$(BIN)/python -m coverage report --fail-under=100 --include=$$(printf 'logstore/_engine/%s.py,' $(CORE))
	$(BIN)/python -m coverage report

# The tests that take less than a few seconds each; TESTS are some of them.
quick: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" $(TESTS)

# Build the wheel and the source distribution.  The unpacked source's tests then run every block of
# the documents, and a newcomer's first steps, against the wheel in a fresh environment.
dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv dist/fresh
	dist/fresh/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	dist/fresh/bin/python -m pip install --quiet "$$(echo dist/*.whl)[testing,demo]" --group dev
	mkdir dist/source && tar -xzf dist/*.tar.gz -C dist/source --strip-components 1
	cd dist/source && ../fresh/bin/python -m pytest tests/test_docs.py tests/test_first_steps.py tests/test_exports.py

# Put one listed fault at a time into a copy of the engine: each must turn a test red (minutes).
mutants: $(STAMP)
	$(BIN)/python -m fuzz.mutants

# COUNT random one-point mutants of the package, drawn by SEED, else by the commit: at least 95 % of
# those that change behaviour must turn a test red.  The first run records what each test runs.
COUNT ?= 100
mutants-sample: $(STAMP)
	$(BIN)/python -m fuzz.mutant_sample --count $(COUNT) $(if $(SEED),--seed $(SEED))

# Crash states, kill -9, histories and lack of memory, a bounded part of each, seeded by the commit
# (minutes).
crash: $(STAMP)
	$(BIN)/python -m fuzz.campaigns

# The same at length: over 300,000 crash states, 4,000 kills, half of them in containers, 2,000,000
# operations (more than an hour, as root).
crash-long: $(STAMP)
	$(BIN)/python -m fuzz.campaigns --long

# The protocol between processes: models of it, explored exhaustively (15 s; with LONG=1 more faults
# at once, a minute and 1 GB).
model: $(STAMP)
	$(BIN)/python -m fuzz.model $(if $(LONG),--long)

# Two of taskiq's schedulers and a worker, killed and started again for MINUTES: each slot is sent once.
MINUTES ?= 60
schedules: $(STAMP)
	$(BIN)/python -m fuzz.schedules --minutes $(MINUTES)

# All fuzzers, SECONDS of each, seeded by the commit (minutes).
SECONDS ?= 30
fuzz: $(STAMP)
	$(BIN)/python -m fuzz --seconds $(SECONDS)

# The main job on real input: workers over ZeroMQ, one of them killed half-way.
demo: $(STAMP)
	$(BIN)/python -m logstore.demo

$(BENCH_STAMP): $(STAMP) pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[testing,demo]' --group bench
	$(BIN)/python -m pip install --quiet --only-binary :all: --group bench-extra || \
	    echo 'the bench goes on without the peers of bench-extra'
	touch $(BENCH_STAMP)

# Measure everything side by side (forty minutes): tables, JSON and plots in bench/results.
bench: $(BENCH_STAMP)
	$(BIN)/python -m bench run --profile quick --dir $(DIR)

# The same with more rounds and stores of up to 10^7 results (an hour and a half).
bench-full: $(BENCH_STAMP)
	$(BIN)/python -m bench run --profile full --dir $(DIR)

# Under three minutes: fails when a ratio is below half of its target.
bench-smoke: $(BENCH_STAMP)
	$(BIN)/python -m bench run --profile smoke --check --out $(VENV)/bench-smoke --dir $(DIR)

# The working tree against another revision: make bench-compare REF=HEAD~10
bench-compare: $(BENCH_STAMP)
	$(BIN)/python -m bench compare $(REF) --dir $(DIR)

clean:
	rm -rf $(VENV) .venv-other-* .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
