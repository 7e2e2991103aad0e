# make run   the whole course on this machine      make test   style, types and tests
# make lab   the notebooks in JupyterLab           make base / record / publish / bench   see README.md
# make book  the executed course as a website      make lite   the recorded side of it in a browser
#
# PYTHON=python3.12 chooses the interpreter; PRESET and SEED choose the run, JOBS how many chapters
# are executed side by side (one a core). CHAPTERS is the folder that `lab` opens, beside docs/ and
# data/ so that links lead there; LAB is passed on to JupyterLab.

PYTHON ?= python3
PRESET ?= tiny
SEED ?= 0
JOBS ?=
CHAPTERS ?= notebooks
LAB ?=
# root, as in a container, is asked for this by JupyterLab
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)
# what `publish` records beside the rows that are there
METHODS ?= base rsf rsf_random
SEEDS ?= 0 1 2 3 4 5 6 7
VENV := .venv
BIN := $(VENV)/bin
RUN_READY := $(VENV)/.ready-to-run
TEST_READY := $(VENV)/.ready-to-test
WEB_READY := $(VENV)/.ready-for-the-web
# the GPU machine's Python, and what its run is told: see PYTHONPATH=lib python -m alignment_tax.lent --help
GPU_PYTHON ?= 3.12
GPU ?=
# a full Pyodide distribution, unpacked; `lite` needs it
PYODIDE ?=
# the last release of TRL with a PPO trainer; it lies in front of the environment's own, in bench-ppo alone
TRL_WITH_PPO := 1.12.0
PPO_READY := $(VENV)/trl-$(TRL_WITH_PPO)

# a setting of pip's that would install elsewhere than into the environment
export PIP_USER := 0
# a notebook in JupyterLab has another current folder
$(foreach name,ALIGNMENT_TAX_RUNS ALIGNMENT_TAX_DATA,$(if $(filter-out /% ~%,\
  $(firstword $($(name)))),$(eval export $(name) := $(CURDIR)/$($(name)))))

.DEFAULT_GOAL := help
# what a failed recipe left is not made
.DELETE_ON_ERROR:
.PHONY: help run test lab book lite badges base record publish bench bench-ppo gpu-pack gpu lint clean

help:
	@echo "make run     make the environment, execute the whole course, write a page of results"
	@echo "make test    make the environment, check style and types, run the tests"
	@echo "make lab     make the environment, open the notebooks in JupyterLab"
	@echo "make book    build the executed course as a website, into build/book"
	@echo "make lite    build what needs no model for the browser, into build/lite; PYODIDE=FOLDER"
	@echo "make badges  write this fork's name into the links to Binder and Colab"
	@echo "make base    train the base model of the tiny world again"
	@echo "make record  run the study for five seeds and write data/results"
	@echo "make publish record what is missing, write pages, figures and notebooks' outputs"
	@echo "make bench   measure speed and memory"
	@echo "make bench-ppo  compare our PPO with the last one that TRL had"
	@echo "make gpu     record the real model on a GPU lent for minutes; make gpu-pack before it"
	@echo "make lint    style and types alone"
	@echo "make clean   remove the environment and caches; runs/ is kept"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed; '$(PYTHON)' is missing or older."; \
	  echo "Name another one: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Making the environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(RUN_READY): requirements.txt pyproject.toml | $(VENV)/bin/python
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)  # half-made
	@echo "Installing what requirements.txt lists into $(VENV) (minutes, once) ..."
	@$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(TEST_READY): requirements-dev.txt $(RUN_READY)
	@echo "Installing what requirements-dev.txt lists into $(VENV) ..."
	@$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@

run: $(RUN_READY)
	@$(BIN)/alignment-tax run --preset $(PRESET) --seed $(SEED) $(if $(JOBS),--jobs $(JOBS))

lint: $(TEST_READY)
	@echo "Checking style ..."
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "Checking types ..."
	@$(BIN)/mypy
	@echo "Style and types are in order."

test: lint
	@echo "Running the tests, a process a core; the notebooks on the smoke preset are among them ..."
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile --durations=25
	@echo "All tests passed. They are in tests/."

lab: $(RUN_READY)
	@echo "Opening JupyterLab with 00 of $(CHAPTERS)/. Ctrl-C ends it."
	@$(BIN)/jupyter lab $(AS_ROOT) --notebook-dir=. \
	  --LabApp.default_url=/lab/tree/$(CHAPTERS)/00_the_whole_story.ipynb $(LAB)

$(WEB_READY): web/requirements.txt $(RUN_READY)
	@echo "Installing what web/requirements.txt lists into $(VENV) ..."
	@$(BIN)/python -m pip install --disable-pip-version-check -r web/requirements.txt
	@touch $@

book: $(WEB_READY)
	@echo "Building the book; what is doubtful, a dead link among others, ends it ..."
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c web/book . build/book
	@echo "Open build/book/README.html, or give that folder to a web server."

lite: $(WEB_READY)
	@test -n "$(PYODIDE)" || { \
	  echo "Name a full Pyodide distribution, unpacked: make lite PYODIDE=FOLDER (see README.md)."; \
	  exit 2; }
	@$(BIN)/python web/lite/build.py "$(PYODIDE)" build/lite
	@echo "Look at it with: $(BIN)/python -m http.server --directory build/lite"

badges: | $(VENV)/bin/python
	@$(BIN)/python web/badges.py
	@echo "README.md and web/colab.ipynb name this repository now: commit them."

base: $(RUN_READY)
	@echo "Training the base model; an interrupted training goes on where it was ..."
	@$(BIN)/alignment-tax base
	@echo "The base model is in data/base."

record: $(RUN_READY)
	@echo "Running the study on $(PRESET) for five seeds; what is finished is not run again ..."
	@$(BIN)/alignment-tax record $(PRESET)
	@echo "The results are in data/results/$(PRESET)."

publish: $(RUN_READY)
	@$(BIN)/alignment-tax record tiny --methods $(METHODS) --seeds $(SEEDS)
	@$(BIN)/alignment-tax report
	@$(BIN)/alignment-tax figures
	@$(MAKE) --no-print-directory run PRESET=tiny SEED=0
	@$(BIN)/alignment-tax outputs
	@echo "Look at what changed in README.md, data/results and notebooks/, and commit it together."

bench: $(RUN_READY)
	@echo "Measuring speed and memory; let the machine rest meanwhile ..."
	@$(BIN)/alignment-tax bench speed
	@echo "The table is in data/results/bench.json."

$(PPO_READY): $(RUN_READY)
	@echo "Fetching TRL $(TRL_WITH_PPO) ..."
	@rm -rf $@ $@.part
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --target $@.part trl==$(TRL_WITH_PPO)
	@mv $@.part $@

bench-ppo: $(PPO_READY)
	@echo "Training by our PPO and by TRL $(TRL_WITH_PPO), three seeds each ..."
	@$(BIN)/alignment-tax bench ppo --trl $(PPO_READY)
	@echo "The table is in data/results/bench_ppo.json."

gpu-pack: $(RUN_READY)
	@echo "Packing what a GPU machine with PyTorch and Python $(GPU_PYTHON) lacks, into build/gpu ..."
	@$(BIN)/python -m alignment_tax.lent --pack $(GPU_PYTHON)

gpu:
	@echo "Recording the real model; what is finished is not made again ..."
	@PYTHONPATH=lib $(PYTHON) -m alignment_tax.lent $(GPU)

clean:
	@echo "Removing $(VENV) and caches ..."
	@rm -rf $(VENV) build .pytest_cache .ruff_cache .mypy_cache .hypothesis lib/*.egg-info
	@find lib tests notebooks -name __pycache__ -prune -exec rm -rf {} +
	@echo "Done. Artifacts and executed notebooks are still in runs/; remove it by hand if you want."
