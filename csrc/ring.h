/*
 * Virtqueues in C: the same rules as pyvmm/virtio/split_queue.py and packed_queue.py, which are
 * tested against these. Read by the C compiler and, as it stands, by cffi, after native.h: so it
 * has no preprocessor lines.
 */

enum pv_ring_limits {
    PV_QUEUE_MAX = 1024, /* entries of a queue, and so buffers of a chain (VIRTIO 1.2 §2.7.5) */
};

/* What the driver did wrong, and what is in `fault` then; native_queue.py spells it out. */
enum pv_ring_error {
    PV_RING_OK,
    PV_RING_SIZE,     /* a queue size that is 0, too large, or for a split ring no power of two */
    PV_RING_AREA,     /* an area that is misaligned or not wholly in RAM */
    PV_RING_INDEX,    /* more chains available and in flight than the queue is long: the index */
    PV_RING_HEAD,     /* a descriptor outside its table: its index, how many the table has */
    PV_RING_LOOP,     /* a chain longer than the queue, as a loop is: the queue's size */
    PV_RING_TAKEN,    /* packed: a chain that goes on over descriptors that are in flight */
    PV_RING_BUFFER,   /* a buffer that is not wholly in RAM: its address and length */
    PV_RING_ORDER,    /* a readable buffer after a writable one */
    PV_RING_LENGTH,   /* a chain of more than 2^32 - 1 bytes */
    PV_RING_INDIRECT, /* an indirect table that was not negotiated, is nested, or not the last */
    PV_RING_TABLE,    /* one that is empty, longer than the queue or of an odd length: its length */
    PV_RING_OUTSIDE,  /* one that is not wholly in RAM: its address and length */
    PV_RING_ROOM,     /* a buffer for a frame that has no room for its header */
    PV_RING_ERRORS,
};

/* Guest RAM. `host` is where the region's first byte is mapped. */
struct pv_region {
    uint64_t base;
    uint64_t size;
    uint8_t *host;
};

struct pv_memory {
    uint32_t count;
    struct pv_region regions[2];
};

/* A buffer of a chain, in host memory; laid out as struct iovec. */
struct pv_buffer {
    uint8_t *base;
    uint64_t length;
};

/* One request: `readable` buffers first, then `writable` ones. */
struct pv_chain {
    uint16_t head;     /* names it to the queue: the first descriptor's index, packed: buffer id */
    uint16_t count;    /* descriptors that it takes of the ring itself */
    uint32_t readable; /* how many buffers the device may read */
    uint32_t writable; /* how many it may write */
    struct pv_buffer buffers[1024]; /* PV_QUEUE_MAX */
};

/* The device's side of one queue, for one thread at a time. The caller sets the first part. */
struct pv_queue {
    struct pv_memory memory;
    uint64_t descriptor_area; /* guest-physical, as are the next two */
    uint64_t driver_area;
    uint64_t device_area;
    uint16_t size;
    uint8_t packed;    /* negotiated: VIRTIO_F_RING_PACKED */
    uint8_t event_idx; /* negotiated: VIRTIO_F_EVENT_IDX */
    uint8_t indirect;  /* negotiated: VIRTIO_F_INDIRECT_DESC */

    uint16_t next_avail; /* split: index of the next available entry; packed: position */
    uint16_t next_used;
    uint8_t avail_wrap; /* packed: the wrap counters */
    uint8_t used_wrap;
    uint16_t in_flight; /* popped and not pushed: split: chains, packed: descriptors */
    uint16_t pushed;    /* pushed and not published, likewise */
    uint16_t first;     /* packed: where the first unpublished one is, and its flags, held back */
    uint16_t first_flags;

    uint64_t fault[2]; /* what belongs to `error` */
    int error;         /* the last enum pv_ring_error that a function returned */

    uint8_t *descriptors; /* the three areas in host memory, after pv_queue_open */
    uint8_t *driver;
    uint8_t *device;
};

/* Check the areas and start at the beginning of the ring: 0, or -enum pv_ring_error. */
int pv_queue_open(struct pv_queue *queue);

/* The next available chain: 1 with `chain` filled, 0 if there is none, or -enum pv_ring_error. */
int pv_queue_pop(struct pv_queue *queue, struct pv_chain *chain);

/* Give a chain back with the number of bytes written to it; pv_queue_publish shows it. */
void pv_queue_push(struct pv_queue *queue, uint16_t head, uint16_t count, uint32_t written);

/* Show the driver all that was pushed; 1 if it wants an interrupt for it, 0 if not. */
int pv_queue_publish(struct pv_queue *queue);

/* Tell the driver that it need not ring, and to ring again: 1 if something has become available
 * meanwhile, 0 if not, or -enum pv_ring_error. */
void pv_queue_suppress(struct pv_queue *queue);
int pv_queue_allow(struct pv_queue *queue);
