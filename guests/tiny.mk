# The tiny guests of the kvm tests: NAME.c is 64-bit code, NAME32.c 32-bit code for Multiboot.

TINY := $(patsubst %.c,$(OUT)/%.elf,$(wildcard *.c))
TINY_PARTS := $(wildcard include/*) tiny.ld tiny.mk
TINY_CFLAGS := -std=gnu11 -O2 -Wall -Wextra -Werror -Iinclude -ffreestanding -fno-pic \
	-fno-stack-protector -fno-asynchronous-unwind-tables -mgeneral-regs-only -mno-red-zone \
	-fcf-protection=none
TINY_LDFLAGS := -static -nostdlib -no-pie -T tiny.ld -Wl,--build-id=none -Wl,--no-warn-rwx-segments

tiny: $(TINY)

$(OUT)/%32.elf: %32.c $(TINY_PARTS)
	@mkdir -p $(@D)
	$(CC) -m32 $(TINY_CFLAGS) $(TINY_LDFLAGS) include/start32.S include/guest.c $< -o $@

$(OUT)/%.elf: %.c $(TINY_PARTS)
	@mkdir -p $(@D)
	$(CC) -m64 $(TINY_CFLAGS) $(TINY_LDFLAGS) include/start64.S include/guest.c $< -o $@
