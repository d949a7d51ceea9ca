# Two commands do all the set-up: `make demo` and `make test`. Both make the virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := $(CURDIR)/demo
MINUTES ?= 5
SEED ?= 1
KIND ?=

.PHONY: demo test lint types docs links fuzz clean

demo: $(VENV)/.demo
	@PADDLE2TORCH_HOME=$(DEMO) BIN=$(BIN) sh .ci/demo $(DEMO)

test: $(VENV)/.test lint types
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=10

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror model_zoo/kernels/*.h model_zoo/kernels/*.cpp

types: $(VENV)/.test
	$(BIN)/mypy -p paddle2torch

# The documentation site, in site/; a link that leads nowhere, or to no heading, is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The links to other hosts: what does not answer is an error, what cannot be reached from here is only named.
links: $(VENV)/.docs
	$(BIN)/python docs/check_links.py

# Hostile and broken files of every kind: `make fuzz MINUTES=5 SEED=1 KIND=yaml,pdf`. What is found is in fuzz-findings/.
fuzz: $(VENV)/.test
	PYTHONPATH=tests $(BIN)/python -m fuzz.run --minutes $(MINUTES) --seed $(SEED) --kind "$(KIND)"

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[paddle,onnx]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[paddle,train,onnx,transformers,ocrmypdf,parquet,serve,dev]'
	# A client of our ONNX files. Without what it asks for: it would bring a second OpenCV over ours.
	$(BIN)/pip install -q --no-deps 'rapidocr-onnxruntime==1.4.4; python_version < "3.13"' shapely six
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[docs,train,onnx]'
	@touch $@

clean:
	rm -rf $(VENV) build dist demo site *.egg-info .pytest_cache .mypy_cache .ruff_cache fuzz-findings
