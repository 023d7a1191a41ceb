/*
 * A guest that drives a network device (VIRTIO 1.2 §5.1) as fast as it can, without interrupts.
 * Command line: send, receive or echo, how many frames, and the bytes of those that it sends. It
 * prints S at the beginning and E at the end.
 */
#include "find.h"

enum { VIRTIO_ID_NET = 1, RECEIVE = 0, TRANSMIT = 1 };
enum { HEADER = 12, ROOM = 2048, TYPE = HEADER + 12, ECHO = 0xb588 }; /* IEEE 802 §9.2.3 */

static struct virtqueue receive_queue, transmit_queue;
static uint8_t buffers[QUEUE_MAX][ROOM], frame[ROOM];

/* Set a queue up; used entries are looked for. */
static void open_queue(struct virtqueue *queue, uint16_t index)
{
    virtio_queue(&device, queue, index, QUEUE_MAX);
    queue->available.flags = 1;
    queue->available.ring[queue->size] = 0xffff;
}

static bool take(struct virtqueue *queue, struct used *used)
{
    bool taken = virtio_used(queue, used);
    queue->available.ring[queue->size] = (uint16_t)(queue->seen - 1);
    return taken;
}

static void add_buffer(void *address)
{
    const struct buffer buffer = {address, ROOM};
    CHECK(virtio_add(&receive_queue, &buffer, 0, 1) >= 0);
}

static void send(unsigned long count, uint32_t size)
{
    const struct buffer buffer = {frame, HEADER + size};
    struct used used;
    for (unsigned long done = 0, added = 0; done < count;) {
        while (added < count && virtio_add(&transmit_queue, &buffer, 1, 0) >= 0)
            added++;
        virtio_kick(&transmit_queue);
        while (take(&transmit_queue, &used))
            done++;
    }
}

/* The next frame's length; its buffer goes back to the device later, in `address`. */
static uint32_t receive(void **address)
{
    struct used used;
    while (!take(&receive_queue, &used))
        asm volatile("pause");
    *address = (void *)receive_queue.descriptors[used.id].address;
    return used.length;
}

static void receive_all(unsigned long count)
{
    void *address;
    while (count--) {
        receive(&address);
        add_buffer(address);
        virtio_kick(&receive_queue);
    }
}

static void echo(unsigned long count)
{
    struct used used;
    while (count) {
        void *address;
        struct buffer buffer = {.length = receive(&address)};
        buffer.address = address;
        if (*(uint16_t *)((uint8_t *)address + TYPE) == ECHO) {
            CHECK(virtio_add(&transmit_queue, &buffer, 1, 0) >= 0);
            virtio_kick(&transmit_queue);
            while (!take(&transmit_queue, &used))
                asm volatile("pause");
            count--;
        }
        add_buffer(address);
        virtio_kick(&receive_queue);
    }
}

void main(const void *unused)
{
    (void)unused;
    const char *word = skip_word(command_line);
    unsigned long count = number(word), size = number(skip_word(word));
    CHECK(count && size <= ROOM - HEADER);
    CHECK(find(VIRTIO_ID_NET));
    virtio_negotiate(&device, VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX);
    open_queue(&receive_queue, RECEIVE);
    open_queue(&transmit_queue, TRANSMIT);
    virtio_start(&device);
    for (unsigned at = 0; at < 12; at++)
        frame[HEADER + at] = 0xff;
    *(uint16_t *)(frame + TYPE) = ECHO;
    for (unsigned at = 0; at < QUEUE_MAX; at++)
        add_buffer(buffers[at]);
    virtio_kick(&receive_queue);
    print("S");
    if (command_is("send"))
        send(count, (uint32_t)size);
    else if (command_is("receive"))
        receive_all(count);
    else
        echo(count);
    print("E\n");
    for (;;) /* the VMM's threads are looked at */
        asm volatile("pause");
}
