"""The ACPI tables: AML encoding (aml.py) and the tables of this board (tables.py)."""
