# Everything runs from here. `make demo` and `make test` set up what they need and say so.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
REFERENCE := build/reference/venv
NEWEST := build/reference-newest/venv
NEWEST_LEROBOT ?= 0.6.1
TFLITE_RUNTIME := build/tflite_runtime/venv
LEROBOT := $(addprefix tests/reference/test_,smolvla_chunks.py smolvla_settings.py act_chunks.py newest.py sim_lerobot.py dataset_lerobot.py rtc.py lerobot_queue.py train.py teabag_forward.py)
export MUJOCO_GL ?= osmesa

.DEFAULT_GOAL := help
.PHONY: help setup system build demo test lint bench bench-report reference reference-newest teabag-policy survival tflite-runtime vm systemd fuzz mutation soak model-check replay-runs yocto aarch64 clean

help:
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# --- set-up ---------------------------------------------------------------------------------

# Debian's packages: a C compiler with sanitizers, Python's headers and software rendering for the
# simulated cameras. Installed only when something is missing and only where apt-get exists.
system:
	@tools/system_packages.sh gcc make python3-venv python3-dev libosmesa6 libegl1

$(VENV)/.installed: pyproject.toml
	@echo "setup: Python packages into $(VENV)"
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --upgrade pip
	$(PY) -m pip install -q "setuptools>=77" wheel "Cython>=3.1"
	$(PY) -m pip install -q --no-build-isolation -e ".[build,quantize,dataset,litert,sim,record,report,test]"
	touch $@

setup: system $(VENV)/.installed

build: $(VENV)/.installed
	@mkdir -p build && flock build/.lock $(PY) setup.py -q build_ext --inplace

# --- what users run -------------------------------------------------------------------------

demo: setup build  ## simulated arm, real daemon, shipped policy: about a minute, then a report
	$(PY) -m vlad.main demo $(DEMO)

test: setup build  ## all tests that need neither LeRobot nor a virtual machine
	$(PY) -m pytest tests --ignore=tests/vm --ignore=tests/systemd --ignore=tests/aarch64 --ignore=tests/yocto --ignore=tests/tflite_runtime $(LEROBOT:%=--ignore=%) $(TEST)

bench: setup build  ## pytest-benchmark: servo lateness, compute, chunk latency
	@tools/system_packages.sh rt-tests
	$(PY) -m pytest bench $(BENCH)

bench-report: setup build $(REFERENCE)/.installed  ## a full-size chunk beside LeRobot and plain ONNX Runtime, on one page
	$(PY) -m bench.chunk_report $(BENCH)
	$(PY) -m bench.chunk_report --policy act $(BENCH)

lint: $(VENV)/.installed  ## ruff, mypy, compiler warnings as errors
	$(PY) -m ruff check vlad tests bench tools setup.py
	$(PY) -m mypy

# --- slow suites ----------------------------------------------------------------------------

$(REFERENCE)/.installed:
	@echo "reference: LeRobot as its users install it (about 8.5 GB, some minutes)"
	$(PYTHON) -m venv $(REFERENCE)
	$(REFERENCE)/bin/pip install -q "lerobot[smolvla,feetech,async]==0.4.4"
	touch $@

reference: setup build $(REFERENCE)/.simulator  ## against LeRobot itself: chunks, calibration, bus
	$(PY) -m pytest tests/reference $(TEST)

# LeRobot since 0.5 wants Python 3.12. Where there is none, the committed fixtures (tests/data/newest) are all
# that `make test` has of it.
reference-newest: setup build  ## the same against the newest LeRobot, where there is a Python 3.12 or later
	@test -e $(NEWEST)/.installed || { \
	for found in python3.12 python3.13 $$HOME/.pyenv/versions/3.1[23]*/bin/python none; do \
		$$found -c "import sys; sys.exit(sys.version_info < (3, 12))" 2>/dev/null && break; done; \
	if [ $$found = none ]; then echo "reference-newest: skipped, there is no Python 3.12 or 3.13 here"; else \
	echo "reference-newest: LeRobot $(NEWEST_LEROBOT) as its users install it (about 5.5 GB, some minutes)"; \
	$$found -m venv $(NEWEST) && $(NEWEST)/bin/pip install -q "lerobot[smolvla,dataset]==$(NEWEST_LEROBOT)" && \
	touch $(NEWEST)/.installed; fi; }
	@test ! -e $(NEWEST)/.installed || $(PY) -m pytest tests/reference/test_newest.py tests/reference/test_smolvla_settings.py -k newest $(TEST)

# What the simulator imports and LeRobot does not bring; also for tests/reference.
$(REFERENCE)/.simulator: $(REFERENCE)/.installed
	$(REFERENCE)/bin/pip install -q "mujoco>=3.2" "gymnasium>=1.0" "msgspec>=0.19" "rich>=13"
	touch $@

# SET="vision_steps=100 ..." for other settings (tools/teabag/settings.py). Stopped, it goes on where it was.
TEABAG := build/teabag
teabag-policy: setup build $(REFERENCE)/.simulator  ## the shipped tea bag policy anew, from nothing: some hours on two cores
	@tools/system_packages.sh g++
	PYTHONPATH=. $(REFERENCE)/bin/python -m tools.teabag $(TEABAG) $(SET:%=--set %)
	$(PY) -m vlad.main build $(TEABAG)/checkpoint --dataset $(TEABAG)/dataset --units degrees --force -o $(TEABAG)/teabag.vlad
	@echo "how often it does the task:  $(PY) -m vlad.main eval $(TEABAG)/teabag.vlad --html $(TEABAG)/eval.html"
	@echo "to ship it:                  rm -rf vlad/policies/teabag.vlad && cp -r $(TEABAG)/teabag.vlad vlad/policies/"

# Only what was just run counts: the records of earlier runs go first. What failed is run once more, for
# the sake of a busy machine; the page says which.
survival: setup build  ## every row of the fault table provoked and measured: docs/survival.md
	rm -rf build/survival
	-$(PY) -m pytest tests -m fault --ignore=tests/vm --ignore=tests/systemd --ignore=tests/aarch64 --ignore=tests/yocto --ignore=tests/tflite_runtime $(LEROBOT:%=--ignore=%) $(TEST)
	-$(PY) -m pytest tests -m fault --last-failed --last-failed-no-failures none --ignore=tests/systemd --ignore=tests/aarch64 --ignore=tests/yocto $(LEROBOT:%=--ignore=%)
	$(PY) tools/survival_page.py

replay-runs: setup build  ## record the runs of tests/replay anew, on the simulated arm
	$(PY) -m tests.replay.record_runs

# Its newest release needs NumPy 1 and a Python of at most 3.11: an environment of its own.
$(TFLITE_RUNTIME)/.installed:
	$(PYTHON) -m venv $(TFLITE_RUNTIME)
	$(TFLITE_RUNTIME)/bin/pip install -q "tflite-runtime==2.14.0" "numpy<2" onnxruntime msgspec structlog pyserial simplejpeg mcap
	touch $@

tflite-runtime: setup build $(TFLITE_RUNTIME)/.installed  ## the same code on tflite-runtime 2.14, which computes some files wrongly
	$(PY) -m pytest tests/tflite_runtime $(TEST)

vm: setup build  ## V4L2 with the vivid driver in an emulated machine
	@tools/system_packages.sh qemu-system-x86 busybox-static kmod cpio
	tests/vm/run.sh

# CUTS power cuts of the emulated machine; MACHINES="namespaces" leaves the emulated one out.
systemd: setup build  ## vlad.service under systemd as PID 1, in namespaces and in an emulated machine
	@tools/system_packages.sh qemu-system-x86 qemu-utils busybox-static kmod cpio e2fsprogs
	VLAD_POWER_CUTS=$(or $(CUTS),5) VLAD_MACHINES="$(or $(MACHINES),namespaces emulated)" \
		$(PY) -m pytest tests/systemd $(TEST)

# Style, checksums, kas files; and what bitbake says, where SOURCES is a directory of bitbake, openembedded-core and
# meta-openembedded (STEPS="variables unpack": seconds; all: the better part of an hour).
yocto: setup  ## the Yocto layer; SOURCES=DIR has bitbake parse and plan it, too
	@$(PY) -c "import oelint_adv, kas, jsonschema, yaml" 2>/dev/null || $(PY) -m pip install -q --no-build-isolation -e ".[yocto]"
	$(PY) -m pytest tests/yocto $(TEST)
	@[ -z "$(SOURCES)" ] || tools/system_packages.sh chrpath cpio diffstat file gawk locales lz4 zstd
	yocto/check.sh "$(SOURCES)" $(STEPS)

# Debian's arm64 packages are unpacked under build/, nothing is installed from them; under 0.6 GB.
AARCH64 := build/aarch64
$(AARCH64)/.root: pyproject.toml tools/aarch64/root.sh
	@echo "aarch64: a root for the emulator, and aarch64 wheels of what vlad needs (about 20 s)"
	tools/aarch64/root.sh $(AARCH64) $(PY)
	touch $@

aarch64: setup  ## the same code for the board's cores, emulated: tests with and without what an A55 adds, instruction counts
	@tools/system_packages.sh gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
	$(MAKE) --no-print-directory $(AARCH64)/.root
	flock build/.lock tools/aarch64/wheel.sh $(AARCH64) $(PY)
	$(PY) -m pytest tests/aarch64 -v -rPs $(TEST)

FUZZ_LIMIT = $(if $(RUNS),-runs=$(RUNS),-max_total_time=$(or $(SECONDS),60))
fuzz: setup build  ## libFuzzer on packet codec, request scanner, manifest, configuration; SECONDS= or RUNS= each
	@tools/system_packages.sh clang-14 libclang-rt-14-dev
	@$(PY) -c "import atheris" 2>/dev/null || $(PY) -m pip install -q --no-build-isolation -e ".[fuzz]"
	$(MAKE) -C csrc fuzz SECONDS=$(or $(SECONDS),60) RUNS=$(RUNS)
	for target in manifest config; do \
		mkdir -p build/fuzz/$$target && \
		$(PY) tests/fuzz/fuzz_$$target.py $(FUZZ_LIMIT) -max_len=16384 -artifact_prefix=build/fuzz/ \
			-print_final_stats=1 build/fuzz/$$target tests/fuzz/corpus/$$target || exit 1; \
	done

# SOAK_HOURS simulated hours, then SOAK_MINUTES in real time; both parts run even where one fails.
soak: setup build  ## 100 simulated hours and one real hour of random faults, witnessed; a report
	@status=0; \
	$(PY) -m tools.soak simulated --hours $(or $(SOAK_HOURS),100) --seed $(or $(SEED),1) || status=1; \
	$(PY) -m tools.soak real --minutes $(or $(SOAK_MINUTES),60) --seed $(or $(SEED),1) || status=1; \
	exit $$status

model-check: setup  ## every execution of the concurrent parts, and the bugs it must find
	$(MAKE) -C csrc model ARGS=full
	VLAD_MODEL=full $(PY) -m pytest tests/property/test_model_check.py -k seeded $(TEST)

mutation: setup  ## every small change of the C that decides motion must fail a test; PARTS="gate ..." for some
	@$(PY) -c "import tree_sitter_c" 2>/dev/null || $(PY) -m pip install -q --no-build-isolation -e ".[mutation]"
	$(PY) tools/mutate.py $(or $(PARTS),--write-doc)

clean:
	rm -rf build .venv vlad/_native/*.so vlad/_native/vlad-safe-stop
