/* Drives an entropy device (VIRTIO 1.2 §5.4) in the way that the command line's first word says. */
#include "virtio.h"

enum { VECTOR = IRQ_BASE + 3, CONFIG_VECTOR = IRQ_BASE + 4 };
enum { BAR = PCI_WINDOW + 0x100000, ELSEWHERE = PCI_WINDOW + 0x200000, SIZE = 64, QUEUE = 64 };
enum { MMIO_GSI = 5 };

static struct virtio device;
static struct virtqueue queue;
static uint8_t bytes[SIZE];
static volatile unsigned interrupts, config_interrupts;
static bool wired;

void on_interrupt(int vector)
{
    if (wired) {
        uint32_t why = virtio_acknowledge(&device);
        interrupts += why & VIRTIO_INTERRUPT_QUEUE;
        config_interrupts += !!(why & VIRTIO_INTERRUPT_CONFIG);
    } else if (vector == VECTOR) {
        interrupts++;
    } else if (vector == CONFIG_VECTOR) {
        config_interrupts++;
    }
    apic_end();
}

static void start(void)
{
    virtio_negotiate(&device, VIRTIO_F_VERSION_1);
    virtio_queue(&device, &queue, 0, QUEUE);
    if (!wired) {
        virtio_vector(&device, &queue, 0);
        virtio_vector(&device, NULL, 1);
    }
    virtio_start(&device);
}

static void begin_msix(void)
{
    CHECK(virtio_find(&device, VIRTIO_ID_RNG, BAR));
    msix_enable(&device, 2);
    msix_set(&device, 0, VECTOR);
    msix_set(&device, 1, CONFIG_VECTOR);
    start();
}

static void ask(void)
{
    const struct buffer buffer = {bytes, SIZE};
    for (unsigned at = 0; at < SIZE; at++)
        bytes[at] = 0;
    CHECK(virtio_add(&queue, &buffer, 0, 1) >= 0);
    virtio_kick(&queue);
}

static void take(void)
{
    struct used used;
    unsigned zeros = 0;
    CHECK(virtio_used(&queue, &used) && used.length == SIZE);
    for (unsigned at = 0; at < SIZE; at++)
        zeros += !bytes[at];
    CHECK(zeros < SIZE / 2);
}

static void wait_interrupt(void)
{
    while (!interrupts)
        sleep_once();
    interrupts = 0;
}

static void exchange(unsigned times)
{
    while (times--) {
        ask();
        wait_interrupt();
        take();
    }
}

/* Time for what must not happen, with interrupts let in. */
static void let_time_pass(void)
{
    asm volatile("sti");
    for (unsigned reads = 0; reads < 200; reads++)
        virtio_status(&device);
    asm volatile("cli");
}

static void masked(void)
{
    ask();
    while (!msix_pending(&device, 0))
        asm volatile("pause");
    let_time_pass();
    CHECK(interrupts == 0 && !msix_pending(&device, 1));
}

static void unmasked(void)
{
    wait_interrupt();
    CHECK(!msix_pending(&device, 0));
    take();
}

static void test_masks(void)
{
    begin_msix();
    msix_mask(&device, 0, true);
    masked();
    msix_mask(&device, 0, false);
    unmasked();
    msix_mask(&device, 0, true); /* it was sent, and once */
    CHECK(!msix_pending(&device, 0));
    msix_mask(&device, 0, false);
    let_time_pass();
    CHECK(interrupts == 0);
    msix_control(&device, MSIX_ENABLE | MSIX_FUNCTION_MASK);
    masked();
    msix_control(&device, MSIX_ENABLE);
    unmasked();
    exchange(2);
    virtio_vector(&device, &queue, 0xffff); /* NO_VECTOR, §4.1.5.1.2 */
    ask();
    while (queue.used.index == queue.seen)
        asm volatile("pause");
    let_time_pass();
    CHECK(interrupts == 0);
    take();
    msix_mask(&device, 0, true); /* the pending bit of nobody's vector is clear */
    CHECK(!msix_pending(&device, 0));
}

static void test_wire(void)
{
    wired = true;
    CHECK(virtio_find(&device, VIRTIO_ID_RNG, BAR));
    unsigned gsi = 16 + virtio_slot(&device) % 4;
    ioapic_level(gsi, VECTOR);
    start();
    exchange(20);
    let_time_pass(); /* a KVM in software may deliver an interrupt that is gone by now */
    interrupts = 0;
    uint16_t command = read16(device.config + PCI_COMMAND);
    write16(device.config + PCI_COMMAND, command | PCI_INTX_DISABLE);
    ask();
    while (!(read16(device.config + PCI_STATUS) & PCI_STATUS_INTERRUPT))
        asm volatile("pause");
    let_time_pass();
    CHECK(interrupts == 0);
    write16(device.config + PCI_COMMAND, command);
    wait_interrupt();
    take();
    CHECK(!(read16(device.config + PCI_STATUS) & PCI_STATUS_INTERRUPT));
}

static void test_mmio(void)
{
    wired = true;
    CHECK(virtio_find_mmio(&device, VIRTIO_ID_RNG));
    ioapic_level(MMIO_GSI, VECTOR);
    start();
    exchange(20);
}

static void test_move(void)
{
    begin_msix();
    exchange(2);
    virtio_place(&device, ELSEWHERE);
    queue.doorbell += ELSEWHERE - BAR;
    CHECK(read32(BAR) == 0xffffffff);
    exchange(2);
    write32(device.config + PCI_BAR0, 0xffffffff); /* its size; it goes away meanwhile */
    CHECK((read32(device.config + PCI_BAR0) & ~0xfu) == 0xffff8000);
    write32(device.config + PCI_BAR0, ELSEWHERE);
    exchange(2);
}

static void test_bus_master(void)
{
    begin_msix();
    exchange(1);
    write16(device.config + PCI_COMMAND, PCI_MEMORY);
    ask();
    let_time_pass();
    CHECK(interrupts == 0 && queue.used.index == queue.seen);
    write16(device.config + PCI_COMMAND, PCI_MEMORY | PCI_BUS_MASTER);
    wait_interrupt();
    take();
    exchange(2);
}

static void test_reset(void)
{
    const struct buffer buffer = {bytes, SIZE};
    begin_msix();
    for (unsigned times = 0; times < 100; times++) {
        for (unsigned at = 0; at < times % QUEUE; at++)
            virtio_add(&queue, &buffer, 0, 1);
        virtio_kick(&queue);
        virtio_reset(&device);
        uint16_t used = queue.used.index;
        bytes[0] = 0;
        let_time_pass();
        CHECK(queue.used.index == used && bytes[0] == 0);
        interrupts = 0;
        start();
        exchange(1);
    }
}

static void test_mistake(void)
{
    begin_msix();
    for (unsigned times = 0; times < 3; times++) {
        const struct buffer nowhere = {(void *)HOLE, SIZE};
        exchange(1);
        virtio_add(&queue, &nowhere, 0, 1);
        virtio_kick(&queue);
        while (!config_interrupts)
            sleep_once();
        CHECK(virtio_status(&device) & VIRTIO_NEEDS_RESET);
        config_interrupts = 0;
        start();
    }
    exchange(1);
}

/* The registers through configuration space, §4.1.4.9. */
static uint32_t through_window(uintptr_t address, uint32_t length, const uint32_t *value)
{
    write8(device.window + 4, 0);
    write32(device.window + 8, (uint32_t)(address - BAR));
    write32(device.window + 12, length);
    if (value)
        write32(device.window + 16, *value);
    return read32(device.window + 16);
}

static void test_window(void)
{
    uint32_t nothing = 0;
    begin_msix();
    CHECK((through_window(device.common + 20, 1, NULL) & 0xff) == virtio_status(&device));
    queue.doorbell = (uintptr_t)&nothing; /* the doorbell is rung through the window instead */
    ask();
    uint32_t index = 0;
    through_window(device.notify, 2, &index);
    wait_interrupt();
    take();
    through_window(device.common + 20, 1, &nothing);
    CHECK(virtio_status(&device) == 0);
}

static void test_msix(void)
{
    begin_msix();
    exchange(1000);
}

static void test_forever(void)
{
    begin_msix();
    print("ready\n");
    for (;;)
        exchange(1);
}

#define RUN(name)                                                                                  \
    do {                                                                                           \
        if (command_is(#name)) {                                                                   \
            test_##name();                                                                         \
            return;                                                                                \
        }                                                                                          \
    } while (0)

void main(const void *boot_params)
{
    (void)boot_params;
    load_idt();
    remap_pics(0);
    apic_enable();
    RUN(msix);
    RUN(masks);
    RUN(wire);
    RUN(mmio);
    RUN(move);
    RUN(bus_master);
    RUN(reset);
    RUN(mistake);
    RUN(window);
    RUN(forever);
    fail("The command line names no test");
}
