/*
 * Virtqueues: the bounded, checked walk, and the two rings. VIRTIO 1.2 §2.7 (split), §2.8 (packed).
 *
 * Facts about ordering. The other side is a driver on another processor, which stores and loads the
 * same memory at the same time.
 *
 * - Taking. A driver writes descriptors, then what makes them available (split: the index of the
 *   available ring; packed: the flags of a chain's first descriptor). Our load of that is an
 *   acquire: without it we could read descriptors from before the driver wrote them.
 * - Giving back. The data and the used elements are written before what shows them (split: the used
 *   index; packed: the flags of the first used descriptor of a batch, the others' being written
 *   before), a release: without it the driver could see a request as done before its data is there.
 * - Interrupts. We show what is used and then load whether the driver wants an interrupt; the
 *   driver asks for one and then loads what is used. Each side stores one word and loads another,
 *   which a processor may turn round unless a full fence is between. Without ours both could miss
 *   the other's store: the driver sleeps, and we believe that it does not want to be woken.
 * - Doorbells. The same the other way: we ask to be rung and then look whether something is
 *   available; the driver makes available and then loads whether to ring. Without the fence we
 *   sleep on a queue that is not empty.
 * - Changing under our eyes. The driver may be hostile and write at any time what it should leave
 *   alone. So each thing that is checked is loaded once, into a copy of ours, and used from there.
 */

#include <linux/virtio_ring.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "ring.h"

_Static_assert(sizeof((struct pv_chain){0}.buffers) == PV_QUEUE_MAX * sizeof(struct pv_buffer),
               "ring.h");

enum { DESC_SIZE = sizeof(struct vring_desc) };
_Static_assert(sizeof(struct vring_packed_desc) == DESC_SIZE, "VIRTIO 1.2 §2.8.13");

static const uint16_t PACKED_AVAIL = 1 << VRING_PACKED_DESC_F_AVAIL;
static const uint16_t PACKED_USED = 1 << VRING_PACKED_DESC_F_USED;

static void full_fence(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* ---- guest memory ---- */

static uint8_t *host_address(const struct pv_memory *memory, uint64_t address, uint64_t length)
{
    for (uint32_t i = 0; i < memory->count; i++) {
        const struct pv_region *region = &memory->regions[i];
        uint64_t offset = address - region->base; /* of an address below: larger than any size */
        if (offset <= region->size && length <= region->size - offset)
            return region->host + offset;
    }
    return NULL;
}

/* Copy a descriptor, wherever it is: an indirect table need not be aligned. The barrier keeps the
 * compiler from reading again what it has read. */
static void fetch(void *copy, const uint8_t *table, uint32_t index)
{
    memcpy(copy, table + index * DESC_SIZE, DESC_SIZE);
    __asm__ volatile("" ::: "memory");
}

static uint16_t load16(const void *field)
{
    return __atomic_load_n((const uint16_t *)field, __ATOMIC_RELAXED);
}

static void store16(void *field, uint16_t value)
{
    __atomic_store_n((uint16_t *)field, value, __ATOMIC_RELAXED);
}

/* ---- chains ---- */

static int fail(struct pv_queue *queue, enum pv_ring_error error, uint64_t first, uint64_t second)
{
    queue->error = error;
    queue->fault[0] = first;
    queue->fault[1] = second;
    return -error;
}

/* What the walk of a chain has seen. */
struct walk {
    struct pv_queue *queue;
    struct pv_chain *chain;
    uint64_t bytes;
};

static struct walk walk_begin(struct pv_queue *queue, struct pv_chain *chain)
{
    chain->count = 0;
    chain->readable = chain->writable = 0;
    return (struct walk){queue, chain, 0};
}

/* Append a buffer; it may be called PV_QUEUE_MAX times. */
static int walk_buffer(struct walk *walk, uint64_t address, uint32_t length, int writable)
{
    struct pv_chain *chain = walk->chain;
    struct pv_buffer *buffer = &chain->buffers[chain->readable + chain->writable];

    if (!writable && chain->writable)
        return fail(walk->queue, PV_RING_ORDER, 0, 0);
    if (length == 0)
        return 0;
    walk->bytes += length;
    if (walk->bytes > UINT32_MAX)
        return fail(walk->queue, PV_RING_LENGTH, 0, 0);
    buffer->base = host_address(&walk->queue->memory, address, length);
    buffer->length = length;
    if (!buffer->base)
        return fail(walk->queue, PV_RING_BUFFER, address, length);
    chain->readable += !writable;
    chain->writable += writable;
    return 0;
}

/* Find an indirect table (§2.7.5.3, §2.8.7) of `length` bytes: how many entries it has. It must be
 * `alone`, with nothing after it. */
static int walk_indirect(const struct walk *walk, uint64_t address, uint32_t length, int alone,
                         const uint8_t **table)
{
    struct pv_queue *queue = walk->queue;

    if (!queue->indirect || !alone)
        return fail(queue, PV_RING_INDIRECT, 0, 0);
    if (length == 0 || length % DESC_SIZE || length / DESC_SIZE > queue->size)
        return fail(queue, PV_RING_TABLE, length, 0);
    *table = host_address(&queue->memory, address, length);
    return *table ? (int)(length / DESC_SIZE) : fail(queue, PV_RING_OUTSIDE, address, length);
}

/* ---- split rings ---- */

static struct vring_avail *avail_of(const struct pv_queue *queue)
{
    return (struct vring_avail *)queue->driver;
}

static struct vring_used *used_of(const struct pv_queue *queue)
{
    return (struct vring_used *)queue->device;
}

/* How many chains are available. */
static int split_available(struct pv_queue *queue)
{
    uint16_t index = __atomic_load_n(&avail_of(queue)->idx, __ATOMIC_ACQUIRE);
    uint16_t ahead = index - queue->next_avail;

    return ahead <= queue->size - queue->in_flight ? ahead : fail(queue, PV_RING_INDEX, index, 0);
}

static int split_walk(struct walk *walk, uint32_t index)
{
    struct pv_queue *queue = walk->queue;
    const uint8_t *table = queue->descriptors;
    int entries = queue->size, seen = 0, nested = 0, error = 0;
    struct vring_desc desc;

    do {
        if (index >= (uint32_t)entries)
            return fail(queue, PV_RING_HEAD, index, entries);
        fetch(&desc, table, index);
        walk->chain->count += !nested;
        if (desc.flags & VRING_DESC_F_INDIRECT) {
            int alone = !nested && !(desc.flags & VRING_DESC_F_NEXT);
            entries = walk_indirect(walk, desc.addr, desc.len, alone, &table);
            if (entries < 0)
                return entries;
            nested = 1;
            index = 0;
            desc.flags = VRING_DESC_F_NEXT; /* the chain goes on in the table */
            continue;
        }
        if (seen++ == queue->size)
            return fail(queue, PV_RING_LOOP, queue->size, 0);
        error = walk_buffer(walk, desc.addr, desc.len, !!(desc.flags & VRING_DESC_F_WRITE));
        index = desc.next;
    } while (!error && desc.flags & VRING_DESC_F_NEXT);
    return error;
}

static int split_pop(struct pv_queue *queue, struct pv_chain *chain)
{
    struct walk walk = walk_begin(queue, chain);
    int available = split_available(queue), error;

    if (available <= 0)
        return available;
    chain->head = load16(&avail_of(queue)->ring[queue->next_avail & (queue->size - 1)]);
    error = split_walk(&walk, chain->head);
    if (error)
        return error;
    queue->next_avail++;
    queue->in_flight++;
    return 1;
}

static void split_push(struct pv_queue *queue, uint16_t head, uint32_t written)
{
    struct vring_used_elem *element = &used_of(queue)->ring[queue->next_used & (queue->size - 1)];

    element->id = head;
    element->len = written;
    queue->next_used++;
    queue->in_flight--;
    queue->pushed++;
}

static int split_publish(struct pv_queue *queue, uint16_t pushed)
{
    __atomic_store_n(&used_of(queue)->idx, queue->next_used, __ATOMIC_RELEASE);
    full_fence();
    if (!queue->event_idx)
        return !(load16(&avail_of(queue)->flags) & VRING_AVAIL_F_NO_INTERRUPT);
    uint16_t used_event = load16(&avail_of(queue)->ring[queue->size]);
    return vring_need_event(used_event, queue->next_used, queue->next_used - pushed);
}

static void split_ask(struct pv_queue *queue, int ring)
{
    if (!queue->event_idx)
        store16(&used_of(queue)->flags, ring ? 0 : VRING_USED_F_NO_NOTIFY);
    else if (ring) /* avail_event; left behind, it asks for nothing */
        store16(&used_of(queue)->ring[queue->size], queue->next_avail);
}

/* ---- packed rings ---- */

static void advance(const struct pv_queue *queue, uint16_t *position, uint8_t *wrap, uint16_t count)
{
    *position += count;
    if (*position >= queue->size) {
        *position -= queue->size;
        *wrap ^= 1;
    }
}

static struct vring_packed_desc *packed_desc(const struct pv_queue *queue, uint16_t position)
{
    return (struct vring_packed_desc *)queue->descriptors + position;
}

/* Whether there is a next chain (§2.8.1). */
static int packed_available(const struct pv_queue *queue)
{
    uint16_t flags =
        __atomic_load_n(&packed_desc(queue, queue->next_avail)->flags, __ATOMIC_ACQUIRE);

    return (flags & (PACKED_AVAIL | PACKED_USED)) ==
           (queue->avail_wrap ? PACKED_AVAIL : PACKED_USED);
}

/* Every entry of the table, in order; of their flags only WRITE means something (§2.8.7). */
static int packed_walk_table(struct walk *walk, const struct vring_packed_desc *at, int alone)
{
    struct vring_packed_desc desc;
    const uint8_t *table;
    int entries = walk_indirect(walk, at->addr, at->len, alone, &table), error = 0;

    if (entries < 0)
        return entries;
    for (int i = 0; !error && i < entries; i++) {
        fetch(&desc, table, i);
        error = walk_buffer(walk, desc.addr, desc.len, !!(desc.flags & VRING_DESC_F_WRITE));
    }
    return error;
}

static int packed_walk(struct walk *walk)
{
    struct pv_queue *queue = walk->queue;
    struct pv_chain *chain = walk->chain;
    struct vring_packed_desc desc;
    uint16_t position = queue->next_avail;
    int error;

    do {
        if (chain->count == queue->size - queue->in_flight)
            return fail(queue, PV_RING_TAKEN, 0, 0);
        fetch(&desc, queue->descriptors, position);
        if (desc.flags & VRING_DESC_F_INDIRECT)
            error =
                packed_walk_table(walk, &desc, !chain->count && !(desc.flags & VRING_DESC_F_NEXT));
        else
            error = walk_buffer(walk, desc.addr, desc.len, !!(desc.flags & VRING_DESC_F_WRITE));
        chain->head = desc.id; /* the last one's counts (§2.8.6) */
        chain->count++;
        position = position + 1 == queue->size ? 0 : position + 1;
    } while (!error && desc.flags & VRING_DESC_F_NEXT);
    return error;
}

static int packed_pop(struct pv_queue *queue, struct pv_chain *chain)
{
    struct walk walk = walk_begin(queue, chain);
    int error;

    if (!packed_available(queue))
        return 0;
    error = packed_walk(&walk);
    if (error)
        return error;
    advance(queue, &queue->next_avail, &queue->avail_wrap, chain->count);
    queue->in_flight += chain->count;
    return 1;
}

static void packed_push(struct pv_queue *queue, uint16_t id, uint16_t count, uint32_t written)
{
    struct vring_packed_desc *desc = packed_desc(queue, queue->next_used);
    uint16_t flags = queue->used_wrap ? PACKED_AVAIL | PACKED_USED : 0;

    if (written)
        flags |= VRING_DESC_F_WRITE; /* §2.8.4 */
    desc->id = id;
    desc->len = written;
    if (queue->pushed) {
        desc->flags = flags;
    } else {
        queue->first = queue->next_used;
        queue->first_flags = flags;
    }
    advance(queue, &queue->next_used, &queue->used_wrap, count);
    queue->in_flight -= count;
    queue->pushed += count;
}

static int packed_publish(struct pv_queue *queue, uint16_t pushed)
{
    __atomic_store_n(&packed_desc(queue, queue->first)->flags, queue->first_flags,
                     __ATOMIC_RELEASE);
    full_fence();
    /* §2.8.14, loaded at once: the flags and the position must belong together. */
    uint32_t event = __atomic_load_n((const uint32_t *)queue->driver, __ATOMIC_RELAXED);
    uint16_t wanted = event >> 16 & 3, position = event & 0x7fff;

    if (wanted == VRING_PACKED_EVENT_FLAG_DISABLE)
        return 0;
    if (wanted != VRING_PACKED_EVENT_FLAG_DESC || !queue->event_idx)
        return 1;
    if ((event >> VRING_PACKED_EVENT_F_WRAP_CTR & 1) != queue->used_wrap)
        position -= queue->size; /* it is of the round before */
    return vring_need_event(position, queue->next_used, queue->next_used - pushed);
}

static void packed_ask(struct pv_queue *queue, int ring)
{
    struct vring_packed_desc_event *event = (struct vring_packed_desc_event *)queue->device;
    uint16_t flags = ring ? VRING_PACKED_EVENT_FLAG_ENABLE : VRING_PACKED_EVENT_FLAG_DISABLE;

    if (ring && queue->event_idx) {
        flags = VRING_PACKED_EVENT_FLAG_DESC;
        store16(&event->off_wrap,
                queue->next_avail | queue->avail_wrap << VRING_PACKED_EVENT_F_WRAP_CTR);
    }
    /* The position before the flags that make it count. */
    __atomic_store_n(&event->flags, flags, __ATOMIC_RELEASE);
}

/* ---- either ---- */

static uint8_t *area(const struct pv_queue *queue, uint64_t address, uint64_t length,
                     uint64_t align)
{
    return address % align ? NULL : host_address(&queue->memory, address, length);
}

int pv_queue_open(struct pv_queue *queue)
{
    uint64_t size = queue->size;
    int split = !queue->packed;

    if (size == 0 || size > PV_QUEUE_MAX || (split && size & (size - 1)))
        return fail(queue, PV_RING_SIZE, size, 0);
    /* §2.7 and §2.8.10.1: sizes and alignments. */
    queue->descriptors = area(queue, queue->descriptor_area, size * DESC_SIZE, DESC_SIZE);
    queue->driver = area(queue, queue->driver_area, split ? 6 + 2 * size : 4, split ? 2 : 4);
    queue->device = area(queue, queue->device_area, split ? 6 + 8 * size : 4, 4);
    if (!queue->descriptors || !queue->driver || !queue->device)
        return fail(queue, PV_RING_AREA, 0, 0);
    queue->next_avail = queue->next_used = queue->in_flight = queue->pushed = 0;
    queue->avail_wrap = queue->used_wrap = 1;
    return 0;
}

int pv_queue_pop(struct pv_queue *queue, struct pv_chain *chain)
{
    return queue->packed ? packed_pop(queue, chain) : split_pop(queue, chain);
}

void pv_queue_push(struct pv_queue *queue, uint16_t head, uint16_t count, uint32_t written)
{
    if (queue->packed)
        packed_push(queue, head, count, written);
    else
        split_push(queue, head, written);
}

int pv_queue_publish(struct pv_queue *queue)
{
    uint16_t pushed = queue->pushed;

    if (!pushed)
        return 0;
    queue->pushed = 0;
    return queue->packed ? packed_publish(queue, pushed) : split_publish(queue, pushed);
}

void pv_queue_suppress(struct pv_queue *queue)
{
    if (queue->packed)
        packed_ask(queue, 0);
    else
        split_ask(queue, 0);
}

int pv_queue_allow(struct pv_queue *queue)
{
    int available;

    if (queue->packed)
        packed_ask(queue, 1);
    else
        split_ask(queue, 1);
    full_fence();
    available = queue->packed ? packed_available(queue) : split_available(queue);
    return available > 0 ? 1 : available;
}
