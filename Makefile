# Every target does its own set-up, in .venv.
# PYTHON: a Python 3.11 or 3.12.  TORCH: the PyTorch to install, a requirement or a wheel.
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3,$(shell $(p) -c 'import sys; print(sys.executable)' 2>/dev/null)))
TORCH ?= torch
BIN := .venv/bin
READY := .venv/ready
export PYTHONPATH := $(CURDIR)

.PHONY: demo translate demo-vision bench check test test-all lint clean help

demo: $(READY)  ## write a corpus, train a ResMLP translator on it and score it, offline, in minutes
	$(BIN)/python -m resmlp_mt.recipe demo --out build/demo/run

translate: $(READY)  ## translate sentences from the terminal with the demo's model
	@$(BIN)/python -m resmlp_mt.translate build/demo/run/resmlp_tiny

demo-vision: $(READY)  ## train a tiny ResMLP to read handwritten digits, offline, in a minute
	$(BIN)/python recipes/digits/digits.py build/demo-vision/digits
	$(BIN)/python -m resmlp_vision.train --config recipes/digits/recipe.yaml
	$(BIN)/python recipes/digits/look.py build/demo-vision/digits build/demo-vision/run

bench: $(READY)  ## measure speed and memory beside fairseq, CTranslate2 and timm: a quarter of an hour on two quiet CPU cores
	$(BIN)/python benchmarks/mt_train.py
	$(BIN)/python benchmarks/mt_decode.py
	$(BIN)/python benchmarks/vision_infer.py --compile
	$(BIN)/python benchmarks/vision_train.py
	$(BIN)/python benchmarks/vision_loader.py
	$(BIN)/python benchmarks/floor.py
	$(BIN)/python benchmarks/plot.py

check: lint  ## check style, types and the quick half of the tests: two minutes
	$(BIN)/python -m pytest -m "not slow and not long"

test: $(READY)  ## run the suite, but for further cases of what it shows
	$(BIN)/python -m pytest

test-all: $(READY)  ## run the whole suite
	$(BIN)/python -m pytest -m "long or not long"

lint: $(READY)  ## check style and types, with ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || \
	    { echo "Python 3.11 or 3.12 is needed; name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "$(TORCH)" -e ".[all]"
	touch $(READY)

clean:  ## remove .venv and what the demos made; models that you trained stay in build/
	rm -rf .venv build/demo build/demo-vision

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
