/*
 * A disk's queues served in C: pop, preadv or pwritev, push, signal, without the interpreter. Read
 * by the C compiler and, as it stands, by cffi, after ring.h: so it has no preprocessor lines.
 */

enum pv_disk_limits {
    PV_DISK_HELPERS = 16, /* threads of one disk for what blocks, besides its leader */
};

/* One queue of a disk; Python sets all but the last. */
struct pv_disk_queue {
    struct pv_queue *ring; /* opened */
    int doorbell;
    int call;
    int looking; /* C's own: it may hold something that has not been seen */
};

/* Requests of one kind that C has carried out. */
struct pv_disk_operations {
    uint64_t operations, bytes;
    uint64_t nanoseconds; /* in all, each from when it was taken from its queue */
};

/* What was done since pv_disk_open; Python only reads it. */
struct pv_disk_counters {
    struct pv_disk_operations read, write, flush;
    uint64_t in_flight;  /* requests taken and not answered, also by Python */
    uint64_t wakeups;    /* of the leader */
    uint64_t batches;    /* runs of requests from one queue */
    uint64_t interrupts; /* signals to the driver */
    uint64_t helped;     /* requests that helpers carried out */
    uint64_t handed;     /* requests that went to Python */
};

struct pv_disk {
    /* Set before pv_disk_open. */
    char name[12]; /* its threads are called pv-<name> */
    int fd;
    int attention; /* eventfd: pv_disk_take or `broken` has something for Python */
    int read_only;
    uint64_t poll; /* nanoseconds to look at the rings after the last request; at most */
    uint64_t iops; /* the most requests and bytes a second; 0 for no limit */
    uint64_t bps;
    uint32_t queue_count;
    struct pv_disk_queue *queues;

    /* May change while it runs. */
    uint64_t size; /* bytes */
    int writeback; /* if not, a write is on stable storage before it completes */

    uint64_t iops_due, bps_due; /* C's own: when the limits allow the next request */
    struct pv_queue *broken;    /* here the driver broke a rule; nothing more is served */
    struct pv_disk_counters counters;
    struct pv_disk_threads *threads; /* C's own */
};

/* Make the threads, which serve nothing yet; 0 or -errno. */
int pv_disk_open(struct pv_disk *disk);

/* Serve the queues from where they are. */
void pv_disk_start(struct pv_disk *disk);

/* Carry out what has been taken from the queues, then leave them and the guest's memory alone; what
 * is Python's to answer stays so. Returns when that is done. */
void pv_disk_stop(struct pv_disk *disk);

/* The same, but drop what no thread has begun to carry out; then end the threads. */
void pv_disk_close(struct pv_disk *disk);

/* Count a request of `length` bytes that comes at `now` against the limits: when they allow it.
 * Nanoseconds of one clock. C's own. */
uint64_t pv_disk_charge(struct pv_disk *disk, uint64_t length, uint64_t now);

/* The next request that is Python's to answer: the index in `queues` of its queue, with `chain`
 * filled, or -1 if there is none. `failed` is 0, or the errno of a flush that has failed: it must
 * not be tried again, for the kernel tells of lost writes only once. */
int pv_disk_take(struct pv_disk *disk, struct pv_chain *chain, int *failed);

/* Answer a request that pv_disk_take gave; show all that is answered, 1 if the driver wants an
 * interrupt for it. */
void pv_disk_push(struct pv_disk *disk, uint32_t queue, uint16_t head, uint16_t count,
                  uint32_t written);
int pv_disk_publish(struct pv_disk *disk, uint32_t queue);
