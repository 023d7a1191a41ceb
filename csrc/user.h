/*
 * User networking: a pair of a network device's queues, and libslirp at their other end. It has no
 * thread: whoever calls it is libslirp's only one. Read by the C compiler and, as it stands, by
 * cffi, after net.h: so it has no preprocessor lines.
 */

struct pv_user {
    /* Set before pv_user_turn. The functions are libslirp's, as <slirp/libslirp.h> has them. */
    void *slirp;
    void (*input)(void *slirp, const uint8_t *frame, int length);
    void (*fill)(void *slirp, uint32_t *timeout, int (*add)(int, int, void *), void *opaque);
    void (*poll)(void *slirp, int failed, int (*ready)(int, void *), void *opaque);
    int epoll;         /* has its sockets, while it waits for them */
    uint32_t kept_max; /* bytes of frames that wait for room; what is more is dropped */

    /* Set while pv_user_turn does not run. */
    int up;                          /* there is a link: else every frame is dropped */
    int running;                     /* the guest's memory may be touched: else frames wait */
    uint32_t from_driver, to_driver; /* most bytes of a frame without its header */

    struct pv_pair *pair;   /* as attached; NULL: the device has no driver */
    uint32_t timeout;       /* milliseconds until pv_user_turn is due again, at most */
    uint32_t kept;          /* bytes of frames that wait for room; the sockets wait meanwhile */
    uint64_t dropped;       /* frames that came while there was no driver */
    uint8_t bad_header[12]; /* of the last frame that was invalid, as far as it goes */
    uint64_t bad_length;    /* that frame's, with its header */
    struct pv_user_state *state; /* C's own */
};

/* Both before and after all else; 0 or -errno. To close twice does no harm. */
int pv_user_open(struct pv_user *user);
void pv_user_close(struct pv_user *user);

/* Serve a pair from where it is, or none. */
void pv_user_attach(struct pv_user *user, struct pv_pair *pair);

/* Move what there is both ways, see to the sockets and find out which are to be waited for. It is
 * due when a doorbell rings, one of them is ready, `timeout` has passed, and after any change. */
void pv_user_turn(struct pv_user *user);

/* For libslirp's callbacks; `opaque` is the struct pv_user. */
ssize_t pv_user_take(const void *frame, size_t length, void *opaque);
int64_t pv_user_clock(void *opaque);
void pv_user_forget(int fd, void *opaque);
void pv_user_notify(void *opaque);
