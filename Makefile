# Each command makes the environment that it needs, from the locked versions, once.
PYTHON ?= python3
SERVE := .venv/serve
DEV := .venv/dev

.PHONY: serve test test-browser test-gpu test-docker lint check lock examples docs clean

serve: $(SERVE)/.locked  ## serve the bundles in bundles/ on http://127.0.0.1:8000; installs no torch
	$(SERVE)/bin/python -m app serve

test: $(DEV)/.locked  ## the default tests: no network, no GPU
	$(DEV)/bin/python -m pytest

test-browser: $(DEV)/.browser  ## the demo page in chromium (Debian: apt install chromium)
	$(DEV)/bin/python -m pytest -m browser tests/browser

# In an environment of its own, which the locks do not cover: the extras tensorrt and dev, but of
# onnxruntime and onnxruntime-gpu the latter alone; TensorRT comes from NVIDIA's package index.
test-gpu:  ## build, run and compare on an NVIDIA GPU: make test-gpu PYTHON=.venv/gpu/bin/python
	$(PYTHON) -m pytest -v -m 'gpu or tensorrt' tests/gpu

test-docker: $(DEV)/.locked  ## build and run the CPU image; what it needs, tests/docker/engine.py says
	$(DEV)/bin/python -m pytest -m docker tests/docker

lint: $(DEV)/.locked  ## format, lint, types, import rules
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/ruff check .
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports

check: lint test  ## exactly what CI runs

lock:  ## resolve the locked versions anew
	$(PYTHON) -m venv .venv/lock
	.venv/lock/bin/pip install --quiet uv
	for extra in serve gpu tensorrt train dev; do .venv/lock/bin/uv pip compile --quiet --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --upgrade \
		--custom-compile-command "make lock" --extra $$extra pyproject.toml -o locks/$$extra.txt; done
	.venv/lock/bin/uv pip compile --quiet --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --upgrade \
		--custom-compile-command "make lock" --extra browser -c locks/dev.txt pyproject.toml -o locks/browser.txt

examples: $(SERVE)/.locked  ## render the example pairs again, and draw docs/examples.png
	$(SERVE)/bin/python -m examples.make_examples
	$(SERVE)/bin/python -m examples.make_vehicles
	$(SERVE)/bin/python -m examples.draw_answers
	cp examples/*_rgb.jpg examples/*_depth.png examples/*_nir.png app/web/examples/

docs: $(SERVE)/.locked  ## write docs/api.md anew
	$(SERVE)/bin/python -m app openapi --markdown >docs/api.md

$(DEV)/.browser: $(DEV)/.locked locks/browser.txt
	$(DEV)/bin/python -m pip install --quiet --require-hashes -r locks/browser.txt
	touch $@

clean:  ## remove the environments and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

# An interrupted install leaves no marker, so the next call repeats it.
.venv/%/.locked: locks/%.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "needs Python 3.11 to 3.13, $(PYTHON) is not; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "making .venv/$* from locks/$*.txt, once"
	$(PYTHON) -m venv --clear .venv/$*
	.venv/$*/bin/python -m pip install --quiet --require-hashes -r locks/$*.txt
	touch $@
