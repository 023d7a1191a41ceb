"""From a kernel image to a machine that is ready to enter it.

General layout: image.py finds out what a file is; linux.py, pvh.py and multiboot.py load it, each
with its facts in a _spec.py; bzimage.py and elf.py read headers; unpack.py and cache.py unpack
kernels; builtin.py loads the built-in guest; entry.py is what the machine gets, and start.py puts
the vCPUs there; report.py is `pyvmm inspect`; acpi/ makes the tables.
"""
