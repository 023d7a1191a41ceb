# make run    boot Linux to a shell on the serial console     make bench   measure, beside its peers
# make test   every test                                      make guests  only what the tests boot
# make lint   what CI insists on                              make format  put it right
#
# Each installs what it needs and does again only what has to be done again; see CONTRIBUTING.md.

PYTHON3 ?= python3
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
STAMPS := build/stamps
NATIVE_SOURCES := setup.py $(wildcard csrc/*.c csrc/*.h pyvmm/kvm/_*.py pyvmm/kvm/_*.h)
C_SOURCES := $(wildcard csrc/*.c csrc/*.h bench/*.c guests/*.c guests/*.h)
RUN := run build/guests/vmlinuz-cloud --initrd build/guests/initramfs.img \
	--append "console=ttyS0 quiet" --memory 512M --cpus 2

.PHONY: run test test-unit test-kvm test-kvm-slow test-nested lint format guests build bench doctor clean packages
.NOTPARALLEL:
.DELETE_ON_ERROR:

run: build guests
	@if $(PYTHON) -m pyvmm doctor >/dev/null 2>&1; then \
		exec $(PYTHON) -m pyvmm $(RUN); \
	else \
		echo "/dev/kvm here cannot run a Linux kernel (make doctor says why): running it in the nested host"; \
		exec $(PYTHON) tests/nested/rig.py shell python3 -m pyvmm $(RUN); \
	fi

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
	$(PYTEST) tests/nested

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
	rm -rf build dist *.egg-info pyvmm/_native.c pyvmm/_native*.so
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
