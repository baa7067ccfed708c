# Every target sets up what it needs: a virtual environment in .venv/ from hash-locked requirements.
# `make` alone lists the targets.

# The newest Python on the path that the project supports; PYTHON=python3.11 chooses another.
PYTHON ?= $(firstword $(foreach version,3.13 3.12 3.11,$(shell command -v python$(version) > /dev/null && python$(version) -c '' 2> /dev/null && echo python$(version))) python3)
BIN := .venv/bin
SOURCES := service simulator tests k8s bench docs

.DEFAULT_GOAL := help
.PHONY: help install demo unit test check bench openapi format lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' $(MAKEFILE_LIST)

install: .venv/.installed  ## the environment alone: .venv/bin/coinm-gateway

.venv/.installed: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is older (set PYTHON=…)" >&2; exit 1; }
	@echo "Setting up .venv with $(PYTHON) (once; about a minute)"
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install  ## the gateway before a simulated exchange, with an embedded Redis
	@exec $(BIN)/python -m simulator demo

# Public clients pin versions of what the service uses too, so they have a folder of their own, which only their tests look into.
.venv/clients/.installed: .venv/.installed requirements/clients.txt
	@echo "Setting up .venv/clients (once; about a minute)"
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade --require-hashes --target .venv/clients -r requirements/clients.txt
	@touch $@

# Public JavaScript clients come from npm, into a folder of their own that only tests look into.
.PHONY: javascript
javascript:
	@if command -v npm > /dev/null; then $(MAKE) --no-print-directory tests/process/javascript/node_modules/.installed; \
	else echo "not run: JavaScript clients (needs npm)" >&2; test -z "$$CI"; fi

tests/process/javascript/node_modules/.installed: tests/process/javascript/package-lock.json
	@echo "Setting up the JavaScript clients (once; some seconds)"
	npm --prefix tests/process/javascript ci --ignore-scripts --omit=dev --no-fund --no-audit --loglevel error
	@touch $@

# Left out of the measurement, which doubles their time: what goes over the same code thousands of times, other processes whose
# code others measure, and what isn't about service/.
UNMEASURED := app/test_authorisation_matrix.py app/test_documents.py app/test_hostile_redis.py process/test_schemathesis.py \
	fleet manifests simulator
# Two workers. A file's tests stay together, and in order; files too, so that the longest begin first and short ones fill the end.
WORKERS := --numprocesses 2 --dist loadfile --no-loadscope-reorder
test: install .venv/clients/.installed .venv/policies/.installed javascript  ## every test, most of them with branch coverage of service/
	$(BIN)/coverage run -m pytest $(WORKERS) $(addprefix --ignore=tests/,$(UNMEASURED))
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/pytest $(WORKERS) $(addprefix tests/,$(UNMEASURED))

# Left out: what waits for real time (notifications, reviews, watching, logs), measures time (linear), inflates large bodies
# (bounded_http), or tries thousands of interleavings (lease_model). Hypothesis tries a tenth of its examples.
SLOW := store/test_lease_model.py store/test_notifications.py kubernetes/test_reviews.py test_watching.py telemetry/test_logs.py \
	web/test_linear.py bounded_http/test_client.py bounded_http/test_connections.py
unit: install  ## the quick unit tests, without coverage
	$(BIN)/pytest --quiet --numprocesses 2 --hypothesis-profile quick $(addprefix --ignore=tests/unit/,$(SLOW)) tests/unit

check: install  ## lint, format, types, contract drift; edits nothing
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(SOURCES)
	$(BIN)/pyright
	$(BIN)/coinm-gateway openapi | diff -u openapi/openapi.yaml - || { echo "openapi/openapi.yaml has drifted from the code: make openapi" >&2; exit 1; }
	$(BIN)/openapi-spec-validator openapi/openapi.yaml
	@if command -v npm > /dev/null; then $(MAKE) --no-print-directory lint-openapi; \
	else echo "not run: Spectral (needs npm)" >&2; test -z "$$CI"; fi
	@$(MAKE) --no-print-directory check-manifests

# Manifests, image file and alert rules. checkov pins versions of what the service uses too, hence its own environment.
.PHONY: check-manifests
check-manifests: install .venv/policies/.installed
	$(BIN)/python -m k8s.check

.venv/policies/.installed: .venv/.installed requirements/policies.txt
	@echo "Setting up .venv/policies (once; about half a minute)"
	$(BIN)/python -m venv --clear .venv/policies
	.venv/policies/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/policies.txt
	@touch $@

# Spectral comes from npm, into a folder of its own that nothing else uses.
.PHONY: lint-openapi
lint-openapi: openapi/node_modules/.installed
	npm --prefix openapi run --silent lint

openapi/node_modules/.installed: openapi/package-lock.json
	@echo "Setting up Spectral (once; some seconds)"
	npm --prefix openapi ci --ignore-scripts --no-fund --no-audit --loglevel error
	@touch $@

bench: install  ## compare it with its peers; writes bench/RESULTS.md (needs wrk, nginx, redis-server; fourteen minutes)
	$(BIN)/python -m bench

openapi: install  ## write openapi/openapi.yaml from the code
	@mkdir -p openapi
	$(BIN)/coinm-gateway openapi --output openapi/openapi.yaml

format: install  ## put the code into its form, mend what lint can mend
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# Universal: one file serves every supported Python and platform, and names no index.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock"
lock: install  ## resolve the requirements anew
	$(LOCK) pyproject.toml --output-file requirements/service.txt
	$(LOCK) --group build --output-file requirements/build.txt
	$(LOCK) pyproject.toml --group simulator --constraint requirements/service.txt --output-file requirements/simulator.txt
	$(LOCK) pyproject.toml --group dev --output-file requirements/dev.txt
	$(LOCK) --group clients --output-file requirements/clients.txt
	$(LOCK) --group policies --output-file requirements/policies.txt

clean:  ## remove what the targets made
	rm -rf .venv openapi/node_modules tests/process/javascript/node_modules .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis .schemathesis build dist
