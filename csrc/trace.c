#include <stdint.h>
#include <string.h>
#include <time.h>

#include "trace.h"

_Static_assert(sizeof((struct pv_tracer){0}.records) == PV_RECORDS * sizeof(struct pv_record),
               "trace.h");

enum { SECOND = 1000000000 }; /* nanoseconds */

uint64_t pv_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

void pv_trace(struct pv_tracer *tracer, const struct pv_record *record)
{
    uint32_t added = tracer->added, used;

    if (!(tracer->points >> record->point & 1))
        return;
    /* The consumer has copied what it counts as taken. */
    used = added - __atomic_load_n(&tracer->taken, __ATOMIC_ACQUIRE);
    if (used == PV_RECORDS) {
        tracer->lost++;
        return;
    }
    tracer->records[added % PV_RECORDS] = *record;
    /* It sees the record once it sees the count. */
    __atomic_store_n(&tracer->added, added + 1, __ATOMIC_RELEASE);
}

uint32_t pv_trace_take(struct pv_tracer *tracer, struct pv_record *out)
{
    uint32_t taken = tracer->taken;
    uint32_t count = __atomic_load_n(&tracer->added, __ATOMIC_ACQUIRE) - taken;
    uint32_t from = taken % PV_RECORDS;
    uint32_t first = count < PV_RECORDS - from ? count : PV_RECORDS - from;

    memcpy(out, tracer->records + from, first * sizeof(*out));
    memcpy(out + first, tracer->records, (count - first) * sizeof(*out));
    __atomic_store_n(&tracer->taken, taken + count, __ATOMIC_RELEASE);
    return count;
}
