"""The ACPI tables: AML encoding (aml.py), the devices (dsdt.py), the tables (tables.py)."""

from pyvmm.boot.acpi.dsdt import Board as Board
from pyvmm.boot.acpi.tables import build as build
