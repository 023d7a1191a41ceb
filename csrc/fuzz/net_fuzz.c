/*
 * libFuzzer's target for csrc/frames.c and user.c: frames into a ring, or out of it, as a device's
 * thread moves them, with a socket for a tap; or both at once, on one ring, with a libslirp that
 * answers what it is given. Each input is a case of case.h; the script's first two bytes say what
 * kind of device it is, each further one is a frame that comes or is to be sent.
 */
#define _GNU_SOURCE
#include <sys/socket.h>
#include <unistd.h>

#include "../frames.h"
#include "../user.h"
#include "case.h"

enum {
    MERGEABLE = 1, /* bits of the script's first byte */
    CHECKSUMS = 2,
    TRANSMITS = 4,
    USER = 8,   /* it is libslirp's, and does both */
    UNIT = 64,  /* bytes; lengths in the script are multiples of it */
    TURNS = 4,  /* attempts to receive a frame */
    SHORT = 26, /* bytes, of the shortest frame */
};

static struct pv_pair pair = {
    .attention = -1,
    .receive = {.ring = &queue, .doorbell = -1, .call = -1},
    .transmit = {.ring = &queue, .doorbell = -1, .call = -1},
};
static struct pv_net net = {.pair = &pair, .fd = -1};
static struct frames frames;
static volatile uint8_t sink;
static const uint8_t coming[SHORT + UINT8_MAX * UNIT];
static int wire;

static void open_wire(void)
{
    int ends[2], failed = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, ends);

    assert(!failed);
    net.fd = ends[0];
    wire = ends[1];
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
    enum received outcome = TAKEN;

    if (send(wire, coming, SHORT + (size_t)length * UNIT, 0) < 0)
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

/* A libslirp that looks at the whole frame, and answers with as many units as it says. */
static void input(void *user, const uint8_t *frame, int length)
{
    assert(length >= ETHER_HDR_LEN && (uint32_t)length <= FRAME_MAX);
    for (int i = 0; i < length; i++)
        sink = frame[i];
    pv_user_take(coming, SHORT + (size_t)frame[0] * UNIT, user);
}

static void fill(void *user, uint32_t *timeout, int (*add)(int, int, void *), void *opaque)
{
    assert(*timeout == UINT32_MAX && user == opaque);
    for (int fd = 0; fd < UINT8_MAX; fd += UNIT)
        assert(add(fd, 1, opaque) == fd);
}

static void poll(void *user, int failed, int (*ready)(int, void *), void *opaque)
{
    (void)user, (void)failed, (void)ready, (void)opaque;
}

/* Frames in turns, by libslirp's part of the device. */
static void talk(const uint8_t *script, size_t length)
{
    static struct pv_user user = {.input = input, .fill = fill, .poll = poll, .epoll = -1, .up = 1};

    if (!user.state) {
        user.slirp = &user;
        if (pv_user_open(&user) < 0)
            abort();
    }
    user.kept_max = sizeof(coming);
    user.from_driver = user.to_driver = SHORT + UINT8_MAX * UNIT;
    user.running = 1;
    pair.broken = NULL;
    pv_user_attach(&user, &pair);
    for (size_t i = 0; i < length; i++) {
        pv_user_take(coming, SHORT + (size_t)script[i] * UNIT, &user);
        pv_user_turn(&user);
        assert(user.kept <= user.kept_max);
    }
    pv_user_attach(&user, NULL);
    pv_user_turn(&user);
    assert(!user.kept);
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
    pair.mergeable = script[0] & MERGEABLE;
    net.checksums = script[0] & CHECKSUMS;
    net.largest = SHORT + script[1] * UNIT;
    frames.held_count = frames.buffer_count = frames.descriptors = 0;
    frames.room = frames.length = 0;
    if (pv_queue_open(&queue) < 0)
        return 0;
    if (script[0] & USER)
        talk(script + 2, length - 2);
    for (size_t i = 2; i < length && !(script[0] & USER); i++)
        if (!(script[0] & TRANSMITS ? transmit() : receive(script[i])))
            break;
    while (recv(script[0] & TRANSMITS ? wire : net.fd, rest, sizeof(rest), 0) > 0)
        ;
    return 0;
}
