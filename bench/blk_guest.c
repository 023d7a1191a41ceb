/*
 * A guest that drives a virtio-blk device (VIRTIO 1.2 §5.2) as fast as it answers: so many requests
 * of 4 KiB at random places, a given number of them at a time, without interrupts. Command line:
 * read or write, the depth, the requests. It prints S at the beginning and E at the end.
 */
#include "find.h"

enum { BLOCK = 4096, SECTOR = 512, DEPTH_MAX = 64, IN = 0, OUT = 1 };

struct request {
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header;
    uint8_t status;
};

static struct virtqueue queue;
static struct request requests[DEPTH_MAX];
static uint8_t data[DEPTH_MAX][BLOCK] __attribute__((aligned(4096)));
static uint8_t of_head[QUEUE_MAX];

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
    CHECK(find(VIRTIO_ID_BLOCK));
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
