# The series on one machine. `make` alone lists the targets; README.md gives the same commands without make.
.DEFAULT_GOAL := help
.PHONY: help setup data run test lab app sweep bench backbone clean

PYTHON ?= python3.11
DATASET ?= datasets/mesh
PROFILE ?= quick
CLASSES ?=
TEACHER ?= auto
BACKBONE ?=
NORMAL ?=
DEVICE ?= auto
SEED ?= 0

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(shell cat requirements.lock pyproject.toml | cksum | cut -d ' ' -f 1)
SETTINGS := $(if $(BACKBONE),--set "BACKBONE=$(BACKBONE)") $(if $(NORMAL),--set "NORMAL=$(NORMAL)") --set "DEVICE=$(DEVICE)" --set "SEED=$(SEED)"

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1@/' | awk -F@ '{printf "%-14s %s\n", $$1, $$2}'
	@echo "  variables: DATASET= PROFILE=quick|full NORMAL= BACKBONE= DEVICE=auto|cpu|cuda:N|mps SEED= CLASSES= TEACHER= PYTHON="

setup: $(READY) ## make .venv with the pinned packages; again only when the pins change

$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	rm -f $(VENV)/.ready-*
	touch $@

data: setup ## draw the built-in datasets mesh and nuts
	$(BIN)/python -m helpers.pictures mesh nuts --out datasets

run: setup ## run the series headless on DATASET under PROFILE
	$(BIN)/python -m helpers.pipeline run --dataset "$(DATASET)" --profile $(PROFILE) $(SETTINGS)

test: setup ## check format and lint, run all tests, the smoke series and nbval
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lab: setup ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=notebooks \
		--ServerApp.tornado_settings='{"websocket_max_message_size": 1073741824}'  # photos over 10 MiB can be uploaded

app: setup ## serve the inspection page on this machine: notebook 10 with the finished runs of DATASET under PROFILE
	$(BIN)/python -m helpers.views.app.serve --dataset "$(DATASET)" --profile $(PROFILE)

sweep: setup ## run the series on each of CLASSES="a b" in the folder DATASET; one CSV with a mean row
	$(BIN)/python -m helpers.pipeline sweep --dataset "$(DATASET)" --classes "$(CLASSES)" --profile $(PROFILE) $(SETTINGS)

bench: setup ## measure speed as ratios to anomalib, into artifacts/bench
	$(BIN)/python -m benchmarks.speed

backbone: setup ## train the shipped backbone again from TEACHER=local-dir:PATH (an ImageNet MobileNetV2)
	$(BIN)/python -m benchmarks.distill --teacher "$(TEACHER)"

clean: ## delete .venv and all that runs have left in artifacts; datasets stay
	rm -rf $(VENV)
	find artifacts -mindepth 1 ! -name README.md -delete
