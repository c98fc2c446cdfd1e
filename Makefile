# Needs Python 3.11 to 3.13 only; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)

.PHONY: demo test studio clean

demo: .venv/installed
	$(BIN)/lora-studio demo

test: .venv/installed
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

studio: .venv/installed
	$(BIN)/lora-studio ui

# The pinned torch goes in first and alone: with another torch wanted by a package the registry's newest CUDA
# build would come along.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
