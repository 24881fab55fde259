# Needs Python 3.11 or newer and make, nothing else. `make help` lists the targets.
# Another interpreter: make PYTHON=/path/to/python3.12 test

PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '$(CHECK_PYTHON)' 2>/dev/null && echo $$p && break; done)
CHECK_PYTHON = import sys; sys.exit(sys.version_info < (3, 11))
PYTEST_ARGS ?=
BENCH_ARGS ?=
FUZZ_ARGS ?=
NETWORK_ARGS ?=
HOSTILE_ARGS ?=

# What may differ on the oldest Flower and NumPy that pyproject.toml admits: all that
# touches Flower, and the dtypes of results, on which before NumPy 2 the value of a
# scalar decided. Not: torch, which has rules of its own, and what the operators are on
# average, since every bit of theirs is compared with plain loops and golden packets, nor
# how often faults are drawn, or what many of them do together; nor where a whole run
# ends, since each of its steps is compared; nor every strategy and operator in every test
# (tests/cases.py).
OLDEST_TESTS := tests/flower_compress tests/golden tests/strategies tests/protocol \
	tests/clients tests/fuzz \
	--ignore tests/flower_compress/compressors/test_torch_backend.py \
	--ignore tests/flower_compress/optim --ignore tests/clients/test_torch_objective.py \
	--ignore tests/flower_compress/test_torch_arrays.py \
	--ignore tests/flower_compress/test_stability.py \
	--ignore tests/strategies/test_defaults.py \
	--ignore tests/strategies/server/test_watch.py \
	--ignore tests/protocol/test_relay.py --ignore tests/protocol/test_relay_nodes.py \
	--ignore tests/protocol/test_relay_dies.py --ignore tests/protocol/test_relay_ledger.py \
	--ignore tests/protocol/test_server_dies.py \
	--deselect tests/fuzz/test_fuzz.py::test_mutations_raise_nothing_else \
	--deselect tests/strategies/server/test_recovery.py::test_a_repaired_run_gets_nearer \
	--deselect tests/protocol/test_lockstep.py::test_what_is_late_from_an_earlier_session_does_no_harm \
	--deselect tests/flower_compress/compressors/test_compressors.py::test_unbiased_with_variance_at_most_omega \
	--deselect tests/flower_compress/compressors/test_compressors.py::test_biased_contracts \
	--deselect tests/flower_compress/testing/test_faulty_grid.py::test_a_fault_is_as_frequent_as_its_knob_says
# What may differ on the oldest torch.
OLDEST_TORCH_TESTS := tests/flower_compress/compressors/test_torch_backend.py \
	tests/flower_compress/optim tests/flower_compress/test_torch_arrays.py \
	tests/clients tests/simulations/tasks

# What `make device-test` runs, and with what.
DEVICE_TESTS := tests/flower_compress/compressors/test_torch_backend.py \
	tests/clients/test_torch_objective.py tests/clients/gossip/test_device.py
CHECK_CUDA = import sys, torch; torch.cuda.is_available() or sys.exit("no CUDA device: device-test is for a machine with one, elsewhere there is make test")
DEVICE_PY ?= $(shell test -x .venv/bin/python && echo .venv/bin/python || echo python3)

# What `make experiments` runs, shortened.
EXPERIMENTS ?= alpha budget convex deep ghost malcom-ablation malcom-complete malcom-ring \
	malcom-sparsity noiseless non-degraded overhead partial-participation saturation \
	spars-ams sparsification worker-levels

VENV := .venv
OLDEST_TORCH := $(VENV)/oldest-torch
PY := $(VENV)/bin/python
# With the Python of an environment. One worker a core, each with one thread: more of
# them wait for each other. Each begins with its share in order, so that what a file
# makes once is made by one worker; the one that is done first steals from the others.
pytest = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $1 -m pytest --numprocesses $(CORES) --dist worksteal
# Written last, so that an interrupted installation starts again.
STAMP := $(VENV)/.installed
SAY := @printf '\n==> %s\n'

# Simulated clients of `make demo`; how many cores they share, one each, and the tests.
CLIENTS ?= 20
CORES ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

# Flower installs an app's dependencies anew for each run unless told not to; its state
# stays in the checkout; neither Flower nor Ray calls home.
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1
export FLWR_HOME := $(CURDIR)/.flwr
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export RAY_USAGE_STATS_ENABLED := 0
# Ray announces this change of a default on every start, unless it is made already.
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO := 0
# Many tests start Python, which is to compile this once (`make clean` removes it).
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo demo-ray demo-compare test bench experiments fuzz hostile dev links docs dist lint types unit oldest oldest-torch fleet device-test deploy-test network-test format clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: demo-ray demo-compare ## install, run MCM on Flower's Ray engine, compare 7 algorithms
	@printf '\nMCM on Ray:      %s\n' "$(CURDIR)/runs/demo-ray"
	@printf 'The comparison:  %s\n' "$(CURDIR)/runs/demo"
	@find runs/demo -name '*.html' -exec printf 'Report to open:  %s/%s\n' "$(CURDIR)" {} \;

demo-ray: $(STAMP) ## only the run on Flower's Ray engine
	$(SAY) "MCM, $(CLIENTS) clients, Flower's Ray engine (flwr run .)"
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" sh -c "$$FLWR_RUN"

demo-compare: $(STAMP) ## only the comparison of 7 algorithms, in one process
	$(SAY) "SGD, QSGD, Diana, Artemis, Dore, MCM and Rand-MCM, 400 rounds, 2 seeds"
	@$(PY) -m simulations compare --task parity --partition label --clients $(CLIENTS) \
		--rounds 400 --batch-size 20 --levels 1 --step-size auto --seeds 2 \
		--algorithms sgd,qsgd,diana,artemis,dore,mcm,rand-mcm \
		--engine inprocess --out runs/demo

test: lint types unit oldest ## install, then lint, types and tests

bench: $(STAMP) ## measure speed, lengths and defaults, print what got slower, about an hour; BENCH_ARGS="--only small"
	$(SAY) "benchmarks, one core"
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(PY) -m benchmarks $(BENCH_ARGS)

experiments: $(STAMP) ## the papers' experiments with --quick, each with its verdicts
	@for name in $(EXPERIMENTS); do printf '\n==> %s\n' $$name; \
		workers="--workers $(CORES)"; test $$name = overhead && workers=; \
		OMP_NUM_THREADS=1 $(PY) -m simulations reproduce $$name --quick --checkpoint-every 0 \
			$$workers || exit 1; done

fuzz: $(STAMP) ## 10 million hostile inputs for the decoders; FUZZ_ARGS="--inputs 100000"
	$(SAY) "fuzzing with Atheris"
	@$(PY) -c 'import atheris' 2>/dev/null || $(PY) -m pip install -qq atheris
	@$(PY) -m tests.fuzz $(FUZZ_ARGS)

hostile: $(STAMP) ## attacks and departures, what came of each, minutes; HOSTILE_ARGS="--only relay"
	$(SAY) "clients that leave, claim, lie"
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(PY) -m tests.hostile $(HOSTILE_ARGS)

dev: $(STAMP) links ## install for development, with links for editors and the command simulations
	$(SAY) "links for editors: $(VENV)/editor"
	@printf '%s\n' '#!$(CURDIR)/$(PY)' 'import sys' 'sys.path.insert(0, "$(CURDIR)")' \
		'from simulations.cli import main' 'if __name__ == "__main__":' '    main()' \
		> $(VENV)/bin/simulations && chmod +x $(VENV)/bin/simulations
	@echo 'Ready: . $(VENV)/bin/activate'
	@echo 'For Tab after it:  simulations --install-completion'

# The package with all its parts in one place.
links: $(STAMP)
	@rm -rf $(VENV)/editor && mkdir -p $(VENV)/editor/flower_compress
	@for f in flower_compress/*; do ln -s "../../../$$f" $(VENV)/editor/flower_compress/; done
	@ln -s ../../../strategies ../../../clients $(VENV)/editor/flower_compress/

docs: $(STAMP) links ## the site of the documentation, into build/site; a warning is an error
	$(SAY) "MkDocs"
	@$(PY) -c 'import fontTools, material, math_core, mkdocstrings, ziamath' 2>/dev/null || \
		$(PY) -m pip install -qq --editable '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo 'To read: $(CURDIR)/build/site/index.html'

dist: $(STAMP) ## wheel and sdist, into dist, checked as the registry does
	$(SAY) "build and twine"
	@$(PY) -c 'import build, twine' 2>/dev/null || $(PY) -m pip install -qq --editable '.[release]'
	@rm -rf dist && $(PY) -m build --outdir dist .
	@$(PY) -m twine check --strict dist/*

lint: $(STAMP) ## ruff: rules and format
	$(SAY) "ruff"
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: $(STAMP) ## mypy --strict, strategies/ and clients/ under their import names
	$(SAY) "mypy --strict"
	@$(PY) -m mypy
	@$(PY) -m mypy docs/hooks

unit: $(STAMP) ## pytest on all cores; PYTEST_ARGS="-m slow" for the long ones
	$(SAY) "pytest"
	@$(call pytest,$(PY)) $(PYTEST_ARGS)

oldest: $(STAMP) ## the library on the oldest Flower and NumPy that are supported
	$(SAY) "pytest on the oldest Flower and NumPy"
	@if $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then \
		echo 'left out: that NumPy has no wheels for this Python'; \
	else \
		REQUIRED_VERSIONS="$$($(PY) -m tests.bounds)" && export REQUIRED_VERSIONS && \
		PYTHONPATH="$(CURDIR)/$(VENV)/$$(echo $$REQUIRED_VERSIONS | tr ' ' '_')" && export PYTHONPATH && \
		{ test -d "$$PYTHONPATH" || $(PY) -m pip install -qq --no-deps --target "$$PYTHONPATH" $$REQUIRED_VERSIONS; } && \
		$(call pytest,$(PY)) $(OLDEST_TESTS); \
	fi

oldest-torch: $(STAMP) ## what uses torch on the oldest one that is supported, some GB
	$(SAY) "pytest on the oldest torch"
	@REQUIRED_VERSIONS="$$($(PY) -m tests.bounds torch torchvision)" && export REQUIRED_VERSIONS && \
	$(PY) -m venv $(OLDEST_TORCH) && \
	$(OLDEST_TORCH)/bin/python -m pip install -qq --editable '.[dev]' $$REQUIRED_VERSIONS && \
	$(call pytest,$(OLDEST_TORCH)/bin/python) $(OLDEST_TORCH_TESTS)

fleet: $(STAMP) ## a real fleet in short: TLS, authentication, a SuperNode that is killed, a minute
	$(SAY) "SuperLink and three SuperNodes, of which one is killed"
	@$(PY) -m pytest -m slow tests/deploy/test_fleet.py

deploy-test: $(STAMP) ## a real fleet on this machine, each part of it killed, about 10 minutes
	$(SAY) "SuperLink with TLS, authentication and database, three SuperNodes"
	@$(PY) -m tests.deploy

network-test: $(STAMP) ## bytes and seconds on slow links, as root, about an hour; NETWORK_ARGS="--megabits 10"
	$(SAY) "network namespaces, 10 and 1 Mbit/s"
	@$(PY) -m tests.deploy.slow_network $(NETWORK_ARGS)

# On a machine with torch and a GPU that has neither Flower nor this environment too; what
# needs Flower is left out there.
device-test: ## what runs on a GPU, against NumPy, then `--only device`; DEVICE_PY=python3
	@$(DEVICE_PY) -c '$(CHECK_CUDA)'
	$(SAY) "CUDA against NumPy"
	@$(DEVICE_PY) -m pytest -m "slow or not slow" -k "cuda or compiled" $(DEVICE_TESTS)
	@$(DEVICE_PY) -m benchmarks --only device $(BENCH_ARGS)

format: $(STAMP) ## let ruff mend what it can
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

clean: ## remove what builds and tests leave, keep .venv and runs
	@rm -rf build dist .flwr .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info *.fab
	@find flower_compress strategies clients simulations benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove the environment as well
	@rm -rf $(VENV)

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" && "$(PYTHON)" -c '$(CHECK_PYTHON)' || { \
		echo 'flower-compress needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ...' >&2; \
		exit 1; }
	$(SAY) "environment $(VENV), $$($(PYTHON) --version)"
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv --clear $(VENV)
	$(SAY) "installing Flower, Ray, PyTorch and the tools (some GB, 2 to 10 minutes)"
	@$(PY) -m pip install -qq --editable '.[dev]'
	@rm -rf $(VENV)/types && mkdir -p $(VENV)/types/flower_compress
	@ln -s ../../../strategies ../../../clients $(VENV)/types/flower_compress/
	@touch $@

# `flwr run` leaves a SuperLink behind, which later runs would find with this run's
# working directory and environment, and it exits 0 when the app fails. So: our own
# SuperLink, on a free port, for one run; then ask it how the run ended.
define FLWR_RUN
set -eu
start=$$(date +%s)
mkdir -p "$$FLWR_HOME"
port=$$(python -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
printf '[superlink]\ndefault = "checkout"\n\n[superlink.checkout]\naddress = "127.0.0.1:%s"\ninsecure = true\n' \
  "$$port" > "$$FLWR_HOME/config.toml"
flower-superlink --insecure --simulation --port "$$port" > "$$FLWR_HOME/superlink.log" 2>&1 &
superlink=$$!
trap '{ kill "$$superlink" && wait "$$superlink"; } 2>/dev/null || :' EXIT
trap 'exit 130' INT TERM
tries=0
until python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$$port/health', timeout=1)" 2>/dev/null
do
  tries=$$((tries + 1))
  if [ "$$tries" -gt 100 ] || ! kill -0 "$$superlink" 2>/dev/null; then
    echo "The SuperLink did not start:" >&2
    cat "$$FLWR_HOME/superlink.log" >&2
    exit 1
  fi
  sleep 0.2
done
flwr run . checkout --stream \
  --federation-config "num-supernodes=$(CLIENTS) client-resources-num-cpus=1 init-args-num-cpus=$(CORES) init-args-log-to-driver=false init-args-logging-level='ERROR'" \
  --run-config "algorithm='mcm' task='parity' partition='label' out='runs/demo-ray'"
flwr list checkout --format json | python -c '
import json, sys
run = json.load(sys.stdin)["runs"][0]
if run["status"] != "finished:completed":
    sys.exit("The run ended as {status}: {status-details}".format(**run))
'
echo "With the start of Flower and Ray: $$(($$(date +%s) - start)) seconds"
endef
export FLWR_RUN
