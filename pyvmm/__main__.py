"""`python -m pyvmm`."""

import sys

from pyvmm.cli import main

if __name__ == "__main__":
    sys.exit(main())
