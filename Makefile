# Everything a new checkout needs: `make up` shows the system, `make test` proves it. Prerequisites: python3 (3.11+) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export SHUNTER_TOOLS_DIR ?= $(CURDIR)/.tools
PYTEST := $(BIN)/python -m pytest
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
MANIFESTS := $(wildcard packages/*/pyproject.toml)
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help up top explain test test-kube lint types bench bench-gate bench-inprocess bench-lab bench-peers bench-picker bench-routing chaos cluster conformance-cluster conformance-dialects conformance-engines conformance-gateways conformance-mutants conformance-pickers drills e2e envoyconf-gateways envoyconf-matrix fuzz images interop engines lab-compare lab-wire lock docs rollout-engines screenshots soak-streams test-observability clean

help: ## show this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Shunter needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment (Debian: apt install python3-venv)" >&2; exit 2; }

$(VENV)/run.stamp: requirements/run.txt $(MANIFESTS) | $(BIN)/python
	@echo "installing into $(VENV) …"
	@$(PIP) --require-hashes -r requirements/run.txt
	@$(PIP) --no-deps --no-build-isolation --no-index $(patsubst %/pyproject.toml,-e %,$(MANIFESTS))
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt $(VENV)/run.stamp
	@echo "installing the test tools into $(VENV) …"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@# xds-protos has an older copy of these files in the same place, which tracing cannot do with.
	@sed -n '/^opentelemetry-proto==/,/[^\\]$$/p' requirements/dev.txt >$(VENV)/again.txt
	@$(PIP) --require-hashes --force-reinstall --no-deps -r $(VENV)/again.txt
	@touch $@

up: $(VENV)/run.stamp ## start the whole stack here: model servers, scraper, picker, Envoy (ARGS="--engine llamacpp" …)
	@$(BIN)/shunter up $(ARGS)

top: $(VENV)/run.stamp ## watch the running stack
	@$(BIN)/shunter top $(ARGS)

explain: $(VENV)/run.stamp ## why the last requests went where they went
	@$(BIN)/shunter explain $(ARGS)

test: $(VENV)/dev.stamp ## all tests, real Envoy and real llama.cpp included (ARGS="-k ring" …)
	@$(PYTEST) $(ARGS)

e2e: $(VENV)/dev.stamp ## only the end-to-end tests
	@$(PYTEST) e2e $(ARGS)

lint: $(VENV)/dev.stamp ## ruff and the layer contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache

types: $(VENV)/dev.stamp ## pyright, strict
	@$(BIN)/pyright

bench: $(VENV)/dev.stamp ## print the exposition, pick-path, plugin, observability and transport tables
	@$(BIN)/python hack/bench_exposition.py
	@$(BIN)/python hack/bench_pick.py
	@$(BIN)/python -m hack.bench_plugins
	@$(BIN)/python -m hack.bench seeing
	@$(BIN)/python -m hack.bench picker --quick --only direct

bench-inprocess: $(VENV)/dev.stamp ## the picker's core beside the reference loop, on recorded streams (20 seconds)
	@$(BIN)/python -m hack.bench inprocess

bench-gate: $(VENV)/dev.stamp ## fail if the core has become dearer, as a multiple of the reference loop (ARGS=--accept: a new rule)
	@$(BIN)/python -m hack.bench gate $(ARGS)

bench-lab: $(VENV)/dev.stamp ## requests a second that the lab simulates, and what takes the time (20 seconds)
	@$(BIN)/python hack/bench_simulation.py $(ARGS)

bench-peers: $(VENV)/dev.stamp ## whole data paths beside other routers, which are installed from PyPI (10 minutes)
	@$(BIN)/python -m hack.bench peers $(ARGS)

bench-picker: $(VENV)/dev.stamp ## the picker behind a real Envoy and alone, beside others, into docs/performance.md (30 minutes; ARGS=--quick: 4)
	@$(BIN)/python -m hack.bench picker $(ARGS)

bench-routing: $(VENV)/dev.stamp ## time to first token with and without the picker (4 minutes)
	@$(BIN)/python hack/bench_routing.py $(ARGS)

lab-compare: $(VENV)/dev.stamp ## compare policies on every workload in virtual time, into build/lab and docs/lab-compare.md (40 minutes; ARGS=--quick: 3)
	@$(BIN)/shunter lab compare -o build/lab $(ARGS)
	@[ -n "$(ARGS)" ] || cp build/lab/compare.md docs/lab-compare.md

lab-wire: $(VENV)/dev.stamp ## the lab's ranking beside a real Envoy's, picker's and servers' (10 minutes)
	@$(BIN)/python hack/lab_wire.py $(ARGS)

cluster: $(VENV)/dev.stamp ## keep a Kubernetes cluster of one node with Shunter's images until Ctrl-C (root, Debian)
	@hack/kube/fetch
	@hack/kube/fetch-tools
	@$(BIN)/python -m hack.kube.stage

chaos: $(VENV)/dev.stamp ## kill, stop and restart everything under load, in every profile, into docs/chaos.md (13 minutes; ARGS=--quick: 2)
	@$(BIN)/python -m hack.chaos $(ARGS)

envoyconf-gateways: $(VENV)/dev.stamp ## all that the real Envoy Gateway is asked to do, on files and on a Kubernetes API (4 minutes)
	@SHUNTER_EVERY_GATEWAY=1 $(PYTEST) $(wildcard e2e/test_envoy_gateway*.py) $(ARGS)

envoyconf-matrix: $(VENV)/dev.stamp ## try what envoyconf generates on every Envoy, into build/envoyconf-matrix.json and docs/gateway/matrix.md (15 minutes)
	@$(BIN)/python -m hack.matrix $(ARGS)

conformance-mutants: $(VENV)/dev.stamp ## ask all that is broken in one way every case, into docs/conformance/mutations.md (half an hour on two cores: ARGS="--jobs 2"; in slices: ARGS="--minutes 9", then ARGS="--resume --minutes 9" …)
	@$(BIN)/python -m hack.conformance.mutations $(ARGS)

rollout-engines: $(VENV)/dev.stamp ## roll adapters out on real vLLM, SGLang and Triton (8 minutes; ARGS="-k vllm")
	@SHUNTER_REAL_ENGINES=1 $(PYTEST) -s -o faulthandler_timeout=0 e2e/test_rollout_engines.py $(ARGS)

fuzz: $(VENV)/dev.stamp ## a minute of fuzzing of all that reads foreign bytes (ENGINE=atheris: led by coverage; ARGS="wire --seconds 9" …)
	@$(BIN)/python hack/fuzz.py $(addprefix --engine ,$(ENGINE)) $(ARGS)

soak-streams: $(VENV)/dev.stamp ## ten million generated streams through the picker without sockets (half an hour; ARGS="--minutes 5" …)
	@$(BIN)/python hack/long_run.py --jobs 2 $(ARGS)

images: $(VENV)/dev.stamp ## build every image with a Docker daemon of its own, and run it (3 minutes; root, Debian)
	@hack/kube/fetch
	@SHUNTER_EVERY_IMAGE=1 $(PYTEST) e2e/test_images.py $(ARGS)

test-kube: $(VENV)/dev.stamp ## everything against real Kubernetes parts: the API alone, and a cluster of one node under load (10 minutes; root, Debian)
	@hack/kube/fetch
	@hack/kube/fetch-tools
	@hack/kube/fetch-crds
	@SHUNTER_EVERY_CLUSTER=1 $(PYTEST) e2e/test_kube_scraper.py e2e/test_kube_chaos.py e2e/test_doctor.py e2e/test_chart.py e2e/test_cluster.py e2e/test_getting_started.py $(ARGS)

interop: $(VENV)/dev.stamp ## the picker's transports with older Envoys and with grpc-go (fetches the Envoys once)
	@$(BIN)/python hack/interop.py $(ARGS)

conformance-cluster: $(VENV)/dev.stamp ## start model servers in a real Docker and in a cluster of one node, and examine them there (2 minutes; root, Debian)
	@hack/kube/fetch
	@$(PYTEST) e2e/test_conformance_container.py e2e/test_conformance_kube.py $(ARGS)

conformance-dialects: $(VENV)/dev.stamp ## set the lab's dialects beside the reports of real model servers, into docs/conformance/dialects.md
	@$(BIN)/python -m hack.conformance.dialects $(ARGS)

conformance-engines: $(VENV)/dev.stamp ## install real model servers, examine them and write the reports (half an hour, 8 GB; ARGS="--only vllm")
	@$(BIN)/python -m hack.conformance.engines $(ARGS)

conformance-gateways: $(VENV)/dev.stamp ## examine every Envoy in every profile, and Envoy Gateway, into docs/conformance/gateways.md (8 minutes; ARGS=--quick: 1)
	@$(BIN)/python -m hack.conformance.gateways $(ARGS)

conformance-pickers: $(VENV)/dev.stamp ## examine our picker, and Go ones at EPP_BIN and GIE_EPP_BIN, into docs/conformance/pickers.md (2 minutes)
	@$(BIN)/python -m hack.conformance.pickers $(ARGS)
	@SHUNTER_EVERY_CASE=1 $(PYTEST) -q packages/conformance/tests/test_picker_exam.py

docs: $(VENV)/dev.stamp ## regenerate docs/reference, rules, dashboards and the chart's values from the code
	@$(BIN)/python hack/gen_docs.py
	@$(BIN)/python -m hack.observability
	@$(BIN)/python hack/gen_chart.py

drills: $(VENV)/dev.stamp ## break seven things in a real stack and see what names each, into docs/diagnosis.md (5 minutes; ARGS=tenant: one; Debian)
	@hack/observability/fetch
	@$(BIN)/python -m hack.drills $(ARGS)

test-observability: $(VENV)/dev.stamp ## rules by promtool and a real Prometheus, traces, the page in a browser, drills (3 minutes; fetches what is missing; Debian)
	@hack/observability/fetch
	@hack/observability/fetch-chromium
	@$(PYTEST) hack/tests/test_observability.py packages/picker/tests/test_rules.py packages/picker/tests/test_page_browser.py e2e/test_prometheus.py e2e/test_traces.py e2e/test_page.py e2e/test_drills.py $(ARGS)

screenshots: $(VENV)/dev.stamp ## paint docs/images: the picker's web page upon a real stack (3 minutes; Debian)
	@hack/observability/fetch-chromium
	@SHUNTER_SCREENSHOTS=1 $(PYTEST) e2e/test_page.py packages/picker/tests/test_page_browser.py -k "pictures or thousand"

engines: $(VENV)/dev.stamp ## install what `make up ARGS="--engine llamacpp"` needs

lock: ## resolve dependencies anew and rewrite requirements/*.txt
	@hack/lock

clean: ## remove what make installed and cached, as before another PYTHON (not the stack's runtime directory)
	rm -rf $(VENV) .tools build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
