"""From a kernel image to a machine that is ready to enter it.

General layout: image.py finds out what a file is; linux.py, pvh.py and multiboot.py load it, each
with its facts in a _spec.py; bzimage.py and elf.py read headers; unpack.py and cache.py unpack
kernels; entry.py is what the machine gets; report.py is `pyvmm inspect`.
"""

from pyvmm.boot.entry import Entry
from pyvmm.boot.image import DEFAULT_CMDLINE, KernelImage, load, load_bytes, open_image

__all__ = ["DEFAULT_CMDLINE", "Entry", "KernelImage", "load", "load_bytes", "open_image"]
