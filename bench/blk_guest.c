/*
 * A guest that drives a virtio-blk device (VIRTIO 1.2 §5.2) as fast as it answers: so many requests
 * of 4 KiB at random places, a given number of them at a time, without interrupts. Command line:
 * read or write, the depth, the requests. It prints S at the beginning and E at the end.
 */
#include "virtio.h"

enum { BLOCK = 4096, SECTOR = 512, DEPTH_MAX = 64, IN = 0, OUT = 1 };
enum { BAR_STEP = 0x100000, BARS = 6, CAPABILITY_VENDOR = 9 };

struct request {
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header;
    uint8_t status;
};

static struct virtio device;
static struct virtqueue queue;
static struct request requests[DEPTH_MAX];
static uint8_t data[DEPTH_MAX][BLOCK] __attribute__((aligned(4096)));
static uint8_t of_head[QUEUE_MAX];

/* Find the disk wherever its registers are: QEMU's have a BAR of their own. */
static bool find(void)
{
    unsigned slot = 0;
    uintptr_t config;
    do {
        if (++slot == 32)
            return false;
        config = ECAM + ((uintptr_t)slot << 15);
    } while (read32(config) != ((0x1040u + VIRTIO_ID_BLOCK) << 16 | 0x1af4));
    device.config = config;
    for (unsigned bar = 0; bar < BARS; bar++) {
        uint32_t old = read32(config + PCI_BAR0 + 4 * bar);
        write32(config + PCI_BAR0 + 4 * bar, PCI_WINDOW + bar * BAR_STEP);
        if ((old & 7) == 4) /* 64 bits wide */
            write32(config + PCI_BAR0 + 4 * ++bar, 0);
    }
    write16(config + PCI_COMMAND, PCI_MEMORY | PCI_BUS_MASTER);
    uintptr_t at = config + read8(config + PCI_CAPABILITIES);
    for (; at != config; at = config + read8(at + 1)) {
        if (read8(at) != CAPABILITY_VENDOR)
            continue;
        uintptr_t base = PCI_WINDOW + read8(at + 4) * BAR_STEP + read32(at + 8);
        switch (read8(at + 3)) { /* §4.1.4 */
        case 1:
            device.common = base;
            break;
        case 2:
            device.notify = base;
            device.multiplier = read32(at + 16);
            break;
        case 4:
            device.device = base;
            break;
        }
    }
    return true;
}

static const char *skip_word(const char *at)
{
    while (*at && *at != ' ')
        at++;
    while (*at == ' ')
        at++;
    return at;
}

static unsigned long number(const char *at)
{
    unsigned long value = 0;
    for (; *at >= '0' && *at <= '9'; at++)
        value = 10 * value + (unsigned long)(*at - '0');
    return value;
}

static uint64_t random(void)
{
    static uint64_t state = 88172645463325252; /* Marsaglia's xorshift64 */
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void submit(unsigned index, unsigned type, uint64_t blocks)
{
    struct request *request = &requests[index];
    request->header.type = type;
    request->header.sector = random() % blocks * (BLOCK / SECTOR);
    request->status = 0xff;
    const struct buffer buffers[] = {
        {&request->header, sizeof(request->header)}, {data[index], BLOCK}, {&request->status, 1}};
    int head = virtio_add(&queue, buffers, type == OUT ? 2 : 1, type == OUT ? 1 : 2);
    CHECK(head >= 0);
    of_head[head] = (uint8_t)index;
}

void main(const void *unused)
{
    (void)unused;
    unsigned type = command_is("write") ? OUT : IN;
    const char *word = skip_word(command_line);
    unsigned long depth = number(word), count = number(skip_word(word));
    struct used used;
    CHECK(depth && depth <= DEPTH_MAX && depth <= count);
    CHECK(find());
    virtio_negotiate(&device, VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX);
    virtio_queue(&device, &queue, 0, QUEUE_MAX);
    queue.available.flags = 1;
    virtio_start(&device);
    uint64_t blocks = read64(device.device) * SECTOR / BLOCK;
    queue.available.ring[queue.size] = (uint16_t)(queue.seen - 1); /* no interrupts */
    for (unsigned long done = 0; done < depth; done++)
        submit((unsigned)done, type, blocks);
    print("S");
    virtio_kick(&queue);
    for (unsigned long done = 0, added = depth; done < count;) {
        while (virtio_used(&queue, &used)) {
            unsigned index = of_head[used.id];
            CHECK(requests[index].status == 0);
            done++;
            if (added < count)
                submit(index, type, blocks), added++;
        }
        queue.available.ring[queue.size] = (uint16_t)(queue.seen - 1);
        virtio_kick(&queue);
    }
    print("E\n");
    pass();
}
