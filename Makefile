# Two commands do all the set-up: `make demo` and `make test`. Both make the virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := $(CURDIR)/demo
MINUTES ?= 5
SEED ?= 1
KIND ?=
# Of `make matrix`: rows as `.ci/matrix.py` has them (none: all), and a folder with a wheel that is built.
ROWS ?=
WHEEL ?=
RELEASE ?= .venv-release
# What wants Python 3.11.
NEWER = $(shell $(PYTHON) -c 'import sys; print(",transformers,ocrmypdf" * (sys.version_info >= (3, 11)))')
BILL := bill

.PHONY: demo test lint types docs links notebooks fuzz dist extras matrix sbom audit clean

demo: $(VENV)/.demo
	@PADDLE2TORCH_HOME=$(DEMO) BIN=$(BIN) sh .ci/demo $(DEMO)

test: $(VENV)/.test lint types
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=10

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror model_zoo/kernels/*.h model_zoo/kernels/*.cpp tests/*.cpp

types: $(VENV)/.test
	$(BIN)/mypy -p paddle2torch

# The documentation site, in site/; a link that leads nowhere, or to no heading, is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The notebooks, each in a kernel of its own; `docs/run_notebooks.py --write` keeps what they print.
notebooks: $(VENV)/.docs
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python docs/run_notebooks.py

# The links to other hosts: what does not answer is an error, what cannot be reached from here is only named.
links: $(VENV)/.docs
	$(BIN)/python docs/check_links.py

# Hostile and broken files of every kind: `make fuzz MINUTES=5 SEED=1 KIND=yaml,pdf`. What is found is in fuzz-findings/.
fuzz: $(VENV)/.test
	PYTHONPATH=tests $(BIN)/python -m fuzz.run --minutes $(MINUTES) --seed $(SEED) --kind "$(KIND)"

# The wheel, from the sdist. Both are checked: what an index would refuse, and what the wheel may weigh. REPO_URL=ADDRESS
# builds what was committed, with links there.
dist: $(RELEASE)/.release
	rm -rf dist
	$(RELEASE)/bin/python .ci/matrix.py --build dist

# Which extras have wheels for which Python, by the index.
extras: $(RELEASE)/.release
	PATH="$(abspath $(RELEASE)/bin):$$PATH" python .ci/matrix.py --extras

# The wheel in empty environments, with the oldest and the newest of what we depend on.
matrix: $(RELEASE)/.release
	PATH="$(abspath $(RELEASE)/bin):$$PATH" python .ci/matrix.py $(if $(WHEEL),--wheel $(WHEEL)) $(ROWS:%="%")

# What an installation consists of: a CycloneDX list of all distributions, and their licences.
sbom: $(RELEASE)/.installed
	mkdir -p $(BILL)
	$(RELEASE)/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type library --output-reproducible \
	    --of JSON -o $(BILL)/sbom.cdx.json $(RELEASE)/installed/bin/python
	$(RELEASE)/bin/pip-licenses --python $(RELEASE)/installed/bin/python --from mixed --order license --format markdown \
	    --with-urls --output-file $(BILL)/licences.md

# Known vulnerabilities of these distributions. Asks a database on the network, and fails where it does not answer.
audit: $(RELEASE)/.installed
	mkdir -p $(BILL)
	$(RELEASE)/bin/uv pip freeze --python $(RELEASE)/installed/bin/python --exclude paddle2torch | \
	    sed 's/+cpu$$//' > $(BILL)/requirements.txt
	$(RELEASE)/bin/pip-audit --strict --no-deps --disable-pip -r $(BILL)/requirements.txt

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[paddle,onnx]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[paddle,train,onnx,parquet,serve,dev$(NEWER)]'
	# A client of our ONNX files. Without what it asks for: it would bring a second OpenCV over ours.
	$(BIN)/pip install -q --no-deps 'rapidocr-onnxruntime==1.4.4; python_version < "3.13"' shapely six
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[docs,train,onnx]'
	@touch $@

$(RELEASE)/.release: pyproject.toml
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/pip install -q 'build>=1.2' 'twine>=6.0' 'uv>=0.8' 'cyclonedx-bom>=7.0' 'pip-licenses>=5.0' 'pip-audit>=2.8'
	@touch $@

# What a user gets: the package and what it needs, no extras.
$(RELEASE)/.installed: $(RELEASE)/.release
	$(RELEASE)/bin/uv venv -q --clear --python $(PYTHON) $(RELEASE)/installed
	$(RELEASE)/bin/uv pip install -q --python $(RELEASE)/installed/bin/python .
	@touch $@

clean:
	rm -rf $(RELEASE) $(BILL) $(VENV) build dist demo site *.egg-info .pytest_cache .mypy_cache .ruff_cache fuzz-findings
