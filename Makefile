# What a user types. Every target makes what it needs in .venv first, from nothing but Python 3.11.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
ENGINE ?= torchserve
STORE ?= model_store
CASES ?= 1000000
MINUTES ?= 20
PIP := -m pip install --quiet --disable-pip-version-check -c constraints.txt
INSTALL := $(BIN)/python $(PIP)
BENCH := .venv-bench/bin/python
BENCH_SERVICE := .venv-bench-service/bin/python
BENCH_MLSERVER := .venv-bench-mlserver/bin/python
# Other implementations, which tests compare with and benchmarks run beside. Some bring old pins of their own, so none of
# them brings its dependencies.
PEERS := --no-deps flowtorch zuko nflows umnn tritonclient
BENCH_PEERS := $(PEERS) normflows pyro-ppl pyro-api

export FLOWMODEL_STORE := $(STORE)

.PHONY: help serve train-export test test-faults soak overload fuzz audit lint bench bench-kernel bench-gpu bench-quality bench-service h2load clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Torch comes first and by itself: its version decides what the rest may be.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(INSTALL) torch
	@touch $@

$(VENV)/.serve: pyproject.toml setup.py $(wildcard flowmodel/kernel/*pp) constraints.txt $(VENV)/.torch
	$(INSTALL) -e '.[train,serve,torchserve]'
	@touch $@

$(VENV)/.dev: pyproject.toml setup.py $(wildcard flowmodel/kernel/*pp) constraints.txt $(VENV)/.torch
	$(INSTALL) -e '.[dev]'
	$(INSTALL) $(PEERS)
	@touch $@ $(VENV)/.serve

serve: $(VENV)/.serve ## serve model_store over gRPC and HTTP (ENGINE=inprocess: without TorchServe)
	@PATH="$(CURDIR)/$(BIN):$$PATH" exec deploy/serve --engine $(ENGINE)

train-export: $(VENV)/.serve ## train on DATA=file and publish the next version of MODEL=name (ARGS=more options)
	@test -n "$(DATA)" -a -n "$(MODEL)" || { echo "usage: make train-export DATA=file MODEL=name [ARGS='--layers 5 ...']" >&2; exit 2; }
	@$(BIN)/flowmodel train "$(DATA)" --model "$(MODEL)" $(ARGS)

test: $(VENV)/.dev ## run every test, the real TorchServe included, in two processes
	$(BIN)/python -m pytest -n 2

test-faults: $(VENV)/.dev ## kill, stop, break and overload the service under load, each fault five times
	$(BIN)/python -m pytest tests/faults --fault-rounds 5

soak: $(VENV)/.dev ## MINUTES=20 of mixed load and version swaps (ENGINE=inprocess|torchserve), recorded; fails on anything wrong or growing
	$(BIN)/python tests/faults/soak.py --engine $(ENGINE) --minutes $(MINUTES)

overload: $(VENV)/.dev ## ten times the load that ENGINE can bear: what is answered and how soon, recorded
	$(BIN)/python tests/faults/overload.py --engine $(ENGINE)

fuzz: $(VENV)/.dev ## try CASES=1000000 cases on every method, address and reader (about an hour)
	$(BIN)/python -m pytest tests/service/fuzz --fuzz-cases $(CASES) --timeout 0

# In an environment of its own, which is none of constraints.txt's business. Strict: a package that PyPI could not be asked
# about is a failure, and not one that is fine.
.venv-audit/.done:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	@touch $@

audit: .venv-audit/.done ## look every pinned package up among the known vulnerabilities (asks pypi.org)
	@.venv-audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt \
	  || { echo "audit: vulnerable packages are listed above; where there are none, pypi.org could not be asked" >&2; exit 1; }

lint: $(VENV)/.dev ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# An environment of its own: JAX and the peers are nobody else's business.
.venv-bench/.done: pyproject.toml setup.py $(wildcard flowmodel/kernel/*pp) constraints.txt
	$(PYTHON) -m venv .venv-bench
	$(BENCH) $(PIP) torch
	$(BENCH) $(PIP) -e '.[train]' flowjax matplotlib scikit-learn
	$(BENCH) $(PIP) $(BENCH_PEERS)
	@touch $@

bench: .venv-bench/.done ## every benchmark beside its peers, in short; nothing is recorded
	@$(BENCH) benchmarks/bench_kernel.py --quick
	@$(BENCH) benchmarks/bench_quality.py

bench-kernel: .venv-bench/.done ## the native code beside six other libraries, recorded (a quarter of an hour)
	@$(BENCH) benchmarks/bench_kernel.py

bench-gpu: .venv-bench/.done ## the scorer on a GPU against targets, recorded; without a GPU it says so
	@$(BENCH) benchmarks/bench_gpu.py

bench-quality: .venv-bench/.done ## held-out likelihood beside zuko, nflows and FlowJAX on every table (about half an hour)
	@$(BENCH) benchmarks/bench_quality.py --full

h2load:
	@command -v h2load >/dev/null || { echo "bench-service needs h2load, which nghttp2 brings: apt-get install nghttp2-client" \
	  "on Debian and Ubuntu, dnf install nghttp2 on Fedora, brew install nghttp2 on macOS" >&2; exit 1; }

.venv-bench-service/.done: pyproject.toml setup.py $(wildcard flowmodel/kernel/*pp) constraints.txt
	$(PYTHON) -m venv .venv-bench-service
	$(BENCH_SERVICE) $(PIP) torch
	$(BENCH_SERVICE) $(PIP) -e '.[serve,torchserve]' fastapi litserve 'ray[serve]' bentoml
	@touch $@

# MLServer asks for older versions of what the others need.
.venv-bench-mlserver/.done:
	$(PYTHON) -m venv .venv-bench-mlserver
	$(BENCH_MLSERVER) $(PIP) torch numpy
	$(BENCH_MLSERVER) -m pip install --quiet --disable-pip-version-check mlserver==1.7.1
	@touch $@

bench-service: h2load .venv-bench-service/.done .venv-bench-mlserver/.done ## the service beside TorchServe and five other servers, recorded (20 minutes)
	@BENCH_PYTHON_MLSERVER=$(CURDIR)/$(BENCH_MLSERVER) $(BENCH_SERVICE) benchmarks/bench_service.py

clean: ## remove the virtual environment and the caches; published models stay
	rm -rf $(VENV) .venv-bench .venv-bench-service .venv-bench-mlserver .venv-audit .pytest_cache .mypy_cache .ruff_cache *.egg-info
