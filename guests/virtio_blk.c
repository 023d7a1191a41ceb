/*
 * Drives a block device (VIRTIO 1.2 §5.2) in the way that the command line's first word says. Each
 * sector of the disk begins with its number.
 */
#include "virtio.h"

enum { VECTOR = IRQ_BASE + 3, CONFIG_VECTOR = IRQ_BASE + 4 };
enum { BAR = PCI_WINDOW + 0x100000, QUEUE = 256, DEPTH = 64, SECTORS = 2048 };
enum { SECTOR = 512, WORDS = SECTOR / 8, ID = 20, POISON = 0xee };
enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, WRITE_ZEROES = 13, UNKNOWN = 99 };
enum { OK = 0, IOERR = 1, UNSUPP = 2 };
#define F_FLUSH (1ul << 9)
#define FEATURES (VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | F_FLUSH | 1ul << 13 | 1ul << 14)

struct request {
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header;
    uint64_t data[WORDS];
    volatile uint8_t status;
};

static struct virtio device;
static struct virtqueue queue;
static struct request requests[DEPTH];
static volatile unsigned interrupts, config_interrupts;

void on_interrupt(int vector)
{
    interrupts += vector == VECTOR;
    config_interrupts += vector == CONFIG_VECTOR;
    apic_end();
}

static void start(void)
{
    virtio_negotiate(&device, FEATURES);
    virtio_queue(&device, &queue, 0, QUEUE);
    virtio_vector(&device, &queue, 0);
    virtio_vector(&device, NULL, 1);
    virtio_start(&device);
}

static uint64_t capacity(void)
{
    return read64(virtio_config(&device));
}

static struct used wait_used(void)
{
    struct used used;
    virtio_want_interrupt(&queue);
    while (!virtio_used(&queue, &used)) {
        sleep_once();
        virtio_want_interrupt(&queue);
    }
    return used;
}

/* Make a request of one sector available. */
static void add(struct request *request, uint32_t type, uint64_t sector)
{
    struct buffer buffers[3] = {{&request->header, sizeof request->header},
                                {request->data, SECTOR},
                                {(void *)&request->status, 1}};
    unsigned readable = type == OUT ? 2 : 1;
    request->header.type = type;
    request->header.sector = sector;
    request->status = POISON;
    CHECK(virtio_add(&queue, buffers, readable, 3 - readable) >= 0);
}

static uint8_t ask(uint32_t type, uint64_t sector)
{
    add(requests, type, sector);
    virtio_kick(&queue);
    wait_used();
    return requests->status;
}

/* The same with other data, of `length` bytes. */
static uint8_t ask_with(uint32_t type, void *data, uint32_t length, bool writable)
{
    struct request *request = requests;
    struct buffer buffers[3] = {
        {&request->header, sizeof request->header}, {data, length}, {(void *)&request->status, 1}};
    if (!length)
        buffers[1] = buffers[2];
    request->header.type = type;
    request->header.sector = 0;
    request->status = POISON;
    unsigned readable = writable || !length ? 1 : 2;
    virtio_add(&queue, buffers, readable, (length ? 3 : 2) - readable);
    virtio_kick(&queue);
    struct used used = wait_used();
    CHECK(used.length == (writable && request->status == OK ? length + 1 : 1));
    return request->status;
}

/* Mark the data at both ends, which is enough to tell sectors apart and those that are torn. */
static void fill(struct request *request, uint64_t value)
{
    request->data[0] = request->data[WORDS - 1] = value;
}

static bool filled(const struct request *request, uint64_t value)
{
    return request->data[0] == value && request->data[WORDS - 1] == value;
}

static void test_requests(void)
{
    struct {
        uint64_t sector;
        uint32_t sectors, flags;
    } range = {16, 8, 0};
    uint8_t id[ID];

    CHECK(capacity() == SECTORS);
    for (uint64_t sector = 0; sector < SECTORS; sector += SECTORS - 1)
        CHECK(ask(IN, sector) == OK && requests->data[0] == sector);
    fill(requests, 0x1234);
    CHECK(ask(OUT, 5) == OK);
    CHECK(ask_with(FLUSH, NULL, 0, false) == OK);
    fill(requests, 0);
    CHECK(ask(IN, 5) == OK && filled(requests, 0x1234));
    CHECK(ask(IN, 4) == OK && requests->data[0] == 4 && ask(IN, 6) == OK && requests->data[0] == 6);
    CHECK(ask_with(GET_ID, id, ID, true) == OK && id[0] == 'S' && id[1] == '1' && id[2] == 0);
    CHECK(ask_with(WRITE_ZEROES, &range, sizeof range, false) == OK);
    CHECK(ask(IN, 16) == OK && filled(requests, 0));
    CHECK(ask(IN, 24) == OK && requests->data[0] == 24);
    CHECK(ask_with(DISCARD, &range, sizeof range, false) == OK);
    range.flags = 2;
    CHECK(ask_with(DISCARD, &range, sizeof range, false) == UNSUPP);
    CHECK(ask(IN, SECTORS) == IOERR && ask(OUT, SECTORS) == IOERR && ask(OUT, ~0ul) == IOERR);
    CHECK(ask(UNKNOWN, 0) == UNSUPP);
}

/* Every sector, many at a time. */
static void test_depth(void)
{
    for (unsigned round = 0; round < SECTORS / DEPTH; round++)
        for (unsigned type = OUT;; type = IN) {
            for (unsigned at = 0; at < DEPTH; at++) {
                fill(&requests[at], type == OUT ? round * DEPTH + at : 0);
                add(&requests[at], type, round * DEPTH + at);
            }
            virtio_kick(&queue);
            for (unsigned at = 0; at < DEPTH; at++)
                wait_used();
            for (unsigned at = 0; at < DEPTH; at++)
                CHECK(requests[at].status == OK && filled(&requests[at], round * DEPTH + at));
            if (type == IN)
                break;
        }
}

/* A reset drops what was not begun, and nothing of what was begun comes after it. */
static void test_reset(void)
{
    for (uint64_t times = 1; times <= 30; times++) {
        for (unsigned at = 0; at < DEPTH; at++) {
            fill(&requests[at], times);
            add(&requests[at], at % 4 ? OUT : IN, at);
        }
        virtio_kick(&queue);
        virtio_reset(&device);
        uint16_t used = queue.used.index;
        fill(&requests[0], ~0ul);
        for (unsigned reads = 0; reads < 100; reads++)
            virtio_status(&device);
        CHECK(queue.used.index == used && filled(&requests[0], ~0ul));
        start();
        for (unsigned at = 1; at < DEPTH; at++) {
            CHECK(ask(IN, at) == OK);
            CHECK(requests->data[0] == at || requests->data[0] <= times);
            CHECK(requests->data[0] == at || filled(requests, requests->data[0]));
        }
    }
}

/* The disk grows while it runs. */
static void test_grow(void)
{
    CHECK(capacity() == SECTORS && ask(IN, SECTORS) == IOERR);
    print("ready\n");
    while (!config_interrupts)
        sleep_once();
    CHECK(capacity() == 2 * SECTORS && ask(IN, 2 * SECTORS - 1) == OK && filled(requests, 0));
}

/* A write that may have to wait. */
static void test_write(void)
{
    fill(requests, 0x1234);
    CHECK(ask(OUT, 0) == OK);
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
    CHECK(virtio_find(&device, VIRTIO_ID_BLOCK, BAR));
    msix_enable(&device, 2);
    msix_set(&device, 0, VECTOR);
    msix_set(&device, 1, CONFIG_VECTOR);
    start();
    RUN(requests);
    RUN(depth);
    RUN(reset);
    RUN(grow);
    RUN(write);
    fail("The command line names no test");
}
