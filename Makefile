# make quickstart   reconstruct objects with the pretrained model, then train a model from scratch (about 10 minutes)
# make test         run the fast tests
# make test-slow    run the slow tests
# make coverage     run the fast tests and report line coverage
# make lint         run ruff and mypy
# make docs         build the documentation as a site in out/docs; warnings and broken links are errors
# make lock         update requirements/lock-*.txt
# make render-env   install Blender for data/render.py in .venv-render
# make infinigen-env  install Infinigen and its Blender for data/infinigen.py in .venv-infinigen
# make clean        remove the environments and out/

# The first Python 3.11, 3.12 or 3.13 on this machine; override it with `make PYTHON=/path/to/python`.
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13; do \
  $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)
VENV = .venv
RUN = $(VENV)/bin/python
READY = $(VENV)/.installed
WORKERS ?= 2

.PHONY: quickstart test test-slow coverage lint docs lock render-env infinigen-env clean

quickstart: $(READY)
	$(RUN) -m lrm_jax.quickstart

test: $(READY)
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal -m 'not slow'

test-slow: $(READY)
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m slow

coverage: $(READY)
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal -m 'not slow' --cov --cov-report=term

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(READY)
	$(RUN) -m sphinx --fail-on-warning --keep-going --quiet -b html -c docs/site . out/docs
	@echo out/docs/index.html

lock: $(READY)
	$(RUN) -m pip install --quiet --disable-pip-version-check uv
	for version in 3.11 3.12 3.13; do \
	  $(RUN) -m uv pip compile pyproject.toml --extra test --python-version $$version --python-platform linux --upgrade \
	    --no-annotate --no-emit-index-url --no-emit-find-links --quiet --custom-compile-command 'make lock' \
	    --output-file requirements/lock-$$version.txt >/dev/null || exit 1; \
	done

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo 'error: no Python 3.11 to 3.13 with venv found: install one, or make PYTHON=/path/to/python' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

render-env: .venv-render/.installed

.venv-render/.installed:
	@test -n "$(PYTHON)" || { echo 'error: no Python 3.11 to 3.13 with venv found' >&2; exit 2; }
	$(PYTHON) -m venv .venv-render
	.venv-render/bin/python -m pip install --quiet --disable-pip-version-check \
	  "bpy>=4.5,<4.6; python_version < '3.13'" "bpy>=5.1; python_version >= '3.13'" pillow
	@touch $@

infinigen-env: .venv-infinigen/.installed

# Without Infinigen's own limits: they are of 2023, and there are no wheels of those versions for newer machines.
.venv-infinigen/.installed:
	@command -v python3.11 > /dev/null || { echo 'error: Infinigen needs Python 3.11' >&2; exit 2; }
	python3.11 -m venv .venv-infinigen
	.venv-infinigen/bin/python -m pip install --quiet --disable-pip-version-check --no-deps bpy==4.2.0 infinigen==1.15.5
	.venv-infinigen/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: \
	  "numpy<2" coacd gin-config "imageio<3" matplotlib networkx "opencv-python-headless<4.12" pandas psutil pillow \
	  "scikit-image<0.25" scikit-learn scipy "shapely<2.2" tqdm "trimesh<5" OpenEXR submitit geomdl python-fcl rtree
	@touch $@

clean:
	rm -rf $(VENV) .venv-render .venv-infinigen out
