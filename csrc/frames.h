/* What net.c, user.c and their fuzz target share: the frames of one pair of queues. */

#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <stdint.h>
#include <sys/uio.h>

#include "trace.h"
#include "ring.h"
#include "net.h"

enum { RECEIVE, TRANSMIT }; /* the queues' places, for who traces */

enum pv_frame_limits {
    FRAME_HEADER = sizeof(struct virtio_net_hdr_mrg_rxbuf),
    FRAME_MIN = FRAME_HEADER + ETHER_HDR_LEN,
    FRAME_MAX = 12 + 18 + 65536, /* header, Ethernet header with a tag, GSO_LEGACY_MAX_SIZE */
};

/* A receive buffer of the driver's that is popped and not used yet. */
struct held {
    uint16_t head, count;
    uint32_t buffers; /* how many of `buffers` below are its */
    uint64_t length;
};

struct frames {
    struct pv_chain chain;
    struct held held[PV_QUEUE_MAX];
    struct iovec buffers[2 * PV_QUEUE_MAX];
    uint32_t held_count, buffer_count, descriptors; /* of all that is held */
    uint64_t room;
    uint64_t length;          /* of a frame that was read and waits for more buffers, or 0 */
    uint64_t placed;          /* how much of it is in the buffers; the rest is in `spill` */
    uint8_t spill[FRAME_MAX]; /* what the buffers had no room for */
};

enum received {
    TAKEN, /* a frame is dealt with */
    NONE,  /* there is none */
    FULL,  /* the driver has no room, now */
    BROKEN,
    GONE, /* the descriptor fails */
};

/* Read a frame from the descriptor into the driver's buffers; the used ones are pushed. */
enum received pv_receive(struct pv_net *net, struct frames *frames);

/* Copy a whole frame, of `length` bytes without a header, there: TAKEN, FULL or BROKEN. */
enum received pv_give(struct pv_pair *pair, struct frames *frames, const void *frame,
                      uint64_t length);

/* Write the frame of a chain that was popped to the descriptor; how many bytes that were. */
uint64_t pv_send(struct pv_net *net, const struct pv_chain *chain);

/* Show the driver what is done. */
void pv_show(struct pv_pair *pair, const struct pv_net_queue *queue);

/* The driver broke a rule of a queue's. */
void pv_fail(struct pv_pair *pair, struct pv_queue *queue);

/* Something has passed a trace point, at RECEIVE or TRANSMIT. */
void pv_pass(const struct pv_pair *pair, enum pv_point point, int place, uint64_t size);
