# `make demo` and `make test` on a fresh clone with Python 3.10 or later do all the set-up, once, in .venv.
#
#   make demo                  adapts, exports, runs and measures on generated streets (ARGS="--seed 1 ...")
#   make test                  all tests (ARGS="-k export -x" and the like)
#   make lint                  style and formatting (ruff)
#   make types                 types (mypy)
#   make PYTHON=python3.12 …   another Python for .venv
#   make PIP_ARGS="…" …        more for pip, for example an index with CPU-only builds of torch, which are
#                              far smaller: --extra-index-url https://download.pytorch.org/whl/cpu

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up

.PHONY: demo test lint types setup
.DELETE_ON_ERROR:

demo: setup
	$(BIN)/cpsl-demo $(ARGS)

# Two files of tests at a time, each on a thread of its own: many wait for cameras, servers and processes. Idle
# threads that spin make small tests several times slower when cores are few.
test: export OMP_WAIT_POLICY = PASSIVE
test: export OMP_NUM_THREADS = 1
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy -p cpsl_deploy

setup: $(STAMP)

# torch is pinned by constraints.txt in the same command as everything else: asked for alone and without a
# version it brings the newest CUDA build, several gigabytes.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 10) or sys.exit(f"Python 3.10 or later is needed, this is {v[0]}.{v[1]}; name one: make PYTHON=python3.12 ...")'
	@echo "Setting up $(VENV), once: about 1.3 GB are fetched and unpacked; pip says what it does."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[cpu,train,export,dev]'
	@# The evaluation that a test holds ours against. What it asks for besides, a backport of typing among it, it
	@# does not need for that.
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-deps cityscapesscripts pyquaternion
	@touch $@
