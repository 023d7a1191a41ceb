# The tiny guests of the kvm tests: NAME.c is 64-bit code, NAME32.c 32-bit code for Multiboot.

TINY := $(patsubst %.c,$(OUT)/%.elf,$(wildcard *.c))
TINY_PARTS := $(wildcard include/*) tiny.ld tiny.mk
TINY_CFLAGS := -std=gnu11 -O2 -Wall -Wextra -Werror -Iinclude -ffreestanding -fpie \
	-fvisibility=hidden -fno-stack-protector -fno-asynchronous-unwind-tables -fcf-protection=none \
	-mgeneral-regs-only -mno-red-zone
TINY_LDFLAGS := -static -nostdlib -no-pie -T tiny.ld -Wl,--build-id=none -Wl,--no-warn-rwx-segments
TINY_32 := -m32 $(TINY_CFLAGS) $(TINY_LDFLAGS) -Wl,--defsym=KERNEL_MAP=0
TINY_64 := -m64 $(TINY_CFLAGS) $(TINY_LDFLAGS) -Wl,--defsym=KERNEL_MAP=0xffffffff80000000

tiny: $(TINY)

$(OUT)/%32.elf: %32.c $(TINY_PARTS)
	@mkdir -p $(@D)
	$(CC) $(TINY_32) include/start32.S include/guest.c $< -o $@

$(OUT)/%.elf: %.c $(TINY_PARTS)
	@mkdir -p $(@D)
	$(CC) $(TINY_64) include/start64.S include/guest.c include/virtio.c $< -o $@
