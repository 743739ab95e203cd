# `make train` and `make test` are all one needs; `make` alone lists the rest.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup train test clusters browser check format study scaling evidence chaos soak fuzz peers clean

# What `make train` passes on; put further options into ARGS: make train ARGS="--seed 7"
TRAIN_FLAGS ?= --midi-file example_midis/westminster_chimes.mid --preset few-cores \
	--max-minutes 10 --max-steps 5000000 --eval-interval 10000 --tqdm-bar \
	--trim-silence --gravity-compensation --reduced-action-space \
	--action-reward-observation --primitive-fingertip-collisions
ARGS ?=

help: ## list these targets
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/make \1\t\2/p' Makefile | expand -t 14

setup: ## install everything into .venv (the targets below do it by themselves)
	@scripts/setup.sh

train: setup ## learn to play westminster_chimes.mid; results go to runs/
	.venv/bin/pianist train $(TRAIN_FLAGS) $(ARGS)

test: browser check ## check the source, then run the tests; one of them: make test ARGS="-k reward"
	.venv/bin/python -m pytest -n 2 $(ARGS)

clusters: browser ## what make test leaves out: jobs of pianist submit, and pianist doctor, on real clusters; 4 minutes
	CI=true .venv/bin/python -m pytest -m clusters $(ARGS)

browser:
	@scripts/setup.sh test

check: setup ## formatting, lint and types
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: setup ## format the source and put right what ruff can
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

study: setup ## fine-tuning on preferences beside its baselines: the table of docs/results.md, two hours
	scripts/preference_study.sh

scaling: setup ## how many actors one replay server and one learner carry: figures and plot of docs/scaling.md
	.venv/bin/pianist bench scale --rounds 3 --json >docs/scaling.json
	.venv/bin/python -m benchmarks.saturation_plot docs/scaling.json docs/scaling.png

evidence: setup ## learning beside the straightforward loop: table and figure of docs/results.md, three hours
	scripts/learning_evidence.sh

chaos: setup ## kill, stop and starve the parts of a training in turn: the table of docs/reliability.md, 20 minutes
	rm -rf runs/chaos
	.venv/bin/python -m benchmarks.chaos runs/chaos --faults 36

soak: setup ## an hour of training, looking at memory and speed: the other table of docs/reliability.md
	rm -rf runs/soak
	.venv/bin/python -m benchmarks.soak runs/soak --minutes 60

fuzz: setup ## a million hostile MIDI files, ten thousand of every other kind of input
	.venv/bin/python -m pip install -q -c constraints.txt -e '.[fuzz]'
	.venv/bin/python tests/hostile_inputs.py midi --inputs 1000000
	for kind in checkpoint manifest requests; do \
		.venv/bin/python tests/hostile_inputs.py $$kind --inputs 10000 || exit 1; done

peers: setup ## SBX in an environment of its own, for pianist bench learner
	test -x benchmarks/.venv-sbx/bin/python || .venv/bin/python -m venv benchmarks/.venv-sbx
	benchmarks/.venv-sbx/bin/python -m pip install -q -r benchmarks/sbx_requirements.txt

clean: ## remove .venv and caches, never runs/
	rm -rf .venv/setup-stamp .venv benchmarks/.venv-sbx .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -path ./runs -prune -o -name __pycache__ -prune -exec rm -rf {} +
