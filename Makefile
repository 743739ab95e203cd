# `make train` and `make test` are all one needs; `make` alone lists the rest.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup train test test-all unit newer clusters browser check cli-reference format study scaling evidence chaos soak fuzz peers clean

# What `make train` passes on; put further options into ARGS: make train ARGS="--seed 7"
TRAIN_FLAGS ?= --midi-file example_midis/westminster_chimes.mid --preset auto \
	--max-minutes 10 --max-steps 5000000 --eval-interval 10000 --tqdm-bar \
	--trim-silence --gravity-compensation --reduced-action-space \
	--action-reward-observation --primitive-fingertip-collisions
ARGS ?=
# The environment. PYTHON=python3.12 makes it anew with another interpreter; with VENV=.venv-py312
# beside it that one gets a folder of its own.
VENV ?= .venv
export VENV
CONSTRAINTS = $(VENV)/bin/python -c \
	'import sys; print("constraints.txt" if sys.version_info < (3, 12) else "constraints-py312.txt")'

# Tiers of tests, see pyproject.toml.
UNIT = not run and not slow and not browser and not hosts and not bench and not clusters and not alone
QUICK = not slow and not hosts and not bench and not clusters and not alone
ALL = not clusters and not alone
# How `make newer` tries a run: two minutes, the start included.
SMALL_RUN = --max-minutes 2 --eval-interval 2000 --actors 1 --warmstart-steps 500 --name newer

help: ## list these targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1\t\2/p' Makefile | expand -t 15

setup: ## install everything into .venv (the targets below do it by themselves)
	@scripts/setup.sh

train: setup ## learn to play westminster_chimes.mid; results go to runs/
	$(VENV)/bin/pianist train $(TRAIN_FLAGS) $(ARGS)

test: browser check ## check the source, then run the tests; one of them: make test ARGS="-k reward"
	$(VENV)/bin/python -m pytest -n 2 -m "$(QUICK)" $(ARGS)

test-all: browser check ## the same with the tests on several hosts, and of the benchmarks
	$(VENV)/bin/python -m pytest -n 2 -m "$(ALL)" $(ARGS)

unit: setup ## the tests that start no processes
	$(VENV)/bin/python -m pytest -n 2 -m "$(UNIT)" $(ARGS)

newer: export VENV = .venv-py312
newer: setup ## Python 3.12 or 3.13 (PYTHON=...) in .venv-py312: unit tests and a small run
	$(VENV)/bin/python -m pytest -n 2 -m "$(UNIT)" $(ARGS)
	rm -rf runs/newer
	$(VENV)/bin/pianist train $(TRAIN_FLAGS) $(SMALL_RUN)

clusters: browser ## what make test-all leaves out: jobs of pianist submit, pianist doctor, and a full memory, on real clusters; 9 minutes
	CI=true $(VENV)/bin/python -m pytest -m "clusters or alone" $(ARGS)

browser:
	@scripts/setup.sh test

check: setup ## formatting, lint and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

cli-reference: setup ## write docs/cli.md anew from the help texts
	$(VENV)/bin/python scripts/cli_reference.py > docs/cli.md

format: setup ## format the source and put right what ruff can
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

study: setup ## fine-tuning on preferences beside its baselines: the table of docs/results.md, three hours
	$(VENV)/bin/python -m benchmarks.preference_study runs/preference-study

scaling: setup ## how many actors one replay server and one learner carry: figures and plot of docs/scaling.md
	$(VENV)/bin/pianist bench scale --rounds 3 --json >docs/scaling.json
	$(VENV)/bin/python -m benchmarks.saturation_plot docs/scaling.json docs/scaling.png

evidence: setup ## learning beside the single-process baseline: table and figure of docs/results.md, three hours
	scripts/learning_evidence.sh

chaos: setup ## kill, stop and starve the parts of a training in turn: the table of docs/guides/reliability.md, 20 minutes
	rm -rf runs/chaos
	$(VENV)/bin/python -m benchmarks.chaos runs/chaos --faults 36

soak: setup ## an hour of training, looking at memory and speed: the other table of docs/guides/reliability.md
	rm -rf runs/soak
	$(VENV)/bin/python -m benchmarks.soak runs/soak --minutes 60

fuzz: setup ## a million hostile MIDI files, ten thousand of every other kind of input
	$(VENV)/bin/python -m pip install -q -c $$($(CONSTRAINTS)) -e '.[fuzz]'
	$(VENV)/bin/python tests/hostile_inputs.py midi --inputs 1000000
	for kind in checkpoint manifest requests; do \
		$(VENV)/bin/python tests/hostile_inputs.py $$kind --inputs 10000 || exit 1; done

peers: setup ## SBX in an environment of its own, for pianist bench learner
	test -x benchmarks/.venv-sbx/bin/python || $(VENV)/bin/python -m venv benchmarks/.venv-sbx
	benchmarks/.venv-sbx/bin/python -m pip install -q -r benchmarks/sbx_requirements.txt

clean: ## remove .venv and caches, never runs/
	rm -rf .venv/setup-stamp .venv .venv-py312 benchmarks/.venv-sbx .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -path ./runs -prune -o -name __pycache__ -prune -exec rm -rf {} +
