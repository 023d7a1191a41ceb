/*
 * libFuzzer's target for csrc/ring.c. Each input is a case of case.h; a step of its script is a
 * byte, what in the low three bits and a number in the others.
 */
#include <stdint.h>

#include "../ring.h"
#include "case.h"
#include "device.h"

enum { PUMP = 8 }; /* chains that a PUMPED step takes at most */
enum { POP, PUSH, PUBLISH, SUPPRESS, ALLOW, POKE, PUMPED, RESET };

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
