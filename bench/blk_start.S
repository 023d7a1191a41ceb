/*
 * Entry of the guests that drive a queue by PVH: to 64-bit mode with the first 4 GiB mapped to
 * themselves for everybody, then main() at privilege level 3, with the right to do port I/O: a KVM
 * in software runs only that at full speed.
 */
	.section .note.pvh, "a", @note
	.long 4, 4, 18 /* XEN_ELFNOTE_PHYS32_ENTRY, xen/interface/elfnote.h */
	.asciz "Xen"
	.long _start

	.section .text.start, "ax"
	.globl _start
	.code32
_start:	mov 24(%ebx), %esi	/* hvm_start_info.cmdline_paddr */
	mov $pages, %edi	/* 2 MiB each: present, writable, user, large */
	mov $0x87, %eax
1:	mov %eax, (%edi)
	add $8, %edi
	add $0x200000, %eax
	jnc 1b
	mov $pages + 7, %eax
	mov $pdpt, %edi
	mov $4, %ecx
2:	mov %eax, (%edi)
	add $8, %edi
	add $0x1000, %eax
	dec %ecx
	jnz 2b
	movl $pdpt + 7, pml4
	mov $0x6a0, %eax	/* CR4: PAE, PGE and SSE */
	mov %eax, %cr4
	mov $pml4, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx	/* EFER: long mode and SYSRET */
	mov $0x101, %eax
	xor %edx, %edx
	wrmsr
	mov $0x174, %ecx	/* SYSENTER_CS, from which SYSEXIT takes its segments */
	mov $8, %eax
	wrmsr
	mov $0x80000011, %eax
	mov %eax, %cr0
	lgdt gdt_pointer
	ljmp $8, $3f
	.code64
3:	mov %rsi, command_line
	mov $0x30 + 3, %eax
	mov %eax, %ds
	mov %eax, %es
	pushq $0x3002		/* RFLAGS: IOPL 3 */
	popfq
	mov $stack_top, %rcx
	mov $4f, %edx
	sysexitq
4:	call main
	call pass

	.data
	.balign 8
gdt:	.quad 0
	.quad 0x00af9b000000ffff, 0x00cf93000000ffff	/* 0x08, 0x10: level 0 */
	.quad 0, 0
	.quad 0x00affb000000ffff, 0x00cff3000000ffff	/* 0x28, 0x30: level 3, at SYSENTER_CS + 32 */
gdt_pointer:
	.word gdt_pointer - gdt - 1
	.quad gdt

	.bss
	.balign 4096
pml4:	.skip 4096
pdpt:	.skip 4096
pages:	.skip 4 * 4096
	.skip 16384
stack_top:
	.section .note.GNU-stack, "", @progbits
