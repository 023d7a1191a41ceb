/*
 * Trace points of the C code. What passes one goes to a ring that one thread fills and Python
 * empties; a full ring loses what comes and counts it, and nobody waits. Read by the C compiler
 * and, as it stands, by cffi, before native.h: so it has no preprocessor lines.
 */

enum pv_trace_limits {
    PV_RECORDS = 8192, /* of one ring; a power of two */
};

/* The points. PV_POINT_EXIT_PIO is exit.pio to users, and so on; `number`, `what`, `size` and
 * `words` are those of struct pv_record. */
enum pv_point {
    /* number: the vCPU; what: enum pv_exit_kind; words: port or address, value, RIP */
    PV_POINT_EXIT_PIO,
    PV_POINT_EXIT_MMIO,
    PV_POINT_EXIT_OTHER,
    /* number: the queue's place in its thread */
    PV_POINT_QUEUE_KICK,
    PV_POINT_QUEUE_INTERRUPT,
    /* number: likewise; what: enum pv_step; words: offset on the disk, type, head of the chain */
    PV_POINT_REQUEST_BLOCK,
    /* number: likewise; size: bytes of the frame */
    PV_POINT_REQUEST_NET,
    PV_POINTS,
};

enum pv_step {
    PV_STEP_BEGIN,
    PV_STEP_END,
    PV_STEP_HANDED, /* C leaves it to Python, where it begins again */
};

struct pv_record {
    uint64_t time;     /* CLOCK_MONOTONIC in nanoseconds: when it began */
    uint64_t duration; /* nanoseconds; 0 for what has none */
    uint64_t words[3];
    uint32_t size; /* bytes */
    uint16_t number;
    uint8_t point;
    uint8_t what;
};

struct pv_tracer {
    uint64_t points;                /* bits of enum pv_point: what is wanted; Python sets it */
    uint32_t added, taken;          /* how many records were, modulo 2^32 */
    uint64_t lost;                  /* how many found it full */
    struct pv_record records[8192]; /* PV_RECORDS */
};

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t pv_now(void);

/* Add a record if its point is wanted. Only one thread at a time. */
void pv_trace(struct pv_tracer *tracer, const struct pv_record *record);

/* Move the records to `out` (PV_RECORDS of them); how many. Only one thread at a time. */
uint32_t pv_trace_take(struct pv_tracer *tracer, struct pv_record *out);
