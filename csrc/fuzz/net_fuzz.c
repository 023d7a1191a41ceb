/*
 * libFuzzer's target for csrc/frames.c: frames into a ring, or out of it, as a device's thread
 * moves them, with a socket for a tap. Each input is a case of case.h; the script's first two bytes
 * say what kind of device it is, each further one is a frame that comes or is to be sent.
 */
#define _GNU_SOURCE
#include <sys/socket.h>
#include <unistd.h>

#include "../frames.h"
#include "case.h"

enum {
    MERGEABLE = 1, /* bits of the script's first byte */
    CHECKSUMS = 2,
    TRANSMITS = 4,
    UNIT = 64,  /* bytes; lengths in the script are multiples of it */
    TURNS = 4,  /* attempts to receive a frame */
    SHORT = 26, /* bytes, of the shortest frame */
};

static struct pv_net net = {.fd = -1};
static struct frames frames;
static int wire;

static void open_wire(void)
{
    int ends[2], failed = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, ends);

    assert(!failed);
    net.fd = ends[0];
    wire = ends[1];
    net.receive.ring = net.transmit.ring = &queue;
}

/* What must hold of the buffers that are kept for the next frame. */
static void check_held(void)
{
    uint64_t room = 0;
    uint32_t buffers = 0, descriptors = 0;

    assert(frames.held_count <= queue.size && frames.buffer_count <= 2 * PV_QUEUE_MAX);
    for (uint32_t i = 0; i < frames.held_count; i++) {
        room += frames.held[i].length;
        buffers += frames.held[i].buffers;
        descriptors += frames.held[i].count;
    }
    for (uint32_t i = 0; i < frames.buffer_count; i++)
        assert(inside(frames.buffers[i].iov_base, frames.buffers[i].iov_len));
    assert(room == frames.room && buffers == frames.buffer_count);
    assert(descriptors == frames.descriptors);
    assert(queue.in_flight == (queue.packed ? descriptors : frames.held_count));
    assert(frames.length <= FRAME_MAX);
}

static int receive(uint8_t length)
{
    static uint8_t frame[SHORT + UINT8_MAX * UNIT];
    enum received outcome = TAKEN;

    memset(frame, 0xa5, sizeof(frame));
    if (send(wire, frame, SHORT + (size_t)length * UNIT, 0) < 0)
        return 0;
    for (int i = 0; i < TURNS && outcome == TAKEN; i++) {
        outcome = pv_receive(&net, &frames);
        assert(outcome != GONE);
        if (outcome != BROKEN)
            check_held();
        pv_queue_publish(&queue);
    }
    return outcome != BROKEN;
}

static int transmit(void)
{
    int got = pv_queue_pop(&queue, &chain);

    if (got <= 0)
        return 0;
    pv_send(&net, &chain);
    pv_queue_push(&queue, chain.head, chain.count, 0);
    pv_queue_publish(&queue);
    return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t rest[FRAME_MAX];
    size_t length;
    const uint8_t *script = load_case(data, size, &length);

    if (!script || length < 3)
        return -1;
    if (net.fd < 0)
        open_wire();
    net.mergeable = script[0] & MERGEABLE;
    net.checksums = script[0] & CHECKSUMS;
    net.largest = SHORT + script[1] * UNIT;
    frames.held_count = frames.buffer_count = frames.descriptors = 0;
    frames.room = frames.length = 0;
    if (pv_queue_open(&queue) < 0)
        return 0;
    for (size_t i = 2; i < length; i++)
        if (!(script[0] & TRANSMITS ? transmit() : receive(script[i])))
            break;
    while (recv(script[0] & TRANSMITS ? wire : net.fd, rest, sizeof(rest), 0) > 0)
        ;
    return 0;
}
