/*
 * A device on the ring of case.h that holds every chain to what must be so, whatever the driver
 * does. Include ring.h and case.h before it.
 */

struct held {
    uint16_t head;
    uint16_t count;
    uint32_t written;
};

static struct held held[PV_QUEUE_MAX];
static unsigned holding;
static volatile uint8_t sink;

static void check_error(int result)
{
    assert(result < 0 && -result < PV_RING_ERRORS && queue.error == -result);
}

/* What must hold of every chain; then use it as a device does: read it, and write `wanted` bytes.
 */
static uint32_t use_chain(uint32_t wanted)
{
    uint64_t total = 0;
    uint32_t written = 0;

    assert(chain.count >= 1 && chain.count <= queue.size);
    assert(chain.readable + chain.writable <= queue.size);
    assert(queue.packed || chain.head < queue.size);
    for (uint32_t i = 0; i < chain.readable + chain.writable; i++) {
        const struct pv_buffer *buffer = &chain.buffers[i];
        assert(buffer->length > 0 && inside(buffer->base, buffer->length));
        total += buffer->length;
        if (i < chain.readable) {
            sink = buffer->base[0] ^ buffer->base[buffer->length - 1];
            continue;
        }
        uint64_t part = wanted < buffer->length ? wanted : buffer->length;
        memset(buffer->base, 0xa5, part);
        wanted -= (uint32_t)part;
        written += (uint32_t)part;
    }
    assert(total <= UINT32_MAX);
    return written;
}

/* Take a chain and keep it; whether there was one, or less than 0 for a broken rule. */
static int pop(uint32_t wanted)
{
    int result = pv_queue_pop(&queue, &chain);

    if (result < 0)
        check_error(result);
    if (result <= 0)
        return result;
    assert(result == 1 && holding < queue.size); /* or it could grow without end */
    held[holding++] = (struct held){chain.head, chain.count, use_chain(wanted)};
    return 1;
}

static void push(unsigned which)
{
    if (!holding)
        return;
    which %= holding;
    pv_queue_push(&queue, held[which].head, held[which].count, held[which].written);
    held[which] = held[--holding];
}

static int start(void)
{
    int result = pv_queue_open(&queue);

    holding = 0;
    if (result)
        check_error(result);
    return result;
}
