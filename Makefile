# Verbs only; each calls one command. `make` lists them. CONFIG= and PROFILE= choose the configuration, ARGS= hands options on.
CONFIG  ?= config.yaml
PROFILE ?=
RUN     ?=
EXTRA   ?=
TARGET  ?=
ARGS    ?=
TESTS   ?=
BENCH   ?=
POLICY  ?=
TO      ?=

SWERL   := .venv/train/bin/swerl
CHOICE   = --config $(CONFIG) $(if $(PROFILE),--profile $(PROFILE)) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help dashboard setup demo validate render preflight forecast doctor smoke train eval infer status stop resume logs artifacts report export wandb-view reproduce clean test test-fast test-all drill agents lint bench lock lock-check env-verify nix-check image bundle

help: ## list the verbs
	@echo "swerl: train a software-engineering agent with online RL, declared in $(CONFIG)"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  CONFIG=$(CONFIG) PROFILE=demo-cpu RUN=<name> ARGS='--set training.total_steps=4'; every verb: $(SWERL) VERB --help"

setup: ## install everything from uv.lock: two environments, bubblewrap (EXTRA=cpu|gpu)
	@SETUP_FOR=$(firstword $(MAKECMDGOALS)) scripts/bootstrap.sh $(EXTRA)

$(SWERL):
	@scripts/bootstrap.sh $(EXTRA)

demo: setup ## the whole loop on this machine, from nothing to results (FRESH=1 begins anew, PROFILE=h100x1 on a GPU)
	@$(SWERL) demo $(if $(PROFILE),--profile $(PROFILE)) $(if $(FRESH),--fresh) $(ARGS)

validate: $(SWERL) ## check the configuration against the schema
	@$(SWERL) validate $(CHOICE)

render: $(SWERL) ## show what the run's processes would be given (TARGET=kuberay: its Kubernetes objects, IMAGE=NAME@sha256:DIGEST)
	@$(if $(filter kuberay,$(TARGET)),$(SWERL) env manifests --image $(IMAGE) $(CHOICE),$(SWERL) render $(CHOICE))

preflight: $(SWERL) ## find what would fail, before it does; changes nothing
	@$(SWERL) preflight $(CHOICE)

forecast: $(SWERL) ## foresee memory, time and cost (ARGS='--model-config config.json --price 2.5')
	@$(SWERL) forecast $(CHOICE)

doctor: $(SWERL) ## prove the tasks: oracle 1, no-op 0
	@$(SWERL) doctor $(CHOICE)

smoke: $(SWERL) ## one real step of the profile, cut to 8 x 4 trials, and a verdict
	@$(SWERL) smoke $(CHOICE)

train: $(SWERL) ## train; the same command resumes (FRESH=1 begins anew, DETACH=1 goes on without this terminal)
	@$(SWERL) train $(CHOICE) $(if $(FRESH),--fresh) $(if $(DETACH),--detach)

eval: $(SWERL) ## score a policy (POLICY=<run, checkpoint, directory or URL>; default: the run's newest checkpoint)
	@$(SWERL) eval $(if $(POLICY),--policy $(POLICY)) $(CHOICE) $(if $(FRESH),--fresh)

infer: $(SWERL) ## k attempts a task: trajectories, rewards, filtered index (POLICY=)
	@$(SWERL) infer $(if $(POLICY),--policy $(POLICY)) $(CHOICE) $(if $(FRESH),--fresh)

status: $(SWERL) ## where a run stands (RUN=)
	@$(SWERL) status $(RUN) $(CHOICE)

dashboard: $(SWERL) ## show runs in a browser (RUN=, ARGS='--port N')
	@$(SWERL) dashboard $(RUN) $(CHOICE)

stop: $(SWERL) ## let a run finish its step, save and end (RUN=)
	@$(SWERL) stop $(RUN) $(CHOICE)

resume: $(SWERL) ## continue a run from its own snapshot (RUN=, DETACH=1)
	@$(SWERL) resume $(RUN) $(CHOICE) $(if $(DETACH),--detach)

logs: $(SWERL) ## what a run's processes print; PROCESS=gateway|runner|trainer|engine (RUN=)
	@$(SWERL) logs $(RUN) $(CHOICE) $(if $(PROCESS),--process $(PROCESS))

artifacts: $(SWERL) ## gather a run into artifacts/ (RUN=)
	@$(SWERL) artifacts $(RUN) $(CHOICE)

report: $(SWERL) ## one HTML file about a run, or several compared (RUN='one other'; archives too)
	@$(SWERL) report $(RUN) $(CHOICE)

export: $(SWERL) ## a checkpoint as a Hugging Face directory, checked by loading it (POLICY=)
	@$(SWERL) export $(if $(POLICY),--policy $(POLICY)) $(CHOICE)

wandb-view: $(SWERL) ## the dashboard's panels as a saved view in W&B (TO=ENTITY/PROJECT)
	@.venv/uv/bin/uv run --quiet -p .venv/train/bin/python scripts/wandb_view.py $(TO) $(ARGS)

reproduce: $(SWERL) ## do a run again and compare bit for bit (RUN=; LIVE=1 samples anew)
	@$(SWERL) reproduce $(RUN) $(if $(LIVE),--live) $(CHOICE)

clean: $(SWERL) ## end what dead runs left; with RUN=, remove that run
	@$(SWERL) clean $(RUN) $(CHOICE)

test: setup ## all tests but the long ones (TESTS=<directory or word>)
	@.venv/train/bin/python scripts/test.py default $(TESTS) $(ARGS)

test-fast: setup ## the tests under two minutes
	@.venv/train/bin/python scripts/test.py fast $(TESTS) $(ARGS)

test-all: setup ## every test, the long ones too
	@.venv/train/bin/python scripts/test.py all $(TESTS) $(ARGS)

drill: setup ## kill a run's processes at random, over and over, and print what became of it (SEEDS=10; WRITE=1 renews docs/results/drill.md)
	@.venv/train/bin/python tests/crash/drill.py $(or $(SEEDS),10) $(if $(WRITE),--write)

agents: setup ## install the coding agents of containers/agents.json, by hash, for sandboxes
	@$(SWERL) env agents $(ARGS)

lint: $(SWERL) ## ruff: rules and format
	@.venv/train/bin/ruff check . && .venv/train/bin/ruff format --check .

bench: setup ## measure what the documentation promises (BENCH=<name>)
	@.venv/train/bin/python scripts/bench.py $(BENCH) $(ARGS)

lock: $(SWERL) ## write uv.lock anew, on the public index alone
	@$(SWERL) env lock $(ARGS)

lock-check: $(SWERL) ## is uv.lock current, canonical, hashed, of one CUDA?
	@$(SWERL) env lock-check $(ARGS)

env-verify: $(SWERL) ## compare the installed environments with the lock, file by file
	@$(SWERL) env verify $(ARGS)

nix-check: $(SWERL) ## parse, lock and evaluate the flake offline, build some wheels (needs nix)
	@.venv/train/bin/python -m pytest -q tests/nix $(ARGS)

image: $(SWERL) ## build an image and print its digest (TARGET=trainer|trials|sandbox|agents, BASE_IMAGE=)
	@$(SWERL) env image $(if $(TARGET),--target $(TARGET)) $(if $(BASE_IMAGE),--base-image $(BASE_IMAGE)) $(ARGS)

bundle: $(SWERL) ## pack the GPU environment for a host without network (INVENTORY=)
	@scripts/bundle.sh $(INVENTORY) $(ARGS)
