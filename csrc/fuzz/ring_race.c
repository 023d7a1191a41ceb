/*
 * A device that works on a ring while another processor writes all over it: `ring_race SECONDS`.
 * What device.h holds a chain to must be so whenever the driver writes.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include "../ring.h"
#include "case.h"
#include "device.h"

enum { DRIVER = 0x80, DEVICE = 0xc0, TABLES = 0x200, SCRIBBLED = 0x280, BATCH = 8, ROUND = 1000 };

static int ended;

static uint32_t next(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* The hostile processor: 16 bits at a time, mostly such as mean something where they are. */
static void *scribble(void *argument)
{
    uint32_t state = 1;
    (void)argument;

    while (!__atomic_load_n(&ended, __ATOMIC_RELAXED)) {
        uint32_t random = next(&state), at = next(&state) % (SCRIBBLED / 2) * 2;
        uint16_t value = (uint16_t)random;
        if (random >> 31)
            value &= 0x87; /* flags, and small numbers */
        else if (random >> 30)
            value = TABLES;
        if (at % 16 >= 2 && at % 16 < 8 && random >> 20 & 7) /* the rest of an address */
            value = 0;
        __atomic_store_n((uint16_t *)(ram[0] + at), value, __ATOMIC_RELAXED);
    }
    return NULL;
}

int main(int count, char **arguments)
{
    static const uint8_t nothing[HEADER];
    time_t end = time(NULL) + (count > 1 ? atoi(arguments[1]) : 1);
    uint64_t rounds = 0, chains = 0;
    uint32_t state = 2;
    size_t length;
    pthread_t thread;

    load_case(nothing, HEADER, &length);
    assert(pthread_create(&thread, NULL, scribble, NULL) == 0);
    for (; rounds % ROUND || time(NULL) < end; rounds++) {
        uint32_t random = next(&state);
        queue.packed = random & 1;
        queue.event_idx = random >> 1 & 1;
        queue.indirect = 1;
        queue.size = 1 << (random >> 2 & 3);
        queue.driver_area = DRIVER;
        queue.device_area = DEVICE;
        start();
        if (queue.packed) /* from where the ring is most likely to be */
            queue.avail_wrap = random >> 4 & 1;
        else
            queue.next_avail = queue.next_used = *(volatile uint16_t *)(ram[0] + DRIVER + 2) - 1;
        for (int i = 0; i < BATCH && pop(random >> 5 & 31) > 0; i++) {
            chains++;
            push(0);
        }
        pv_queue_publish(&queue);
    }
    __atomic_store_n(&ended, 1, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    printf("race rounds: %llu, chains: %llu\n", (unsigned long long)rounds,
           (unsigned long long)chains);
    return 0;
}
