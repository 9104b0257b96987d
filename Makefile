# The two commands: `make demo` and `make test`. Both set up .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread per process: ranks and test workers share the cores, two thread pools on one core are slower than one thread.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1

.PHONY: demo test test-fast test-s3 test-faults lint benchmark lock audit setup clean help

help:  ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

demo: setup  ## adapts a counter on the embedded data: 5 to 10 minutes on 2 cores
	$(BIN)/python jobs/adapt.py quickstart --storage runs --run-name demo

test: test-fast  ## all tests, those with a real Ray included, but not those with a real object store
	$(BIN)/python -m pytest -n 2 --dist load -m "slow and not ray and not s3 and not faults and not benchmark"
	$(BIN)/python -m pytest -m "ray and not s3 and not faults and not benchmark"

test-fast: setup  ## without the tests that start Ray or run whole adaptations; two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not ray and not s3 and not faults and not benchmark"

test-s3: setup  ## with a real object store, also through a proxy that fails; takes long, needs apt-get install radosgw ceph-mon ceph-osd
	$(BIN)/python -m pytest -m "s3 and not benchmark" tests/s3

test-faults: setup  ## every fault caused for real, on three machines made of network namespaces: an hour, as root, needs iproute2; prints the table
	$(BIN)/python -m pytest -m "faults and not benchmark"

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

benchmark: setup  ## A against B in one process, one thread; prints ratios
	$(BIN)/python -m pytest -m benchmark -s tests/benchmarks

lock: setup  ## pins all dependencies again
	$(BIN)/uv pip compile --universal --generate-hashes --all-extras --no-emit-index-url --no-emit-find-links --no-header \
		pyproject.toml -o requirements.lock

# Strict: without it packages that the database is not asked about, as where a mirror has none, count as free of holes.
audit: setup  ## asks PyPI's database for known holes in all that is pinned; needs the internet
	@$(BIN)/uv tool run pip-audit --strict --require-hashes --disable-pip --progress-spinner off -r requirements.lock || { echo \
		"audit: not passed. Either the lines above name holes, or the database did not answer for every package, and nothing is known." >&2; exit 1; }

setup: $(VENV)/installed

$(VENV)/installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

clean:  ## removes the environment and the runs
	rm -rf $(VENV) runs
