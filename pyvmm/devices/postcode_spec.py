"""Facts of the two debug ports, each one byte wide.

POST code: IBM, Personal Computer AT Technical Reference (1984), BIOS listing "MFG_PORT". Chip sets
give the last code back; Linux writes there to wait for slow hardware (io_delay).
Debug console: Bochs user manual, "port_e9_hack".
"""

from __future__ import annotations

PORTS = 1
DEBUGCON_PRESENT = 0xE9  # what a read of the debug console's port gives
