"""From a kernel image to a machine that is ready to enter it."""
