/* Drives a disk (VIRTIO 1.2 §5.2) in the way that the command line's first word says. */
#include "virtio.h"

enum { VECTOR = IRQ_BASE + 3, BAR = PCI_WINDOW + 0x100000, MMIO_GSI = 5 };
enum { SECTOR = 512, WORDS = SECTOR / 8, IN = 0, OUT = 1, FLUSH = 4, OK = 0 };
enum { DEPTH = 16, AREA = 64, NOTHING = 0xff }; /* AREA: sectors of the disk that are used */
#define VIRTIO_BLK_F_FLUSH (1ul << 9)

/* Each slot has one request at a time. A sector holds one number, everywhere. */
struct slot {
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header;
    uint64_t data[WORDS];
    uint8_t status;
    bool busy;
};

static struct virtio device;
static struct virtqueue queue;
static struct slot slots[DEPTH];
static uint8_t slot_of[QUEUE_MAX];
static uint64_t content[AREA]; /* what the disk must hold */
static volatile unsigned interrupts;

void on_interrupt(int vector)
{
    (void)vector;
    if (device.mmio)
        virtio_acknowledge(&device);
    interrupts++;
    apic_end();
}

static void start(void)
{
    virtio_negotiate(&device, VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_BLK_F_FLUSH);
    CHECK(device.features & VIRTIO_BLK_F_FLUSH);
    virtio_queue(&device, &queue, 0, DEPTH * 4);
    if (!device.mmio)
        virtio_vector(&device, &queue, 0);
    virtio_start(&device);
}

static void begin(void)
{
    if (virtio_find(&device, VIRTIO_ID_BLOCK, BAR)) {
        msix_enable(&device, 1);
        msix_set(&device, 0, VECTOR);
    } else {
        CHECK(virtio_find_mmio(&device, VIRTIO_ID_BLOCK));
        ioapic_level(MMIO_GSI, VECTOR);
    }
    start();
}

static unsigned random(unsigned below)
{
    static uint64_t state = 88172645463325252; /* Marsaglia's xorshift64 */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % below;
}

static void submit(unsigned at, uint32_t type, uint64_t sector, uint64_t value)
{
    struct slot *slot = &slots[at];
    slot->header.type = type;
    slot->header.sector = sector;
    slot->status = NOTHING;
    slot->busy = true;
    for (unsigned word = 0; word < WORDS && type != FLUSH; word++)
        slot->data[word] = value;
    struct buffer buffers[3] = {{&slot->header, sizeof(slot->header)}, {slot->data, SECTOR}};
    buffers[type == FLUSH ? 1 : 2] = (struct buffer){&slot->status, 1};
    int head = type == IN    ? virtio_add(&queue, buffers, 1, 2)
               : type == OUT ? virtio_add(&queue, buffers, 2, 1)
                             : virtio_add(&queue, buffers, 1, 1);
    CHECK(head >= 0);
    slot_of[head] = (uint8_t)at;
}

/* Whether a slot holds one number everywhere, and which. */
static uint64_t value_of(const struct slot *slot)
{
    for (unsigned word = 1; word < WORDS; word++)
        CHECK(slot->data[word] == slot->data[0]);
    return slot->data[0];
}

/* Wait until at most `left` requests are in flight, by interrupts, and check the others. */
static void drain(unsigned left)
{
    struct used used;
    for (;;) {
        unsigned busy = 0, taken = 0;
        virtio_want_interrupt(&queue);
        while (virtio_used(&queue, &used)) {
            struct slot *slot = &slots[slot_of[used.id]];
            CHECK(slot->busy && slot->status == OK);
            CHECK(used.length == 1 + (slot->header.type == IN ? SECTOR : 0));
            if (slot->header.type == IN)
                CHECK(value_of(slot) == content[slot->header.sector]);
            slot->busy = false;
            taken++;
        }
        if (taken)
            continue; /* the interrupt that was asked for is past */
        for (unsigned at = 0; at < DEPTH; at++)
            busy += slots[at].busy;
        if (busy <= left)
            return;
        while (!interrupts)
            sleep_once();
        interrupts = 0;
    }
}

static bool in_use(uint64_t sector)
{
    for (unsigned at = 0; at < DEPTH; at++)
        if (slots[at].busy && slots[at].header.type != FLUSH && slots[at].header.sector == sector)
            return true;
    return false;
}

/* Have each sector hold one number. */
static void clear(void)
{
    for (unsigned sector = 0; sector < AREA; sector++) {
        submit(0, OUT, sector, 0);
        virtio_kick(&queue);
        drain(0);
    }
}

/* Random requests, as many at a time as there are slots, every answer checked. */
static void test_verify(void)
{
    begin();
    clear();
    for (uint64_t round = 1; round <= 200; round++) {
        unsigned slot = 0, sector = random(AREA), kind = random(8);
        drain(DEPTH - 1);
        while (slots[slot].busy)
            slot++;
        if (in_use(sector))
            continue;
        submit(slot, kind == 0 ? FLUSH : kind < 4 ? OUT : IN, sector, round);
        if (slots[slot].header.type == OUT)
            content[sector] = round;
        virtio_kick(&queue);
    }
    drain(0);
}

/* Resets with writes in flight: each sector is as before or written, and memory is left alone. */
static void test_reset(void)
{
    begin();
    clear();
    for (uint64_t round = 1; round <= 20; round++) {
        for (unsigned at = 0; at < DEPTH; at++)
            submit(at, at % 4 == 3 ? FLUSH : OUT, at, round);
        virtio_kick(&queue);
        virtio_reset(&device);
        for (unsigned at = 0; at < DEPTH; at++) {
            slots[at].busy = false;
            slots[at].status = NOTHING;
        }
        start();
        for (unsigned at = 0; at < DEPTH; at++) {
            CHECK(slots[at].status == NOTHING);
            if (at % 4 == 3)
                continue;
            submit(at, IN, at, 0);
            virtio_kick(&queue);
            while (queue.used.index == queue.seen)
                asm volatile("pause");
            uint64_t found = value_of(&slots[at]);
            CHECK(found == round || found == content[at]);
            content[at] = found;
            drain(0);
        }
    }
}

/* For a test that kills the VMM: number after number into the sectors in turn, each printed once a
 * FLUSH has completed. The command line has the first number. */
static void test_writer(void)
{
    const char *at = command_line;
    uint64_t value = 0;
    while (*at && (*at < '0' || *at > '9'))
        at++;
    for (; *at >= '0' && *at <= '9'; at++)
        value = 10 * value + (uint64_t)(*at - '0');
    begin();
    for (;; value++) {
        submit(0, OUT, value % AREA, value);
        virtio_kick(&queue);
        drain(0);
        submit(0, FLUSH, 0, 0);
        virtio_kick(&queue);
        drain(0);
        print_number(value);
        print("\n");
    }
}

void main(const void *boot_params)
{
    (void)boot_params;
    load_idt();
    remap_pics(0);
    apic_enable();
    if (command_is("verify"))
        test_verify();
    else if (command_is("reset"))
        test_reset();
    else if (command_is("writer"))
        test_writer();
    else
        fail("The command line names no test");
}
