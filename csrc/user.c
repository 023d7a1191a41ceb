/*
 * libslirp as a network device's peer. A frame of the driver's is handed to it where it is, or is
 * gathered if it is in several buffers; a frame of its own goes straight into the driver's buffers,
 * also while it is being handed one. What finds no room there is kept, and while anything is kept
 * the sockets are left alone: so little comes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "frames.h"
#include "user.h"

enum {
    BATCH = 64,       /* frames of the driver's before the sockets have their turn */
    SHOWN = 32 << 10, /* bytes moved before what is done is shown: the driver works meanwhile */
    EVENTS = 64,      /* ready sockets that are seen to in one turn */
    SOCKETS = 64,     /* the table of sockets grows by as many */
    POLL_OUT = 2,     /* <slirp/libslirp.h>; these two are the other way round in epoll */
    POLL_PRI = 4,
    TIMEOUT_NONE = -1,
};

_Static_assert((int)POLL_OUT == (int)EPOLLPRI && (int)POLL_PRI == (int)EPOLLOUT, "swapped");

/* A frame that waits for room. */
struct kept {
    struct kept *next;
    uint32_t length;
    uint8_t frame[];
};

/* By SLIRP_POLL_ flags, of a descriptor. */
struct socket {
    uint8_t wanted, watched, ready;
};

struct pv_user_state {
    struct frames frames;
    struct pv_chain chain; /* one that is being sent: `frames` has its own, used meanwhile */
    uint8_t gathered[FRAME_MAX];
    uint64_t unshown; /* bytes in receive buffers that the driver was not shown yet */
    struct kept *kept, **last;
    struct socket *sockets; /* by descriptor */
    int socket_count;
};

/* ---- to the guest ---- */

/* Have the driver ring for what it adds to a queue, or look again if it has added something. */
static void wait_for_driver(struct pv_pair *pair, const struct pv_net_queue *queue)
{
    int got = pv_queue_allow(queue->ring);

    if (got < 0)
        pv_fail(pair, queue->ring);
    else if (got > 0)
        eventfd_write(queue->doorbell, 1);
}

/* Give the driver a frame, or drop it; 0 if it has to wait. */
static int give(struct pv_user *user, const void *frame, uint64_t length)
{
    struct pv_user_state *state = user->state;
    struct pv_pair *pair = user->pair;
    enum received outcome;
    uint64_t before;

    if (!pair) {
        user->dropped++;
        return 1;
    }
    if (!user->running)
        return 0;
    if (!user->up || !pair->receive.ring || pair->broken || length > user->to_driver) {
        pair->counters.rx_dropped++;
        return 1;
    }
    before = pair->counters.rx_bytes;
    outcome = pv_give(pair, &state->frames, frame, length);
    if (outcome == FULL) {
        wait_for_driver(pair, &pair->receive);
        return 0;
    }
    if (outcome == BROKEN)
        pv_fail(pair, pair->receive.ring);
    if (pair->counters.rx_bytes != before)
        pv_pass(pair, PV_POINT_REQUEST_NET, RECEIVE, length);
    state->unshown += pair->counters.rx_bytes - before;
    if (state->unshown >= SHOWN) {
        state->unshown = 0;
        pv_show(pair, &pair->receive);
    }
    return 1;
}

static void keep(struct pv_user *user, const void *frame, uint32_t length)
{
    struct pv_user_state *state = user->state;
    struct kept *kept = NULL;

    if (length <= user->kept_max - user->kept)
        kept = malloc(sizeof(*kept) + length);
    if (!kept)
        return; /* TCP sends it again */
    kept->next = NULL;
    kept->length = length;
    memcpy(kept->frame, frame, length);
    *state->last = kept;
    state->last = &kept->next;
    user->kept += length;
}

static void drop_first(struct pv_user *user)
{
    struct pv_user_state *state = user->state;
    struct kept *first = state->kept;

    state->kept = first->next;
    if (!state->kept)
        state->last = &state->kept;
    user->kept -= first->length;
    free(first);
}

ssize_t pv_user_take(const void *frame, size_t length, void *opaque)
{
    struct pv_user *user = opaque;

    if (user->state->kept || !give(user, frame, length))
        keep(user, frame, (uint32_t)length);
    return (ssize_t)length;
}

/* ---- from the guest ---- */

/* `length` bytes of a chain from `offset` on: where they are if that is one buffer, else copied. */
static const uint8_t *gather(const struct pv_chain *chain, uint64_t offset, uint64_t length,
                             uint8_t *out)
{
    const struct pv_buffer *buffer = chain->buffers;

    for (; offset >= buffer->length; buffer++)
        offset -= buffer->length;
    if (length <= buffer->length - offset)
        return buffer->base + offset;
    for (uint64_t done = 0, part; done < length; done += part, buffer++, offset = 0) {
        part = buffer->length - offset;
        part = part < length - done ? part : length - done;
        memcpy(out + done, buffer->base + offset, part);
    }
    return out;
}

/* Whether a frame may be sent (§5.1.6.2), with its header: none of the offloads is negotiated. */
static int valid(const struct pv_user *user, const struct virtio_net_hdr *header, uint64_t length)
{
    return length >= FRAME_MIN && length <= FRAME_MAX &&
           length - FRAME_HEADER <= user->from_driver &&
           !(header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) &&
           header->gso_type == VIRTIO_NET_HDR_GSO_NONE;
}

/* Send the frame of `chain`; how many bytes that were. */
static uint64_t send(struct pv_user *user)
{
    struct pv_user_state *state = user->state;
    struct pv_chain *chain = &state->chain;
    struct pv_net_counters *counters = &user->pair->counters;
    uint8_t header[FRAME_HEADER] = {0};
    uint64_t length = 0, part;

    for (uint32_t i = 0; i < chain->readable; i++)
        length += chain->buffers[i].length;
    part = length < FRAME_HEADER ? length : FRAME_HEADER;
    if (part)
        memcpy(header, gather(chain, 0, part, state->gathered), part);
    if (!valid(user, (const struct virtio_net_hdr *)header, length)) {
        memcpy(user->bad_header, header, FRAME_HEADER);
        user->bad_length = length;
        counters->tx_invalid++;
        eventfd_write(user->pair->attention, 1);
    } else if (!user->up) {
        counters->tx_dropped++;
    } else {
        length -= FRAME_HEADER;
        user->input(user->slirp, gather(chain, FRAME_HEADER, length, state->gathered), (int)length);
        counters->tx_frames++;
        counters->tx_bytes += length;
        pv_pass(user->pair, PV_POINT_REQUEST_NET, TRANSMIT, length);
    }
    return length;
}

static void transmit(struct pv_user *user)
{
    struct pv_pair *pair = user->pair;
    struct pv_net_queue *queue = &pair->transmit;
    struct pv_chain *chain = &user->state->chain;
    uint64_t bytes = 0;
    int got = 1, count;

    pv_queue_suppress(queue->ring);
    for (count = 0; count < BATCH && !pair->broken; count++) {
        got = pv_queue_pop(queue->ring, chain);
        if (got <= 0)
            break;
        bytes += send(user);
        pv_queue_push(queue->ring, chain->head, chain->count, 0);
        if (bytes >= SHOWN) {
            pv_show(pair, queue);
            bytes = 0;
        }
    }
    pair->counters.batches += count > 0;
    if (got < 0)
        pv_fail(pair, queue->ring);
    else if (got == 0)
        wait_for_driver(pair, queue);
    else
        eventfd_write(queue->doorbell, 1);
}

/* ---- libslirp's sockets ---- */

/* A SLIRP_POLL_ flag as epoll's, and back. */
static uint32_t swap(uint32_t events)
{
    return (events & ~(uint32_t)(POLL_OUT | POLL_PRI)) | (events & POLL_OUT) << 1 |
           (events & POLL_PRI) >> 1;
}

/* Make room for a descriptor in the table; 0 if there is none. */
static int make_room(struct pv_user_state *state, int fd)
{
    int count = (fd / SOCKETS + 1) * SOCKETS;
    struct socket *sockets;

    if (fd < state->socket_count)
        return 1;
    sockets = realloc(state->sockets, (size_t)count * sizeof(*sockets));
    if (!sockets)
        return 0;
    memset(sockets + state->socket_count, 0,
           (size_t)(count - state->socket_count) * sizeof(*sockets));
    state->sockets = sockets;
    state->socket_count = count;
    return 1;
}

/* The result is by what `ready` is asked. */
static int want(int fd, int events, void *opaque)
{
    struct pv_user *user = opaque;

    if (!make_room(user->state, fd))
        return -1;
    user->state->sockets[fd].wanted = (uint8_t)events;
    return fd;
}

static int ready(int fd, void *opaque)
{
    struct pv_user *user = opaque;
    return user->state->sockets[fd].ready;
}

/* A socket is about to be closed, or is new and has the number of one that was. */
void pv_user_forget(int fd, void *opaque)
{
    struct pv_user *user = opaque;

    if (fd < 0 || fd >= user->state->socket_count)
        return;
    if (user->state->sockets[fd].watched)
        epoll_ctl(user->epoll, EPOLL_CTL_DEL, fd, NULL);
    user->state->sockets[fd] = (struct socket){0};
}

/* Tell libslirp which sockets are ready. */
static void serve_sockets(struct pv_user *user)
{
    struct socket *sockets = user->state->sockets;
    struct epoll_event events[EVENTS];
    int count = user->state->kept ? 0 : epoll_wait(user->epoll, events, EVENTS, 0);

    for (int i = 0; i < count; i++)
        sockets[events[i].data.fd].ready = (uint8_t)swap(events[i].events);
    user->poll(user->slirp, 0, ready, user);
    for (int i = 0; i < count; i++)
        sockets[events[i].data.fd].ready = 0;
}

/* Have the epoll wait for what libslirp waits for. */
static void watch_sockets(struct pv_user *user)
{
    struct pv_user_state *state = user->state;

    for (int fd = 0; fd < state->socket_count; fd++)
        state->sockets[fd].wanted = 0;
    user->timeout = (uint32_t)TIMEOUT_NONE;
    user->fill(user->slirp, &user->timeout, want, user);
    for (int fd = 0; fd < state->socket_count; fd++) {
        struct socket *socket = &state->sockets[fd];
        struct epoll_event event = {.events = swap(socket->wanted), .data.fd = fd};
        if (socket->wanted == socket->watched)
            continue;
        if (!socket->wanted)
            epoll_ctl(user->epoll, EPOLL_CTL_DEL, fd, NULL);
        else if (epoll_ctl(user->epoll, socket->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd,
                           &event))
            continue; /* the next turn tries again */
        socket->watched = socket->wanted;
    }
}

/* ---- what Python and libslirp call ---- */

void pv_user_turn(struct pv_user *user)
{
    struct pv_user_state *state = user->state;
    struct pv_pair *pair = user->running ? user->pair : NULL;

    if (pair && pair->receive.ring)
        pv_queue_suppress(pair->receive.ring);
    while (state->kept && give(user, state->kept->frame, state->kept->length))
        drop_first(user);
    if (pair && pair->transmit.ring && !pair->broken)
        transmit(user);
    serve_sockets(user);
    watch_sockets(user);
    state->unshown = 0;
    if (pair && pair->receive.ring)
        pv_show(pair, &pair->receive);
    if (pair && pair->transmit.ring)
        pv_show(pair, &pair->transmit);
}

void pv_user_attach(struct pv_user *user, struct pv_pair *pair)
{
    struct frames *frames = &user->state->frames;

    frames->held_count = frames->buffer_count = frames->descriptors = 0;
    frames->room = 0;
    user->pair = pair;
}

int pv_user_open(struct pv_user *user)
{
    user->state = calloc(1, sizeof(*user->state));
    if (!user->state)
        return -ENOMEM;
    user->state->last = &user->state->kept;
    return 0;
}

void pv_user_close(struct pv_user *user)
{
    if (!user->state)
        return;
    while (user->state->kept)
        drop_first(user);
    free(user->state->sockets);
    free(user->state);
    user->state = NULL;
}

int64_t pv_user_clock(void *opaque)
{
    (void)opaque;
    return (int64_t)pv_now();
}

/* Whatever it is about, a turn follows. */
void pv_user_notify(void *opaque)
{
    (void)opaque;
}
