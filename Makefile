# Everything that is needed is installed by these targets. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CONTEXT ?=
# Facts in, a verdict or a plan out: nothing in there may go untested.
PURE := orchestrator/cluster/*,orchestrator/planners/*,orchestrator/engine/plan.py

.PHONY: help setup demo test unit check api lab-test lab lab-down lab-full bench clean lock

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14

$(READY): requirements/dev.txt pyproject.toml orchestrator/__init__.py
	@bash lab/files/setup-venv.sh "$(PYTHON)" "$(VENV)"
	@touch $@

setup: $(READY) ## the virtual environment, with locked dependencies

demo: $(READY) ## a drain on a real cluster, told step by step (CONTEXT=… uses a kind or minikube cluster of yours)
	@$(BIN)/python -m lab demo $(if $(CONTEXT),--context $(CONTEXT))

test: $(READY) check ## every test, on real control planes and a real cluster; builds what is missing
	@$(BIN)/python -m lab prepare
	$(BIN)/pytest tests/contract tests/hosts tests/api tests/lab -m "not lab_full" -n 2 --dist loadscope

check: $(READY) ## format, lint, types, import contracts, unit tests with coverage
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest tests/unit tests/scenario -q -n auto --cov --cov-report=term:skip-covered --cov-fail-under=90
	@$(BIN)/coverage report --include='$(PURE)' --fail-under=100 --skip-covered

unit: $(READY) ## the tests that need nothing but Python, but for what is broken off at every point: while you write
	$(BIN)/pytest tests/unit tests/scenario -q -n auto -m "not matrix"

api: $(READY) ## the tests on real control planes (API server, etcd, controllers; no kubelets)
	@$(BIN)/python -m lab prepare
	$(BIN)/pytest tests/contract tests/api -m "not lab_full"

lab-test: $(READY) ## the tests on the real kind cluster
	@$(BIN)/python -m lab prepare
	$(BIN)/pytest tests/lab -m "not lab_full"

lab: $(READY) ## start the real cluster: 1 control plane, 2 workers
	$(BIN)/python -m lab up

lab-down: $(READY) ## stop every cluster, control plane and daemon that the lab started
	$(BIN)/python -m lab down --all

lab-full: $(READY) ## the long matrices
	$(BIN)/pytest tests/lab tests/api -m "lab_full"
	LAB_VERSION=1.37.2 $(BIN)/pytest tests/lab/test_etcd_backups.py tests/lab/test_etcd_restore.py

bench: $(READY) ## drains beside kubectl's, as ratios (docs/performance.md)
	$(BIN)/python -m lab bench

lock: ## pin the dependencies anew, with hashes
	$(BIN)/python -m venv $(VENV)/lock && $(VENV)/lock/bin/pip install -q pip-tools
	$(VENV)/lock/bin/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
	  --allow-unsafe --no-strip-extras --upgrade --extra dev -o requirements/dev.txt pyproject.toml

clean: ## the virtual environment and caches of this directory; `python -m lab clean` for the lab's
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage dist build
