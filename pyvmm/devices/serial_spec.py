"""Facts of the NS16550A UART: National Semiconductor, PC16550D data sheet (June 1995), §8.

Register offsets from the port's base, then each register's fields.
"""

from __future__ import annotations

PORTS = 8

RBR = 0  # RO, DLAB = 0: receiver buffer
THR = 0  # WO, DLAB = 0: transmitter holding
DLL = 0  # RW, DLAB = 1: divisor, low byte
IER = 1  # RW, DLAB = 0: interrupt enable
DLM = 1  # RW, DLAB = 1: divisor, high byte
IIR = 2  # RO: interrupt identification; reading it takes a transmitter interrupt away
FCR = 2  # WO: FIFO control
LCR = 3  # RW: line control
MCR = 4  # RW: modem control
LSR = 5  # RO: line status; reading it clears the error bits
MSR = 6  # RO: modem status; reading it clears the four change bits
SCR = 7  # RW: scratch

# §8.7 interrupt enable.
IER_ERBFI = 0x01  # received data, and its time-out
IER_ETBEI = 0x02  # transmitter holding register empty
IER_ELSI = 0x04  # receiver line status
IER_EDSSI = 0x08  # modem status
IER_MASK = 0x0F

# Table IV, interrupt identification, highest priority first.
IIR_LINE_STATUS = 0x06
IIR_RECEIVED = 0x04
IIR_TIMEOUT = 0x0C
IIR_THR_EMPTY = 0x02
IIR_MODEM_STATUS = 0x00
IIR_NONE = 0x01
IIR_FIFOS = 0xC0  # set while the FIFOs are on

# §8.5 FIFO control; bits 1 and 2 clear themselves.
FCR_ENABLE = 0x01
FCR_CLEAR_RECEIVER = 0x02
FCR_TRIGGER_SHIFT = 6
TRIGGER_LEVELS = (1, 4, 8, 14)  # bytes in the receiver FIFO that raise IIR_RECEIVED
FIFO_SIZE = 16

# §8.1 line control.
LCR_DLAB = 0x80

# §8.8 modem control.
MCR_DTR = 0x01
MCR_RTS = 0x02
MCR_OUT1 = 0x04
MCR_OUT2 = 0x08  # on a PC it lets the interrupt line through to the controller
MCR_LOOP = 0x10  # transmitter to receiver, outputs to modem status inputs, pins idle
MCR_MASK = 0x1F

# §8.4 line status.
LSR_DR = 0x01
LSR_OE = 0x02
LSR_BI = 0x10  # of the character that would be read next, as the error bits between are
LSR_THRE = 0x20
LSR_TEMT = 0x40
LSR_FIFO_ERROR = 0x80  # with the FIFOs on: there is a character with an error among those received

# §8.9 modem status: inputs above, "has changed since the last read" four bits below each.
MSR_TERI = 0x04  # of RI only the trailing edge counts
MSR_CTS = 0x10
MSR_DSR = 0x20
MSR_RI = 0x40
MSR_DCD = 0x80
MSR_DELTA = 0x0F
MSR_INPUTS = 0xF0
MSR_DELTA_SHIFT = 4
MSR_CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD  # what a cable to a ready terminal shows
LOOPBACK = ((MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD))

DIVISOR_AT_RESET = 12  # 9600 baud from 1.8432 MHz; table I leaves it undefined, a PC's firmware not
