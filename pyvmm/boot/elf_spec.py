"""Facts about ELF executables: System V ABI, edition 4.1 (gabi), chapters 4 and 5."""

from __future__ import annotations

import struct

MAGIC = b"\x7fELF"  # gabi 4.1 ch. 4, "ELF Identification"
EI_CLASS, EI_DATA, EI_NIDENT = 4, 5, 16
ELFCLASS32, ELFCLASS64 = 1, 2
ELFDATA2LSB = 1
ET_EXEC, ET_DYN = 2, 3
EM_386, EM_X86_64 = 3, 62

# After e_ident: e_type e_machine e_version e_entry e_phoff e_shoff e_flags e_ehsize e_phentsize
# e_phnum e_shentsize e_shnum e_shstrndx (gabi ch. 4, "ELF Header").
HEADER = {ELFCLASS32: struct.Struct("<HHIIIIIHHHHHH"), ELFCLASS64: struct.Struct("<HHIQQQIHHHHHH")}

# gabi ch. 5, "Program Header". 32-bit: p_type p_offset p_vaddr p_paddr p_filesz p_memsz p_flags
# p_align. 64-bit: p_type p_flags p_offset p_vaddr p_paddr p_filesz p_memsz p_align.
PROGRAM_HEADER = {ELFCLASS32: struct.Struct("<IIIIIIII"), ELFCLASS64: struct.Struct("<IIQQQQQQ")}
PT_LOAD, PT_NOTE = 1, 4

NOTE = struct.Struct("<III")  # n_namesz n_descsz n_type (gabi ch. 5, "Note Section")
NOTE_ALIGN = 4
