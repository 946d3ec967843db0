# The commands of this project. `make` alone lists them.

# The first Python here that fits; PYTHON=… names another. Programs of version managers come first
# in PATH, as their owners want it, and Debian's own is asked in the end.
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do \
  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && echo $$python && break; done)
endif
# Where it is set, as in many containers, each of a thousand programs compiles all anew, and each
# pytest rewrites all asserts.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
LAB := $(BIN)/python -m handover_lab
FAST := not root and not api and not cluster and not lab and not four_nodes
API := api and not root and not cluster and not lab
KERNEL := root and not cluster and not lab
# Parts of these, each a stage of its own, since they wait much and work little meanwhile: what starts
# BGP speakers or follows packets, and the loop of an agent.
SPEAKERS := tests/nodeagent/commands/check_bgp e2e/tests/network
LOOP := tests/nodeagent/reconcile tests/nodeagent/distribution
# What counts every packet has the machine to itself: a guest that waits for a processor loses some.
COUNTED := tests/nodeagent/test_no_packet_lost.py tests/nodeagent/test_no_packet_lost_of_many.py
CHECKED := crds operator nodeagent e2e tests
PYTEST := $(BIN)/pytest
# The slowest tests of each stage: one that is new among them is worth a look.
DURATIONS := --durations=20 --durations-min=1
# Pure, but with helm, a site to build, runs of pytest, or thousands of cases: for `make test`.
LONG := tests/chart tests/docs e2e/tests/testing tests/api/test_assignment.py tests/nodeagent/fsm/test_model.py \
  tests/nodeagent/fsm/test_two_nodes.py tests/nodeagent/sniff/test_fuzz.py tests/nodeagent/peers/test_fuzz.py \
  e2e/tests/demo/test_picture.py tests/operator/kubevirt/test_interleavings.py \
  tests/operator/kubevirt/test_recorded_watches.py tests/operator/kubevirt/test_fuzz_objects.py

.DEFAULT_GOAL := help
.PHONY: help demo demo-kubevirt test test-install test-fast bench bench-operator bench-outage fuzz mutants soak lint images chart docs licenses tools guest prepare fitting-python clean constraints

help:  ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: prepare  ## Watch a real VM migrate and its network follow (KEEP=1 leaves it running; BGP=bird, frr or none)
	@env --block-signal=INT $(LAB).demo $(if $(KEEP),--keep) $(if $(BGP),--bgp $(BGP))

demo-kubevirt: prepare  ## The same beside a played KubeVirt: only a VMIM is applied by hand (KEEP=1 as above)
	@env --block-signal=INT $(LAB).demo.kubevirt $(if $(KEEP),--keep) $(if $(BGP),--bgp $(BGP))

test: prepare lint tools guest images  ## Everything: pure tables, kernel, API server, cluster, real VMs
	@$(LAB).testing.stages pure="$(FAST)" kernel="$(KERNEL)" $(addprefix --ignore=,$(SPEAKERS) $(LOOP) $(COUNTED)) -- $(DURATIONS)
	@$(LAB).testing.stages speakers="$(KERNEL)" $(SPEAKERS) loop="$(KERNEL)" $(LOOP) api="$(API)" -- $(DURATIONS)
	@$(PYTEST) $(DURATIONS) -m "$(KERNEL)" $(COUNTED)
	@$(LAB).sandbox -- $(PYTEST) $(DURATIONS) -m "cluster or lab"
	@$(LAB).sandbox -- $(PYTEST) $(DURATIONS) -m four_nodes

test-install: prepare tools guest images  ## The chart: manifests, rights, policies, a whole life on two nodes
	@$(PYTEST) tests/chart
	@$(LAB).sandbox -- $(PYTEST) e2e/tests/install/test_getting_started.py e2e/tests/install/test_install.py \
	  $(wildcard e2e/tests/install/test_lifecycle*.py)

test-fast: fitting-python  ## The pure tests: no root, no Go, half a minute
	@$(PYTHON) e2e/prepare.py --python-only
	@$(LAB).testing.stages api-and-agent="$(FAST)" tests/api tests/nodeagent \
	  others="$(FAST)" --ignore=tests/api --ignore=tests/nodeagent \
	  -- -q --hypothesis-profile=fast $(addprefix --ignore=,$(LONG))

bench: prepare tools  ## Measure the agent beside a floor in C (QUICK=1: a tenth of it; PRIORITY=normal, CPU=100m)
	@$(LAB).sandbox -- $(LAB).bench.agent $(if $(QUICK),--quick) $(if $(PRIORITY),--priority $(PRIORITY)) $(if $(CPU),--cpu $(CPU))

bench-operator: prepare tools  ## Measure the operator with 10,000 endpoints (QUICK=1: a tenth of it)
	@$(LAB).bench.operator $(if $(QUICK),--quick)

bench-outage: prepare tools guest  ## Measure real migrations, whatever carries routes (QUICK=1: two per row; ONLY="bird routed")
	@$(LAB).sandbox -- $(LAB).bench.outage $(if $(QUICK),--quick) $(ONLY)

fuzz: prepare  ## Odd objects and messages for agent and operator, each for ten minutes (SECONDS_EACH=600)
	@HANDOVER_FUZZ_SECONDS=$(or $(SECONDS_EACH),600) $(PYTEST) -s --timeout 0 tests/nodeagent tests/operator -k fuzz

mutants: prepare  ## Work faults into the decisive modules: do their tests notice? (ONLY="fsm plan")
	@$(LAB).mutants $(ONLY)

soak: prepare tools  ## Two hours of a node's life in ten minutes, and nothing may be left of them
	@$(LAB).sandbox -- $(LAB).testing.soak

lint:  ## Style, types, layers, and the bars of the house style
	@$(BIN)/ruff format --check --quiet $(CHECKED)
	@$(BIN)/ruff check --quiet $(CHECKED)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(LAB).house_style

tools: prepare  ## Build the parts of Kubernetes, once, into the user's cache
	@$(LAB).toolchain.tools

guest: prepare  ## Build the kernel and initramfs of the VMs, once, into the user's cache
	@$(LAB).guest.initramfs

images: prepare  ## Build the two images and their SBOMs into build/images (SUITE=bookworm, BASE=… a public one)
	@$(LAB).images $(if $(SUITE),--suite $(SUITE)) $(if $(BASE),--base $(BASE))
	@$(LAB).images.sbom

chart: prepare  ## Make the chart's generated files: CRDs, schema, table of values
	@$(LAB).docs.chart

docs: prepare  ## Make the reference pages, and build the documentation strictly into build/docs
	@$(LAB).docs.reference
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --builder html docs build/docs
	@echo "build/docs/index.html"

licenses: images  ## Show the license of every package in the images
	@cat build/licenses.md

prepare: fitting-python
	@$(PYTHON) e2e/prepare.py

fitting-python:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer is needed, and none was found:" \
	  "apt-get install python3, or set PYTHON=… to one." >&2; exit 1; }

constraints: prepare  ## Pin the newest fitting versions of all dependencies (PYTHON=… is the oldest to fit)
	@$(PYTHON) -m venv build/pin && build/pin/bin/pip --quiet install pip-tools
	@build/pin/bin/pip-compile --quiet --upgrade --all-extras --generate-hashes --allow-unsafe --strip-extras \
	  --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --output-file constraints.txt pyproject.toml

clean:  ## Remove what was built here; the cached tools stay
	@rm -rf build .venv
