"""Facts about the tasks of a Linux kernel: include/linux/sched.h, fs/proc/array.c."""

from __future__ import annotations

# task_struct.__state and exit_state, sched.h; the letters are those of ps(1), in the order of bits.
STATE_LETTERS = "RSDTtXZPI"
REPORTED = 0x7F  # TASK_REPORT
IDLE = 0x402  # TASK_IDLE: uninterruptible, and not counted as load
IDLE_LETTER = "I"
PF_KTHREAD = 0x0020_0000  # task_struct.flags

# mm_types_task.h: counters of resident pages; the one left out is swapped pages.
RESIDENT = (0, 1, 3)  # MM_FILEPAGES MM_ANONPAGES MM_SHMEMPAGES
