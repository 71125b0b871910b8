# The commands of this project. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup setup-jvm setup-runtime setup-azurite setup-kafka setup-qpython demo dev dev-databricks test test-fast test-runtime bench bench-setup check fmt lock wheel

# Bytecode makes every Python start faster; some machines switch it off.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV := $(BIN)/uv

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(READY) ## Install the project and its locked packages into .venv

$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -E '^uv==' requirements.lock)"
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

SPARK := infra/local/spark-jars

setup-jvm: setup $(SPARK)/jars/.ready $(VENV)/.ready-spark ## Install the Spark engine: pyspark, and Delta's jars (needs Java 17 and Maven)

$(VENV)/.ready-spark: $(READY) $(SPARK)/requirements.lock
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps --requirement $(SPARK)/requirements.lock
	touch $@

RUNTIME := infra/local/runtime-15.4

setup-runtime: $(RUNTIME)/jars/.ready $(RUNTIME)/.venv/.ready ## Install the Spark of the oldest supported Databricks Runtime (needs Java 17 and Maven)

$(RUNTIME)/.venv/.ready: $(READY) $(RUNTIME)/requirements.lock
	test -x $(RUNTIME)/.venv/bin/python || $(BIN)/python -m venv --without-pip $(RUNTIME)/.venv
	$(UV) pip sync --quiet --compile-bytecode --python $(RUNTIME)/.venv/bin/python $(RUNTIME)/requirements.lock
	touch $@

$(SPARK)/jars/.ready $(RUNTIME)/jars/.ready: infra/local/%/jars/.ready: infra/local/%/pom.xml
	@command -v mvn >/dev/null || { echo "Maven is missing: install it (mvn), and Java 17" >&2; exit 1; }
	rm -rf $(@D)
	mvn --quiet --batch-mode --file $< dependency:copy-dependencies -DoutputDirectory=jars -DincludeScope=runtime
	touch $@

AZURITE := infra/local/azurite/node_modules

setup-azurite: $(AZURITE)/.ready ## Install the Azure storage server that tests run against (needs npm)

$(AZURITE)/.ready: infra/local/azurite/package.json
	npm install --prefix infra/local/azurite --no-package-lock --no-audit --no-fund --loglevel=error
	touch $@

QPYTHON := infra/local/qpython

setup-qpython: $(QPYTHON)/.venv/.ready ## Install the kdb+ client that the stand-in is checked with

$(QPYTHON)/.venv/.ready: $(READY) $(QPYTHON)/requirements.lock
	test -x $(QPYTHON)/.venv/bin/python || $(BIN)/python -m venv --without-pip $(QPYTHON)/.venv
	$(UV) pip sync --quiet --compile-bytecode --python $(QPYTHON)/.venv/bin/python $(QPYTHON)/requirements.lock
	touch $@

KAFKA := infra/local/kafka

setup-kafka: $(KAFKA)/libs/.ready ## Install the Kafka broker that tests run against (needs Java 17 and Maven)

$(KAFKA)/libs/.ready: $(KAFKA)/pom.xml
	@command -v mvn >/dev/null || { echo "Maven is missing: install it (mvn), and Java 17" >&2; exit 1; }
	rm -rf $(@D)
	mvn --quiet --batch-mode --file $< dependency:copy-dependencies -DoutputDirectory=libs -DincludeScope=runtime
	touch $@

demo: setup ## Run the whole graph on simulated sensors and real prices, and show what it built
	$(BIN)/lakehouse demo

dev: setup ## Open the Dagster UI with live sensors and prices, and automation switched on
	mkdir -p demo/dagster && cp dagster.yaml demo/dagster/
	rm -rf demo/dev-lake demo/kafka.address
	$(BIN)/lakehouse simulate sensors --database demo/sensors.db --live --rate 20 & simulator=$$!; \
	$(BIN)/lakehouse simulate kafka --broker --address-file demo/kafka.address --live --rate 0.5 & broker=$$!; \
	$(BIN)/lakehouse simulate kdb --port $(KDB_PORT) & kdb=$$!; \
	trap "kill $$simulator $$broker $$kdb 2>/dev/null" EXIT; \
	until [ -s demo/kafka.address ]; do sleep 0.2; kill -0 $$broker || exit 1; done; \
	export LAKEHOUSE_KAFKA="$$(cat demo/kafka.address)" LAKEHOUSE_KAFKA_VERSION=2.0 LAKEHOUSE_KDB_PORT=$(KDB_PORT); \
	PATH="$(abspath $(BIN)):$$PATH" DAGSTER_HOME="$(abspath demo/dagster)" LAKEHOUSE_ROOT="$(abspath demo/dev-lake)" \
	LAKEHOUSE_SENSOR_DB="$(abspath demo/sensors.db)" LAKEHOUSE_AUTOMATION=running \
	$(BIN)/dagster dev -w workspace.yaml

KDB_PORT ?= 5010
WORKSPACE := $(abspath demo/workspace)

dev-databricks: setup setup-jvm ## Open the Dagster UI on a simulated Databricks workspace: click an asset, it runs there
	mkdir -p demo/dagster && cp dagster.yaml demo/dagster/
	$(BIN)/lakehouse simulate workspace --directory $(WORKSPACE) --port 8461 --token dapi-dev \
		--volume main.ops.staging --volume main.lake.tables --volume main.lake.edge & workspace=$$!; \
	trap 'kill $$workspace $$simulator 2>/dev/null' EXIT; \
	until [ -d $(WORKSPACE)/Volumes/main/lake/edge ]; do sleep 0.2; kill -0 $$workspace || exit 1; done; \
	$(BIN)/lakehouse simulate sensors --database $(WORKSPACE)/Volumes/main/lake/edge/sensors.db --live --rate 20 & \
	simulator=$$!; \
	PATH="$(abspath $(BIN)):$$PATH" DAGSTER_HOME="$(abspath demo/dagster)" \
	LAKEHOUSE_ROOT="$(WORKSPACE)/Volumes/main/lake/tables" \
	LAKEHOUSE_SENSOR_DB="$(WORKSPACE)/Volumes/main/lake/edge/sensors.db" \
	LAKEHOUSE_TARGET=databricks LAKEHOUSE_DATABRICKS="$(abspath infra/local/databricks.yaml)" DATABRICKS_TOKEN=dapi-dev \
	$(BIN)/dagster dev -w workspace.yaml

TOOLS := $(if $(shell command -v mvn),setup-jvm setup-runtime setup-kafka) $(if $(shell command -v npm),setup-azurite) setup-qpython

test: setup check $(TOOLS) ## Run every test
	$(BIN)/python -m pytest -n 2 --dist loadgroup lakehouse_assets_tests

test-fast: setup ## Run the tests that need no JVM and take no time
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" lakehouse_assets_tests

test-runtime: setup setup-runtime ## Run the whole engine contract on the Spark of the oldest supported Databricks Runtime
	$(RUNTIME)/.venv/bin/python -m pytest lakehouse_assets_tests/engines/oldest.py

PEERS := benchmarks/.venv

bench-setup: $(PEERS)/.ready ## Install the peers of the benchmarks into benchmarks/.venv

$(PEERS)/.ready: $(READY) benchmarks/requirements.lock
	test -x $(PEERS)/bin/python || $(BIN)/python -m venv --without-pip $(PEERS)
	$(UV) pip sync --quiet --compile-bytecode --python $(PEERS)/bin/python benchmarks/requirements.lock
	touch $@

bench: setup setup-jvm setup-runtime setup-kafka bench-setup ## Measure everything beside the peers and write docs/benchmarks.md (QUICK=1: see that it runs)
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick --results $(PEERS)/quick --page $(PEERS)/quick/page.md)

check: setup ## Check format, lint, types and the import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: setup ## Format the code and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: setup ## Build the wheel into dist/ (the build backend is in uv's cache after `make setup`, else it is fetched)
	rm -f dist/lakehouse_assets-*.whl
	$(UV) build --quiet --wheel --python $(BIN)/python --out-dir dist --offline 2>/dev/null \
		|| $(UV) build --quiet --wheel --python $(BIN)/python --out-dir dist

LOCKED := --python-version 3.11 --no-header --no-emit-index-url --no-emit-find-links

lock: setup ## Compile the lock files from pyproject.toml
	$(UV) pip compile --quiet pyproject.toml $(LOCKED) --extra aws --extra azure --extra dev --output-file requirements.lock
	$(UV) pip compile --quiet pyproject.toml $(LOCKED) --extra spark --extra databricks --constraint requirements.lock \
		--output-file $(SPARK)/requirements.lock
	$(UV) pip compile --quiet $(QPYTHON)/requirements.in $(LOCKED) --output-file $(QPYTHON)/requirements.lock
	$(UV) pip compile --quiet pyproject.toml $(RUNTIME)/requirements.in $(LOCKED) --constraint requirements.lock \
		--output-file $(RUNTIME)/requirements.lock
