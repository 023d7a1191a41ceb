/*
 * libFuzzer's target for csrc/ring.c: what must hold of every chain, whatever the driver does. Each
 * input is a case of case.h; a step of its script is a byte, what in the low three bits and a
 * number in the others.
 */
#include <stdint.h>

#include "../ring.h"
#include "case.h"

enum { PUMP = 8 }; /* chains that a PUMPED step takes at most */
enum { POP, PUSH, PUBLISH, SUPPRESS, ALLOW, POKE, PUMPED, RESET };

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

static int allow(void)
{
    int result = pv_queue_allow(&queue);

    if (result < 0)
        check_error(result);
    else
        assert(result <= 1);
    return result;
}

/* What VirtioDevice.pump does. */
static int pump(uint32_t wanted)
{
    int result;

    pv_queue_suppress(&queue);
    for (int i = 0; i < PUMP && (result = pop(wanted)); i++) {
        if (result < 0)
            return result;
        push(holding - 1);
    }
    pv_queue_publish(&queue);
    return allow();
}

static int start(void)
{
    int result = pv_queue_open(&queue);

    holding = 0;
    if (result)
        check_error(result);
    return result;
}

/* Play a step: how many bytes it takes of the script, or less than 0 for a broken rule. */
static int step(const uint8_t *script, size_t left)
{
    unsigned number = script[0] >> 3;
    int result = 0;

    switch (script[0] & 7) {
    case POP:
        result = pop(number);
        break;
    case PUSH:
        push(number);
        break;
    case PUBLISH:
        assert(pv_queue_publish(&queue) >> 1 == 0);
        assert(!pv_queue_publish(&queue)); /* nothing is new */
        break;
    case SUPPRESS:
        pv_queue_suppress(&queue);
        break;
    case ALLOW:
        result = allow();
        break;
    case POKE: /* the driver: u16 address, u16 value */
        if (left < 5)
            return (int)left;
        if (script[1] + script[2] * 256 <= REGION - 2)
            memcpy(ram[0] + script[1] + script[2] * 256, script + 3, 2);
        return 5;
    case PUMPED:
        result = pump(number);
        break;
    case RESET:
        result = start();
        break;
    }
    return result < 0 ? result : 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t length;
    const uint8_t *script = load_case(data, size, &length);

    if (!script)
        return -1;
    int taken = start();
    for (size_t at = 0; taken >= 0 && at < length; at += (size_t)taken)
        taken = step(script + at, length - at);
    return 0;
}
