/*
 * Drives a network device (VIRTIO 1.2 §5.1) in the way that the command line's first word says. A
 * frame of type END ends it well.
 */
#include "virtio.h"

enum { VIRTIO_ID_NET = 1, RECEIVE = 0, TRANSMIT = 1, CONTROL = 2 };
enum { VECTOR = IRQ_BASE + 3, CONFIG_VECTOR = IRQ_BASE + 4, BAR = PCI_WINDOW + 0x100000 };
enum { QUEUE = 64, ROOM = 1536, SMALL = 200, FRAME_MAX = 16384, REPEATS = 50, BURST = 20 };
enum { TYPE = 12, ECHO = 0xb588, END = 0xb688 }; /* IEEE 802 §9.2.3: experimental, as loaded */
enum { STATUS = 6, LINK_UP = 1 };                /* §5.1.4 */
#define F_CSUM (1ul << 0)
#define F_GUEST_CSUM (1ul << 1)
#define F_MRG_RXBUF (1ul << 15)
#define F_STATUS (1ul << 16)
#define BASIC (VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX)

struct header { /* §5.1.6 */
    uint8_t flags, gso_type;
    uint16_t header_length, gso_size, csum_start, csum_offset, num_buffers;
};
struct frame {
    struct header header;
    uint8_t data[FRAME_MAX];
} __attribute__((packed));

static struct virtio device;
static struct virtqueue receive_queue, transmit_queue;
static uint8_t buffers[QUEUE][ROOM];
static struct frame incoming, outgoing;
static volatile unsigned config_interrupts;

void on_interrupt(int vector)
{
    config_interrupts += vector == CONFIG_VECTOR;
    apic_end();
}

static void copy(uint8_t *to, const uint8_t *from, uint32_t length)
{
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
}

static uint16_t type_of(const struct frame *frame)
{
    return *(const uint16_t *)(frame->data + TYPE);
}

static void begin(uint64_t features, uint32_t size)
{
    virtio_negotiate(&device, BASIC | features);
    virtio_queue(&device, &receive_queue, RECEIVE, QUEUE);
    virtio_queue(&device, &transmit_queue, TRANSMIT, QUEUE);
    virtio_vector(&device, &receive_queue, 0);
    virtio_vector(&device, NULL, 1);
    for (unsigned at = 0; at < QUEUE; at++) {
        const struct buffer buffer = {buffers[at], size};
        CHECK(virtio_add(&receive_queue, &buffer, 0, 1) >= 0);
    }
    transmit_queue.available.ring[QUEUE] = 0xffff; /* no interrupts */
    virtio_start(&device);
    virtio_kick(&receive_queue);
}

static struct used next_buffer(void)
{
    struct used used;
    while (!virtio_used(&receive_queue, &used)) {
        virtio_want_interrupt(&receive_queue);
        if (receive_queue.used.index == receive_queue.seen)
            sleep_once();
    }
    return used;
}

/* Receive a frame, in as many buffers as it has; its length with the header. */
static uint32_t receive(uint32_t size)
{
    uint32_t length = 0;
    for (unsigned count = 1, at = 0; at < count; at++) {
        struct used used = next_buffer();
        void *address = (void *)receive_queue.descriptors[used.id].address;
        const struct buffer again = {address, size};
        CHECK(used.length <= size && length + used.length <= sizeof(incoming));
        copy((uint8_t *)&incoming + length, address, used.length);
        length += used.length;
        if (at == 0)
            count = incoming.header.num_buffers;
        CHECK(virtio_add(&receive_queue, &again, 0, 1) >= 0);
    }
    virtio_kick(&receive_queue);
    CHECK(length >= sizeof(struct header));
    return length;
}

/* Send what is in `outgoing`, cut in two at `cut`, and wait until that is done. */
static void send(uint32_t length, uint32_t cut)
{
    struct used used;
    const struct buffer parts[] = {{&outgoing, cut}, {(uint8_t *)&outgoing + cut, length - cut}};
    CHECK(virtio_add(&transmit_queue, parts, 2, 0) >= 0);
    virtio_kick(&transmit_queue);
    while (!virtio_used(&transmit_queue, &used))
        asm volatile("pause");
    CHECK(used.length == 0);
}

static void address_to_sender(void)
{
    copy(outgoing.data, incoming.data + 6, 6);
    copy(outgoing.data + 6, incoming.data, 6);
}

/* Send every frame of type ECHO back to where it came from. */
static void echo(uint64_t features, uint32_t size)
{
    begin(features, size);
    print("ready\n");
    for (unsigned turn = 0;; turn++) {
        uint32_t length = receive(size);
        if (type_of(&incoming) == END)
            return;
        if (type_of(&incoming) != ECHO)
            continue;
        CHECK(incoming.header.num_buffers == (length + size - 1) / size);
        CHECK(incoming.header.flags == 0 && incoming.header.gso_type == 0);
        copy(outgoing.data, incoming.data, length - sizeof(struct header));
        address_to_sender();
        outgoing.header = (struct header){0};
        send(length, 1 + turn * 7 % (length - 1));
    }
}

static void test_echo(void)
{
    echo(0, ROOM);
}

static void test_merged(void)
{
    echo(F_MRG_RXBUF, SMALL);
}

/* Answer UDP over IPv4 with the checksum left to the host, as it has left its own. */
static void test_checksum(void)
{
    enum { IP = 14, UDP = IP + 20, CHECKSUM = UDP + 6, NEEDS_CSUM = 1, PROTOCOL = IP + 9 };
    begin(F_CSUM | F_GUEST_CSUM, ROOM);
    CHECK(device.features & F_CSUM && device.features & F_GUEST_CSUM);
    print("ready\n");
    for (;;) {
        uint32_t length = receive(ROOM);
        if (type_of(&incoming) == END)
            return;
        if (type_of(&incoming) != 0x0008 || incoming.data[PROTOCOL] != 17)
            continue;
        CHECK(incoming.header.flags == NEEDS_CSUM && incoming.header.csum_start == UDP);
        CHECK(incoming.header.csum_offset == CHECKSUM - UDP);
        copy((uint8_t *)&outgoing, (uint8_t *)&incoming, length);
        address_to_sender();
        copy(outgoing.data + IP + 12, incoming.data + IP + 16, 4);
        copy(outgoing.data + IP + 16, incoming.data + IP + 12, 4);
        copy(outgoing.data + UDP, incoming.data + UDP + 2, 2);
        copy(outgoing.data + UDP + 2, incoming.data + UDP, 2);
        outgoing.header.num_buffers = 0; /* the pseudo header's sum is the same both ways */
        send(length, sizeof(struct header));
    }
}

/* Time for what must not happen. */
static void let_time_pass(void)
{
    for (unsigned reads = 0; reads < 100; reads++)
        virtio_status(&device);
}

/* Reset it while frames go both ways: its queues and buffers are not touched any more. */
static void test_reset(void)
{
    for (unsigned at = 0; at < 12; at++)
        outgoing.data[at] = 0xff;
    *(uint16_t *)(outgoing.data + TYPE) = ECHO;
    for (unsigned times = 0; times < REPEATS; times++) {
        const struct buffer frame = {&outgoing, sizeof(struct header) + 100};
        begin(times % 2 ? F_MRG_RXBUF : 0, times % 2 ? SMALL : ROOM);
        for (unsigned at = 0; at < BURST; at++)
            CHECK(virtio_add(&transmit_queue, &frame, 1, 0) >= 0);
        virtio_kick(&transmit_queue);
        if (times % 3)
            receive(times % 2 ? SMALL : ROOM);
        virtio_reset(&device);
        uint16_t received = receive_queue.used.index, sent = transmit_queue.used.index;
        for (unsigned at = 0; at < QUEUE; at++)
            buffers[at][TYPE] = 0x77;
        let_time_pass();
        CHECK(receive_queue.used.index == received && transmit_queue.used.index == sent);
        for (unsigned at = 0; at < QUEUE; at++)
            CHECK(buffers[at][TYPE] == 0x77);
    }
}

/* Say whether the link is up, whenever that changes, until it is up again. */
static void test_link(void)
{
    begin(F_STATUS, ROOM);
    print("ready\n");
    for (unsigned change = 0; change < 2; change++) {
        while (!config_interrupts)
            sleep_once();
        config_interrupts = 0;
        CHECK((read16(virtio_config(&device) + STATUS) & LINK_UP) == change);
        print(change ? "up\n" : "down\n");
    }
}

/* A buffer outside of RAM. */
static void test_mistake(void)
{
    const struct buffer nowhere = {(void *)HOLE, 100};
    for (unsigned times = 0; times < 3; times++) {
        begin(0, ROOM);
        virtio_add(&transmit_queue, &nowhere, 1, 0);
        virtio_kick(&transmit_queue);
        while (!config_interrupts)
            sleep_once();
        config_interrupts = 0;
        CHECK(virtio_status(&device) & VIRTIO_NEEDS_RESET);
    }
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
    CHECK(virtio_find(&device, VIRTIO_ID_NET, BAR));
    msix_enable(&device, 2);
    msix_set(&device, 0, VECTOR);
    msix_set(&device, 1, CONFIG_VECTOR);
    RUN(echo);
    RUN(merged);
    RUN(checksum);
    RUN(reset);
    RUN(link);
    RUN(mistake);
    fail("The command line names no test");
}
