"""The host side of devices; knows no guest."""
