/*
 * Frames between a network device's queues and a tap or memory (VIRTIO 1.2 §5.1.6).
 *
 * A frame that is in memory is copied into as many of the driver's buffers as it takes. With a tap
 * the kernel copies it from and to the guest's own memory, with its header, and how long it is
 * shows only when it is read. So as many buffers are popped as the longest frame takes, if there
 * are; those that a frame does not use are kept for the next. Behind them is `spill`: a frame for
 * which they were too few waits there in part, until the driver adds some.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>

#include "frames.h"

enum {
    VECTOR_MAX = IOV_MAX, /* buffers that the kernel takes at once */
};

_Static_assert((int)VECTOR_MAX >= (int)PV_QUEUE_MAX, "a chain to be sent is written at once");

/* ---- to the guest ---- */

/* Pop buffers until there is room for `length` bytes, or one only if a frame may not have more: the
 * last result of pv_queue_pop. */
static int hold(struct pv_pair *pair, struct frames *frames, uint64_t length)
{
    struct pv_chain *chain = &frames->chain;
    int got = 1;

    while (frames->room < length && frames->buffer_count < VECTOR_MAX &&
           (pair->mergeable || !frames->held_count)) {
        struct held *held = &frames->held[frames->held_count];
        got = pv_queue_pop(pair->receive.ring, chain);
        if (got <= 0)
            break;
        *held = (struct held){chain->head, chain->count, chain->writable, 0};
        for (uint32_t i = 0; i < chain->writable; i++) {
            const struct pv_buffer *buffer = &chain->buffers[chain->readable + i];
            frames->buffers[frames->buffer_count++] = (struct iovec){buffer->base, buffer->length};
            held->length += buffer->length;
        }
        frames->held_count++;
        frames->descriptors += held->count;
        frames->room += held->length;
        if (held->length < FRAME_HEADER) {
            pair->receive.ring->error = PV_RING_ROOM;
            return -PV_RING_ROOM;
        }
    }
    return got;
}

/* Read a frame into the buffers, and what they have no room for into `spill`; its length. */
static ssize_t read_frame(struct pv_net *net, struct frames *frames)
{
    uint32_t count = frames->buffer_count;
    uint64_t offered = frames->room;
    struct iovec behind;
    ssize_t length;

    for (; count > VECTOR_MAX - 1; count--)
        offered -= frames->buffers[count - 1].iov_len;
    behind = frames->buffers[count];
    frames->buffers[count] = (struct iovec){frames->spill, sizeof(frames->spill)};
    length = readv(net->fd, frames->buffers, (int)count + 1);
    frames->buffers[count] = behind;
    frames->placed = offered;
    return length;
}

/* Store bytes of the frame at `offset`, where there is room for them. */
static void store(const struct frames *frames, uint64_t offset, const void *data, uint64_t length)
{
    const uint8_t *from = data;

    for (const struct iovec *buffer = frames->buffers; length; buffer++) {
        if (offset >= buffer->iov_len) {
            offset -= buffer->iov_len;
            continue;
        }
        uint64_t part = buffer->iov_len - offset;
        part = part < length ? part : length;
        memcpy((uint8_t *)buffer->iov_base + offset, from, part);
        from += part;
        length -= part;
        offset = 0;
    }
}

/* Give the driver the first `count` of the held buffers, with `length` bytes in them. */
static void push(struct pv_pair *pair, struct frames *frames, uint32_t count, uint64_t length)
{
    uint32_t buffers = 0;

    for (uint32_t i = 0; i < count; i++) {
        const struct held *held = &frames->held[i];
        uint64_t written = held->length < length ? held->length : length;
        pv_queue_push(pair->receive.ring, held->head, held->count, (uint32_t)written);
        length -= written;
        buffers += held->buffers;
        frames->room -= held->length;
        frames->descriptors -= held->count;
    }
    frames->held_count -= count;
    frames->buffer_count -= buffers;
    memmove(frames->held, frames->held + count, frames->held_count * sizeof(struct held));
    memmove(frames->buffers, frames->buffers + buffers,
            frames->buffer_count * sizeof(struct iovec));
}

/* Whether the driver can add to what is held, for a frame that has no room in it. */
static int may_grow(const struct pv_pair *pair, const struct frames *frames)
{
    return pair->mergeable && frames->descriptors < pair->receive.ring->size &&
           frames->buffer_count < VECTOR_MAX;
}

/* Give the driver a frame of `length` bytes that was stored, all but how many buffers it has. */
static void deliver(struct pv_pair *pair, struct frames *frames, uint64_t length)
{
    uint64_t room = 0;
    uint16_t count = 0;

    while (room < length)
        room += frames->held[count++].length;
    store(frames, offsetof(struct virtio_net_hdr_mrg_rxbuf, num_buffers), &count, sizeof(count));
    push(pair, frames, count, length);
    pair->counters.rx_frames++;
    pair->counters.rx_bytes += length - FRAME_HEADER;
}

enum received pv_receive(struct pv_net *net, struct frames *frames)
{
    struct pv_pair *pair = net->pair;

    if (hold(pair, frames, frames->length ? frames->length : net->largest) < 0)
        return BROKEN;
    if (!frames->held_count)
        return FULL;
    if (!frames->length) {
        ssize_t length = read_frame(net, frames);
        if (length <= 0)
            return length < 0 && (errno == EAGAIN || errno == EINTR) ? NONE : GONE;
        if (length < FRAME_MIN)
            return TAKEN;
        frames->length = (uint64_t)length;
    }
    if (frames->length <= frames->room) {
        if (frames->length > frames->placed)
            store(frames, frames->placed, frames->spill, frames->length - frames->placed);
        if (!net->checksums) /* the kernel says of frames that it has checked them, asked or not */
            store(frames, offsetof(struct virtio_net_hdr_mrg_rxbuf, hdr.flags), &(uint8_t){0}, 1);
        deliver(pair, frames, frames->length);
    } else if (may_grow(pair, frames)) {
        return FULL;
    } else {
        pair->counters.rx_dropped++;
    }
    frames->length = 0;
    return TAKEN;
}

enum received pv_give(struct pv_pair *pair, struct frames *frames, const void *frame,
                      uint64_t length)
{
    uint64_t whole = FRAME_HEADER + length;

    if (hold(pair, frames, whole) < 0)
        return BROKEN;
    if (whole <= frames->room) {
        store(frames, 0, &(struct virtio_net_hdr_mrg_rxbuf){0}, FRAME_HEADER);
        store(frames, FRAME_HEADER, frame, length);
        deliver(pair, frames, whole);
    } else if (!frames->held_count || may_grow(pair, frames)) {
        return FULL;
    } else {
        pair->counters.rx_dropped++;
    }
    return TAKEN;
}

/* ---- from the guest ---- */

uint64_t pv_send(struct pv_net *net, const struct pv_chain *chain)
{
    struct pv_net_counters *counters = &net->pair->counters;
    uint64_t length = 0;

    for (uint32_t i = 0; i < chain->readable; i++)
        length += chain->buffers[i].length;
    if (length < FRAME_MIN || length > FRAME_MAX) {
        counters->tx_invalid++;
    } else if (writev(net->fd, (const struct iovec *)chain->buffers, (int)chain->readable) ==
               (ssize_t)length) {
        counters->tx_frames++;
        counters->tx_bytes += length - FRAME_HEADER;
    } else if (errno == EINVAL) {
        counters->tx_invalid++;
    } else {
        counters->tx_dropped++;
    }
    return length;
}

/* ---- the driver and who watches ---- */

void pv_pass(const struct pv_pair *pair, enum pv_point point, int place, uint64_t size)
{
    struct pv_tracer *tracer = __atomic_load_n(&pair->tracer, __ATOMIC_ACQUIRE);
    if (tracer)
        pv_trace(tracer, &(struct pv_record){
                             .time = pv_now(),
                             .size = (uint32_t)size,
                             .number = (uint16_t)place,
                             .point = (uint8_t)point,
                         });
}

void pv_show(struct pv_pair *pair, const struct pv_net_queue *queue)
{
    if (pv_queue_publish(queue->ring)) {
        pair->counters.interrupts++;
        pv_pass(pair, PV_POINT_QUEUE_INTERRUPT, queue == &pair->transmit ? TRANSMIT : RECEIVE, 0);
        eventfd_write(queue->call, 1);
    }
}

void pv_fail(struct pv_pair *pair, struct pv_queue *queue)
{
    __atomic_store_n(&pair->broken, queue, __ATOMIC_RELEASE);
    eventfd_write(pair->attention, 1);
}
