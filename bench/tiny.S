/*
 * The smallest guest that shows itself: one byte to COM1, then idle. With EXITS it reads port PORT
 * that many times, or with OUTPUT writes to it, and writes a second byte. An ELF for the 64-bit entry and, by its note, for PVH;
 * the instructions used mean the same in 32-bit and 64-bit mode.
 */
	.section .note.pvh, "a", @note
	.long 4, 4, 18 /* XEN_ELFNOTE_PHYS32_ENTRY, xen/interface/elfnote.h */
	.asciz "Xen"
	.long _start

	.section .text, "ax"
	.globl _start
_start:
	mov $0x3f8, %edx
	mov $'S', %al
	out %al, (%dx)
#ifdef EXITS
	mov $EXITS, %ecx
	mov $PORT, %edx
1:
#ifdef OUTPUT
	out %al, (%dx)
#else
	in (%dx), %al
#endif
	sub $1, %ecx
	jnz 1b
	mov $0x3f8, %edx
	mov $'E', %al
	out %al, (%dx)
#endif
	cli
2:	hlt
	jmp 2b
