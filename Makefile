PYTHON ?= python3.11
PYTHONS ?= python3.12 python3.13
VENV ?= .venv
STORE ?= store
PORT ?= 50051
EPOCHS ?= 7
SOAK ?= full
FLEET ?= full
ATTACK ?= full
LOAD ?= full
BENCH ?= full
SCALE ?= full
MINUTES ?= 10
RECIPE ?= movielens_100k
JOBS ?= 2
BUILDER ?= $(firstword $(foreach each,podman docker buildah,$(if $(shell command -v $(each)),$(each))))
IMAGES ?= two-tower
TAG ?= $(shell cat clients/VERSION)
TARGETS ?= query-tower ann trainer
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export TF_CPP_MIN_LOG_LEVEL ?= 3

.DEFAULT_GOAL := help
.PHONY: help env demo test test-pythons check lint types protos check-protos gateway check-protocol soak fleet attack fuzz audit demo-search quality first-recipes throughput ghz s3-server weaviate load-test bench scale shards serve wheel images images-check clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(READY) ## Make the environment in .venv
$(READY): constraints.txt pyproject.toml clients/pyproject.toml clients/VERSION deploy/check_machine.sh
	@sh deploy/check_machine.sh "$(PYTHON)"
	@echo "installing all packages into $(VENV): one to three minutes, without output"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ./clients -e '.[dev]'
	@touch $@

demo: $(READY) ## Train on MovieLens-100k, serve, recommend, train again, swap under traffic (EPOCHS=7)
	$(BIN)/python -m examples.demo --epochs $(EPOCHS)

test: $(READY) ## Run the whole test suite (JOBS=2 processes)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

test-pythons: ## Run the suite under Python 3.12 and 3.13, where they are at hand (PYTHONS="python3.12 python3.13")
	@failed=""; for python in $(PYTHONS); do \
	  if version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); \
	    then $(MAKE) --no-print-directory test PYTHON=$$python VENV=.venv-$$version || failed="$$failed $$python"; \
	    else echo "make test-pythons: $$python is not on this machine, so the suite was not run with it"; fi; \
	done; [ -z "$$failed" ] || { echo "make test-pythons: failed with$$failed"; exit 1; }

check: lint types check-protos ## Format, lint, types, import rules, protos

lint: $(READY) ## ruff and import-linter
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	PYTHONPATH=.:clients $(BIN)/lint-imports

types: $(READY) ## pyright, strict but where it meets tensorflow
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pyright -p pyrightconfig.trainer.json --pythonpath $(BIN)/python

protos: $(READY) ## Generate the typed stubs from protos/
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -I protos --python_out=clients --grpc_python_out=clients \
	  --mypy_out=quiet:clients --mypy_grpc_out=quiet:clients protos/two_tower/*/v1/*.proto
	@touch clients/two_tower/query/py.typed clients/two_tower/ann/py.typed

check-protos: $(READY) ## buf lint, and that the stubs are those of protos/
	cd protos && "$(abspath $(BIN))/buf" lint
	$(MAKE) --no-print-directory protos && git diff --exit-code -- clients/two_tower

gateway: $(READY) ## Write Envoy's descriptors and the OpenAPI document of deploy/envoy from protos/
	$(BIN)/python deploy/envoy/generate.py

check-protocol: $(READY) ## Check the swap protocol exhaustively, and that breaking a rule is noticed
	$(BIN)/python -m tests.protocol.check $(if $(filter short,$(SOAK)),--short) --mutations

soak: $(READY) ## Swaps, faults and leaks under load (SOAK=short: about 5 minutes)
	$(BIN)/python -m tests.system.soak $(if $(filter short,$(SOAK)),--short)

fleet: $(READY) $(if $(filter short,$(FLEET)),,.tools/bin/versitygw) ## Replicas on hosts of their own (network namespaces, as root), and faults; then long tests of a store in a bucket and of Envoy (FLEET=short: 3 minutes, the first alone; JSON=)
	@failed=""; $(BIN)/python -m tests.system.fleet $(if $(filter short,$(FLEET)),--short) $(if $(JSON),--json $(JSON)) || failed=1; \
	  $(if $(filter short,$(FLEET)),,STORE_ROUNDS=100 STORE_KILLS=20 GATEWAY_CALLS=10000 $(BIN)/python -m pytest \
	    tests/retrieval/store tests/system/test_bucket.py tests/system/gateway || failed=1;) [ -z "$$failed" ]

attack: $(READY) ## Attack both services: a table of promise, figure, limit, verdict (ATTACK=short: minutes; STORE=, TREE=, JSON=)
	$(BIN)/python -m benchmarks.attack $(if $(filter short,$(ATTACK)),--short) $(if $(filter-out file default,$(origin STORE)),--store "$(STORE)") \
	  $(if $(TREE),--tree $(TREE)) $(if $(JSON),--json $(JSON))

fuzz: $(READY) ## Odd inputs to every RPC, manifest, store, recipe and table (MINUTES=10; EXAMPLES= for each target; SEED=)
	$(BIN)/python -m tests.fuzz.campaign --minutes $(MINUTES) $(if $(EXAMPLES),--examples $(EXAMPLES)) $(if $(SEED),--seed $(SEED))

audit: $(READY).audit ## Licences of all packages, and known vulnerabilities of constraints.txt (asks the package index)
	$(BIN)/python deploy/check_licences.py
	$(VENV)/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off || \
	  { echo "make audit: failed: update the packages above, or ask again where the advisories of the package index can be reached"; exit 1; }
$(READY).audit: $(READY)
	$(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	@touch $@

demo-search: $(READY) ## Products for typed queries, by BM25, towers and both, from running services (DATA=; STORE=, QUERIES=5)
	$(BIN)/python -m examples.demo_search $(if $(DATA),--data $(DATA)) $(if $(QUERIES),--queries $(QUERIES)) \
	  $(if $(filter-out file default,$(origin STORE)),--store "$(STORE)")

quality: $(READY) ## Train a recipe with three seeds beside all baselines, judge the targets (RECIPE=, DATA=)
	$(BIN)/python -m benchmarks.quality.recipes $(RECIPE) $(if $(DATA),--data $(DATA))

first-recipes: $(READY) ## `init`, then `train`, on tables of nine shapes, beside strong baselines (SHAPES="shop walk"; BEAUTY=FOLDER; SEEDS=3)
	$(BIN)/python -m benchmarks.quality.first_recipe $(SHAPES) $(if $(BEAUTY),--beauty $(BEAUTY) --shipped) $(if $(SEEDS),--seeds $(SEEDS))

throughput: $(READY) ## Training from Parquet beside plain Model.fit on arrays in memory
	$(BIN)/python -m benchmarks.training.throughput

ghz: .tools/bin/ghz ## Install ghz, the load generator, into .tools/bin (needs Go 1.23)
.tools/bin/ghz:
	@command -v go >/dev/null || { echo "make ghz: there is no Go. Install Go 1.23 or later, or put a ghz 0.121 of your own at $@"; exit 1; }
	GOBIN="$(CURDIR)/.tools/bin" go install github.com/bojand/ghz/cmd/ghz@v0.121.0

s3-server: .tools/bin/versitygw ## Install an S3 server for tests of stores in a bucket into .tools/bin, and print how to start it (needs Go 1.23)
	@echo 'Start it, with a bucket "shop" in the folder runs/s3:  mkdir -p runs/s3/shop'
	@echo '  ROOT_ACCESS_KEY=me ROOT_SECRET_KEY=my-secret $< --port 127.0.0.1:7070 posix runs/s3'
	@echo 'Its stores are s3://shop/...; docs/operating.md, "A store in a bucket", says what commands and services need for them.'
.tools/bin/versitygw:
	@command -v go >/dev/null || { echo "make s3-server: there is no Go. Install Go 1.23 or later, or put a versitygw 1.x of your own at $@"; exit 1; }
	GOBIN="$(CURDIR)/.tools/bin" go install github.com/versity/versitygw/cmd/versitygw@v1.8.0

weaviate: .tools/bin/weaviate-server .tools/weaviate-client/.ready ## Install Weaviate and its Python client into .tools, for a benchmark beside it (needs Go 1.25; 5 to 20 minutes)
	@echo 'Measure beside it:  $(BIN)/python -m benchmarks.services.weaviate --store store'
.tools/bin/weaviate-server:
	@command -v go >/dev/null || { echo "make weaviate: there is no Go. Install Go 1.25 or later, or put a weaviate-server 1.35 of your own at $@"; exit 1; }
	GOBIN="$(CURDIR)/.tools/bin" go install github.com/weaviate/weaviate/cmd/weaviate-server@v1.35.2
.tools/weaviate-client/.ready: benchmarks/services/weaviate/requirements.txt
	@$(PYTHON) -m venv .tools/weaviate-client
	@.tools/weaviate-client/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

load-test: $(READY) .tools/bin/ghz ## Both services under ghz, judged (LOAD=short: under 3 minutes; STORE=, SLOW_MS=20)
	$(BIN)/python -m benchmarks.loadtest $(if $(filter short,$(LOAD)),--short) $(if $(filter-out file default,$(origin STORE)),--store "$(STORE)") \
	  $(if $(SLOW_MS),--slow-ms $(SLOW_MS))

bench: $(READY).bench $(if $(filter short,$(BENCH)),,.tools/bin/ghz) ## Services, the pair, and indexes beside peers, with plots (BENCH=short: under 5 minutes; STORE=)
	$(BIN)/python -m benchmarks --to runs/bench $(if $(filter short,$(BENCH)),--short) \
	  $(if $(filter-out file default,$(origin STORE)),--store "$(STORE)")
$(READY).bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

scale: $(READY) ## Costs of catalogues, what they predict of a larger one and of load, fleets for a billion items; then `make shards` (SCALE=short)
	@failed=""; $(BIN)/python -m benchmarks.scale $(if $(filter short,$(SCALE)),--items 5000 20000 10000 --seconds 2) || failed=1; \
	  $(MAKE) --no-print-directory shards || failed=1; [ -z "$$failed" ]

shards: $(READY) ## A million items in 4 shards on 3 nodes of Ray: equality, 20 killed nodes, swaps, costs, judged (SCALE=short: 20,000 items; JSON=)
	$(BIN)/python -m benchmarks.shards $(if $(filter short,$(SCALE)),--short) $(if $(JSON),--json $(JSON))

serve: SHELL := bash
serve: $(READY) ## Run both services on ports 50051 and 50052 (STORE=store; PORT= and the next one); if one ends, so does the other
	@case "$(STORE)" in *://*) ;; *) [ -d "$(STORE)" ] || \
	  echo "make serve: there is no folder $(STORE): is STORE= right? The services wait for a first bundle in it" >&2;; esac; \
	  trap 'told=1' INT; trap 'told=1; kill $$tower $$ann' TERM; \
	  $(BIN)/python -m query_tower_service --store "$(STORE)" --port $(PORT) & tower=$$!; \
	  $(BIN)/python -m ann_service --store "$(STORE)" --port $$(($(PORT) + 1)) & ann=$$!; wait -n; failed=$$?; \
	  if [ "$$told" ]; then wait; exit 0; fi; kill $$tower $$ann 2>/dev/null; wait; exit $$failed

wheel: $(READY) ## Build the wheels of client and project into dist/
	$(BIN)/python -m build --wheel --outdir dist clients && $(BIN)/python -m build --wheel --outdir dist .

images: ## Build the images (BUILDER=podman, docker or buildah; IMAGES=, TAG=, TARGETS=; BASE=, BUILD_OPTIONS=)
	@[ "$(BUILDER)" ] || { echo "make images: there is no podman, docker or buildah; install one, or name one with BUILDER="; exit 1; }
	@for target in $(TARGETS); do $(BUILDER) build --file deploy/images/Containerfile --target $$target \
	  --tag $(IMAGES)/$$target:$(TAG) $(if $(findstring buildah,$(BUILDER)),--layers) $(if $(BASE),--build-arg BASE=$(BASE)) $(BUILD_OPTIONS) . || exit 1; done

images-check: $(READY) ## Start the images that `make images` built and check them from inside (the same variables)
	$(BIN)/python -m tests.deploy.check_images --builder "$(BUILDER)" --images "$(IMAGES)" --tag "$(TAG)" $(TARGETS)

clean: ## Remove the environment and what was built
	rm -rf $(VENV) build dist *.egg-info clients/build clients/*.egg-info
