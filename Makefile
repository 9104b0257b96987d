# The two commands: `make demo` and `make test`. Both set up .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where `make site` puts the docs' pages.
SITE ?= site
# Of processor time, for each kind of file that `make test-fuzz` damages.
MINUTES ?= 30
# One thread per process: ranks and test workers share the cores, two thread pools on one core are slower than one thread.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
# Where it is set (in containers), every process would compile all modules again, tests with their assertions too.
unexport PYTHONDONTWRITEBYTECODE
# What needs more than this machine's Python has a target of its own.
HERE := not s3 and not slurm and not faults and not image and not benchmark and not published

# The tests that are run after every change.
QUICK := -n 2 --dist worksteal -m "not slow and not ray and $(HERE)"

.PHONY: demo test test-fast test-ray test-s3 test-slurm test-faults test-published test-gpu test-image test-mutants test-fuzz
.PHONY: image coverage lint site benchmark lock lock-cpu audit setup clean help

help:  ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

demo: setup  ## adapts a counter on the embedded data: 4 minutes on 2 cores
	$(BIN)/python jobs/adapt.py quickstart --storage runs --run-name demo

test: test-fast  ## all tests but those that have a target of their own
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not ray and $(HERE)"
	$(BIN)/python -m pytest -m "ray and not slow and $(HERE)"

test-fast: setup  ## all tests of units, and one whole adaptation of each kind, without Ray
	$(BIN)/python -m pytest $(QUICK)

test-ray: setup  ## all with a real Ray, the longest too: 20 minutes
	$(BIN)/python -m pytest -m "ray and $(HERE)"

test-s3: setup  ## with a real object store, also through a proxy that fails; takes long, needs apt-get install radosgw ceph-mon ceph-osd
	$(BIN)/python -m pytest -m "s3 and not benchmark" tests/s3

test-slurm: setup  ## a real Slurm with two nodes made of network namespaces: about an hour, as root, needs slurmctld slurmd slurm-client munge iproute2
	$(BIN)/python -m pytest -m "slurm and not benchmark" tests/slurm

test-faults: setup  ## every fault caused for real, on three machines made of network namespaces: an hour, as root; prints the rows of docs/results/faults.csv
	$(BIN)/python -m pytest -m "faults and not benchmark"

test-published: setup  ## all recipes of the papers take ten steps each, on tiny data in their own layouts: an hour
	$(BIN)/python -m pytest -n 2 --dist load tests/test_published.py

test-gpu: setup  ## what a GPU computes and how fast, 6 minutes; prints one JSON, and leaves it in gpu.json
	$(BIN)/python tests/gpu/check.py --output gpu.json

test-mutants: setup  ## makes 200 mistakes on purpose, one at a time: does a test fail? 5 minutes; ARGS="--seed 1 --number 50"
	$(BIN)/uv run --no-project --with cosmic-ray==8.7.0 python tests/mutation/check.py $(ARGS)

coverage: setup  ## which lines the quick tests reach, by file, and as pages in runs/coverage/pages: 5 minutes
	rm -rf runs/coverage
	$(BIN)/coverage run -m pytest $(QUICK)
	$(BIN)/coverage combine -q && $(BIN)/coverage html -q && $(BIN)/coverage report

test-fuzz: setup  ## damaged files of all kinds, for MINUTES=30 of processor time each: 10 hours; KIND=json for one kind
	CROWDDIST_FUZZ_MINUTES=$(MINUTES) $(BIN)/python -m pytest -s --timeout=0 --basetemp=runs/fuzz tests/security/test_fuzz.py \
		-k "damaged_files and $(or $(KIND),damaged_files)"

test-image: setup  ## builds the image (cluster/image) and runs it, with Docker or Podman; half an hour, 35 GB of disk; CROWDDIST_IMAGE: that one
	$(BIN)/python -m pytest -m "image and not benchmark" -s tests/cluster/test_image_run.py

image:  ## builds crowddist:VERSION with Docker, Podman or Buildah, also without a registry; cluster/image/build.sh --help
	cluster/image/build.sh $(TARGET)

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

site: setup  ## the pages of docs and cluster as a site, in site/ or SITE=FOLDER; fails where a link leads nowhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir $(SITE)

benchmark: setup  ## A against B in one process, one thread; prints ratios
	$(BIN)/python -m pytest -m benchmark -s tests/benchmarks

lock: setup  ## pins all dependencies again
	$(BIN)/uv pip compile --universal --generate-hashes --all-extras --group test --group docs --no-emit-index-url --no-emit-find-links --no-header \
		pyproject.toml -o requirements.lock

lock-cpu: setup  ## pins PyTorch's CPU builds for the image's target cpu; CPU_INDEX=ADDRESS or CPU_WHEELS=FOLDER
ifdef CPU_WHEELS
	cd $(CPU_WHEELS) && sha256sum torch-*.whl torchvision-*.whl \
		| sed -E 's/^([0-9a-f]{64})  ([^-]+)-([^-]+)-.*/\2==\3 --hash=sha256:\1/' > $(CURDIR)/cluster/image/torch-cpu.lock
else
	sed -n 's/.*"\(torch\(vision\)\?==[^"]*\)".*/\1+cpu/p' pyproject.toml | $(BIN)/uv pip compile --no-deps --generate-hashes --no-header \
		--no-emit-index-url --index $(CPU_INDEX) - -o cluster/image/torch-cpu.lock
endif

# Strict: without it packages that the database is not asked about, as where a mirror has none, count as free of holes.
audit: setup  ## asks the public database for known holes in all that is pinned; needs the internet
	@$(BIN)/uv tool run pip-audit --strict --require-hashes --disable-pip --progress-spinner off -r requirements.lock || { echo \
		"audit: not passed. Either the lines above name holes, or the database did not answer for every package, and nothing is known." >&2; exit 1; }

setup: $(VENV)/installed

$(VENV)/installed: requirements.lock pyproject.toml
	@$(BIN)/python -m pip --version > /dev/null 2>&1 \
		|| $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { \
		echo "setup: $(PYTHON) is not Python 3.11 or 3.12; name one, e.g. make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "setup: everything pinned into $(VENV), 8 GB; some minutes, most of them to download PyTorch"
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	sed -n '/^uv==/,/# via/p' requirements.lock > $(VENV)/uv.lock
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r $(VENV)/uv.lock
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

clean:  ## removes the environment, the runs and the site
	rm -rf $(VENV) runs site
