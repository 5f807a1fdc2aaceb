# Two commands to know: `make demo` and `make test`. Both install what they need into .venv first.
# Packages are compiled as they are imported; where that is switched off, each process would compile them anew, 20 s a start.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RUN ?= demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: help demo test test-unit test-engines test-ray test-nightly install install-dev check format science real smollm2 bench-learner bench-round bench-rollout bench-peak bench-overlap bench-sync bench-serving gpu-check chaos fuzz docs lock clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: install ## Install, then run two rounds over the embedded world (RUN=name RESUME=1 continues one)
	$(BIN)/isogloss train configs/demo.yaml run.name=$(RUN) $(if $(RESUME),--resume)

# Stages, the quickest first. Processes for each kind: vLLM, Ray and torch.distributed each leave state behind that the
# others trip over. With PROCESSES=2 engines and Ray are tested in two, each with clusters of its own; a file's tests share
# what it starts, so a file stays in one of them, and so do all that serve (tests/conftest.py). That wants four cores: on two
# it takes 29 minutes for Ray's stage, and an endpoint that starts beside another cluster may miss its deadline.
PROCESSES ?= 0
ifdef ARGS
test: install-dev ## Install, then run all tests (ARGS="-k pairs -x" is passed to one pytest instead)
	$(BIN)/python -m pytest $(ARGS)
else
test: test-unit test-engines test-ray
endif

test-unit: install-dev ## Tests that start neither engines nor Ray
	$(BIN)/python -m pytest -n 2 -m "not vllm and not ray and not e2e"

test-engines: install-dev ## Tests of vLLM engines alone
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile -m "vllm and not ray and not e2e"

test-ray: install-dev ## Tests that start Ray, Serve or the command from start to end, but for the nightly ones
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder -m "(ray or e2e) and not nightly"

test-nightly: install-dev ## The long forms: several replicas, swaps under load, a judge's whole run
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder -m nightly

install: $(VENV)/.installed ## Install the CPU stack into .venv

install-dev: $(VENV)/.installed-dev ## Install the tools for tests and checks too

check: install-dev ## Lint, format check, import contract and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: install-dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

science: install ## ICR, LIDR, controls and rewards over worlds and seeds; writes docs/science.md (ARGS=--dial: more worlds)
	$(BIN)/python -m benchmarks.science $(ARGS)

real: smollm2 ## A real model on real prompts, with control; writes docs/real.md (1 to 3 hours; REAL=short; TRAIN=DIR HELDOUT=DIR)
	$(BIN)/python -m benchmarks.real $(if $(filter short,$(REAL)),--short) $(if $(TRAIN),--train $(TRAIN)) \
		$(if $(HELDOUT),--heldout $(HELDOUT)) $(ARGS)

smollm2: install-dev ## Fetch SmolLM2-135M-Instruct for the benchmarks and convert it into runs/models (90 MB)
	$(BIN)/python -m benchmarks.smollm2

bench-learner: smollm2 ## The learner against TRL and, at 135 M in bfloat16, a plain pass of Transformers (12 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.learner_real
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.learner

bench-rollout: install ## Our rollout actors against bare vLLM engines; needs make smollm2 (ARGS="--sizes 1m_32" does not)
	$(BIN)/python -m benchmarks.rollout $(ARGS)

bench-round: install-dev ## A whole round against TRL's OnlineDPOTrainer; needs make smollm2 (ARGS="--sizes 1m_32" does not)
	$(BIN)/python -m benchmarks.round $(ARGS)

bench-overlap: install ## The driver over stages that only sleep: overlap, and 64 rollout actors (3 minutes; ARGS=--short)
	$(BIN)/python -m benchmarks.overlap $(ARGS)

bench-sync: install ## New weights into engines: objects, broadcast, and vLLM's own reload at 135 M and 270 M
	$(BIN)/python -m benchmarks.sync $(ARGS)

bench-peak: install ## What this machine can do, and what a round takes at least on it; after bench-round (ARGS="--sizes 1m_32")
	$(BIN)/python -m benchmarks.peak $(ARGS)

SEED ?= 0
KILLS ?= 100
DAMAGES ?= 12
chaos: install-dev ## Kill a small run KILLS times, spoil its files DAMAGES times, continue, compare; adds up in runs/chaos
	$(BIN)/python -m benchmarks.chaos --seed $(SEED) --kills $(KILLS) --damages $(DAMAGES)

gpu-check: ## On a machine with one GPU: numbers, speed, memory (torch and Transformers are enough; CHECK_PYTHON=python3)
	$(or $(CHECK_PYTHON),$(BIN)/python) -m benchmarks.gpu_check --out runs/bench $(ARGS)

bench-serving: install-dev ## The endpoint under load: 50 swaps, a killed replica (ARGS="--replicas 2")
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.serving_load --kill $(ARGS)

fuzz: install ## Every reader on inputs that are almost right (SEED=n CASES=n, ARGS="--case n" shows one)
	$(BIN)/python -m benchmarks.fuzz --seed $(SEED) --cases $(or $(CASES),2000) $(ARGS)

docs: $(VENV)/.installed-docs ## The config reference, then all pages with the API, links checked, in build/site
	$(BIN)/isogloss config-reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

lock: install-dev ## Resolve requirements/*.in into the locks (needs uv)
	requirements/lock.sh

clean: ## Remove .venv and caches (runs are kept)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

$(VENV)/.installed: requirements/cpu.lock requirements/install.sh pyproject.toml
	PYTHON=$(PYTHON) requirements/install.sh $(VENV)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements/dev.lock
	$(PIP) install --quiet --no-compile --no-deps -r requirements/dev.lock
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed-dev requirements/docs.lock
	$(PIP) install --quiet --no-deps -r requirements/docs.lock
	@touch $@
