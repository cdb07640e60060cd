# Everything runs from here. `make demo` and `make test` set up what they need and say so.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: build
build: $(VENV)/.installed
	@mkdir -p build && flock build/.lock $(PY) setup.py -q build_ext --inplace

$(VENV)/.installed: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --upgrade pip
	$(VENV)/bin/pip install -q "setuptools>=77" wheel "Cython>=3.1"
	touch $@
