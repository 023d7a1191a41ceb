"""Chips of the board: each has its registers in <chip>_spec.py and its behaviour in <chip>.py."""
