"""The stub of gdb's remote serial protocol."""
