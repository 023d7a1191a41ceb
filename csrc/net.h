/*
 * Pairs of a network device's queues served in C: by a thread on a tap here, by calls in user.h.
 * Read by the C compiler and, as it stands, by cffi, after ring.h: so it has no preprocessor lines.
 */

/* One queue of the pair; Python sets all but the last. */
struct pv_net_queue {
    struct pv_queue *ring; /* opened; NULL if the driver does not use it */
    int doorbell;
    int call;
    int looking; /* C's own: it may hold something that has not been seen */
};

/* What was done since it was made, in frames and bytes without headers; Python only reads it. */
struct pv_net_counters {
    uint64_t rx_frames, rx_bytes;
    uint64_t rx_dropped; /* the driver could not be given it: too long, or no link */
    uint64_t tx_frames, tx_bytes;
    uint64_t tx_dropped; /* the host did not take it */
    uint64_t tx_invalid; /* too short, too long, or with a header that makes no sense */
    uint64_t wakeups;
    uint64_t batches;
    uint64_t interrupts;
};

/* A pair of queues and those who move its frames, in a thread or a call: what is the same for all.
 */
struct pv_pair {
    /* Set before it is used. */
    int attention; /* eventfd: `broken` is set, or what else its mover has to say */
    int mergeable; /* negotiated: VIRTIO_NET_F_MRG_RXBUF */
    struct pv_net_queue receive, transmit;
    struct pv_tracer *tracer; /* NULL if nobody traces; may change any time */

    struct pv_queue *broken; /* here the driver broke a rule; nothing more is served */
    struct pv_net_counters counters;
};

/* A pair served by a thread, on a tap or any descriptor that reads and writes one frame at a time,
 * each with a virtio_net_hdr first. */
struct pv_net {
    /* Set before pv_net_open. */
    struct pv_pair *pair;
    char name[12];    /* its thread is called pv-<name> */
    int fd;           /* non-blocking */
    int checksums;    /* negotiated: VIRTIO_NET_F_GUEST_CSUM */
    uint32_t largest; /* bytes of a frame that may come, with its header */

    int gone;                     /* the descriptor can no longer be read: nothing is received */
    struct pv_net_thread *thread; /* C's own */
};

/* Make the thread, which serves nothing yet; 0 or -errno. */
int pv_net_open(struct pv_net *net);

/* Serve the queues from where they are. */
void pv_net_start(struct pv_net *net);

/* Leave the queues and the guest's memory alone. Returns when that is so. */
void pv_net_stop(struct pv_net *net);

/* The same for ever; ends the thread. */
void pv_net_close(struct pv_net *net);
