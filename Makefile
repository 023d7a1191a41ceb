# make run    boot Linux to a shell on the serial console     make bench   measure, beside its peers
# make test   every test                                      make guests  only what the tests boot
# make lint   what CI insists on                              make format  put it right
# make fuzz   what a hostile guest may try, FUZZ_S seconds each: rings, requests, frames, registers
#
# Each installs what it needs and does again only what has to be done again; see CONTRIBUTING.md.

PYTHON3 ?= python3
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest --instafail --durations=10
STAMPS := build/stamps
NATIVE_SOURCES := setup.py $(wildcard csrc/*.c csrc/*.h csrc/guest/*.c pyvmm/kvm/_*.py pyvmm/kvm/_*.h) \
	pyvmm/backends/_slirp_build.py
C_SOURCES := $(wildcard csrc/*.c csrc/*.h csrc/guest/*.c csrc/fuzz/*.c csrc/fuzz/*.h bench/*.c guests/*.c guests/*.h)
RUN := run build/guests/vmlinuz-cloud --initrd build/guests/initramfs.img \
	--initrd build/guests/virtio.img --append "console=ttyS0 quiet dhcp=eth0" --memory 512M \
	--cpus 2 --net user

.PHONY: run test test-unit test-kvm test-kvm-slow test-nested lint format guests build bench doctor clean packages fuzz fuzz-ring fuzz-race fuzz-disk fuzz-net fuzz-registers
.NOTPARALLEL:
.DELETE_ON_ERROR:

run: build guests
	@if $(PYTHON) -m pyvmm doctor >/dev/null 2>&1; then \
		exec $(PYTHON) -m pyvmm $(RUN); \
	else \
		echo "/dev/kvm here cannot run a Linux kernel (make doctor says why): running it in the nested host"; \
		if [ -t 0 ]; then how=shell; else how="run --"; fi; \
		exec $(PYTHON) tests/nested/rig.py $$how python3 -m pyvmm $(RUN); \
	fi

FUZZ_S ?= 60
FUZZ := clang -std=gnu11 -g -O1 -Wall -Wextra -Werror \
	-fsanitize=address,undefined -fno-sanitize-recover=all
# A state that takes more than 5 s counts as a hang.
FUZZ_OPTIONS := -max_total_time=$(FUZZ_S) -timeout=5 -max_len=4096 -verbosity=0 -print_final_stats=1

fuzz: PACKAGES := fuzz
fuzz: fuzz-ring fuzz-race fuzz-disk fuzz-net fuzz-registers

fuzz-ring fuzz-disk fuzz-net: fuzz-%: build/fuzz/%
	@mkdir -p $<-found
	@$< $(FUZZ_OPTIONS) -artifact_prefix=build/fuzz/ $<-found $(FUZZ_SEEDS) >$<.log 2>&1 || { cat $<.log; exit 1; }
	@sed -n 's/^stat::number_of_executed_units: */$* states: /p' $<.log

fuzz-ring: FUZZ_SEEDS := tests/corpus/rings
fuzz-disk: FUZZ_SEEDS := tests/corpus/requests
fuzz-net: FUZZ_SEEDS := tests/corpus/rings

fuzz-race: build/fuzz/race
	@$< $(FUZZ_S)

fuzz-registers: build
	@$(PYTHON) -m tests.fuzz.registers $(FUZZ_S)

build/fuzz/ring: csrc/ring.c csrc/fuzz/ring_fuzz.c
build/fuzz/disk: csrc/ring.c csrc/disk.c csrc/fuzz/disk_fuzz.c
build/fuzz/net: csrc/ring.c csrc/frames.c csrc/user.c csrc/trace.c csrc/fuzz/net_fuzz.c
build/fuzz/race: csrc/ring.c csrc/fuzz/ring_race.c
build/fuzz/ring build/fuzz/disk build/fuzz/net: FUZZ += -fsanitize=fuzzer
build/fuzz/%: $(wildcard csrc/*.h csrc/fuzz/*.h) | packages
	@mkdir -p $(@D)
	$(FUZZ) $(filter %.c,$^) -o $@

doctor: build
	@$(PYTHON) -m pyvmm doctor

test: test-unit test-kvm test-kvm-slow test-nested

test-unit: build guests
	$(PYTEST) tests/unit $(wildcard tests/style)

test-kvm: build guests
	$(PYTEST) tests/kvm

test-kvm-slow: build guests
	PYVMM_NO_FASTPATH=1 $(PYTEST) tests/kvm

test-nested: build guests
	$(PYTEST) --maxfail=5 tests/nested

lint: $(STAMPS)/venv
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	.venv/bin/clang-format --dry-run -Werror $(C_SOURCES)

format: $(STAMPS)/venv
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	.venv/bin/clang-format -i $(C_SOURCES)

guests: $(STAMPS)/venv
	@$(MAKE) --no-print-directory -C guests PYTHON=$(abspath $(PYTHON))

build: $(STAMPS)/build

bench: PACKAGES := bench
bench: build guests
	$(PYTHON) bench/run.py

clean:
	rm -rf build dist *.egg-info pyvmm/_native.c pyvmm/_native*.so pyvmm/backends/_libslirp.py
	find . -name __pycache__ -type d -not -path './.venv/*' -exec rm -rf {} +

packages:
	@PYTHON3=$(PYTHON3) ./packages.sh $(PACKAGES)

$(STAMPS)/venv: pyproject.toml setup.py | packages
	test -x $(PYTHON) || $(PYTHON3) -m venv .venv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[dev]'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/build: $(NATIVE_SOURCES) | $(STAMPS)/venv
	$(PYTHON) -W ignore setup.py --quiet build_ext --inplace
	@touch $@
