/*
 * The thread of one pair of a network device's queues: it waits for doorbells and for frames, and
 * moves what there is in batches. While it is parked it touches nothing of the guest's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "frames.h"
#include "thread.h"

enum {
    BATCH = 64,       /* frames one way before the other has its turn */
    SHOWN = 64 << 10, /* bytes moved before what is done is shown: the driver works meanwhile */
    EVENTS = 4,       /* learnt of at once */
};

struct pv_net_thread {
    pthread_t thread;
    pthread_mutex_t lock; /* of `state` and `parked` */
    pthread_cond_t changed;
    enum state state;
    int parked;
    int epoll, wake;

    /* The thread's own. */
    int readable; /* there may be a frame to receive */
    struct frames frames;
};

/* Have the driver ring for what it adds from now on, unless it has added something already. */
static void wait_for_driver(struct pv_pair *pair, struct pv_net_queue *queue)
{
    int got = pv_queue_allow(queue->ring);

    if (got < 0)
        pv_fail(pair, queue->ring);
    queue->looking = got > 0;
}

static void transmit(struct pv_net *net)
{
    struct pv_pair *pair = net->pair;
    struct pv_net_queue *queue = &pair->transmit;
    struct pv_chain *chain = &net->thread->frames.chain;
    uint64_t bytes = 0, sent;
    int got = 1, count;

    pv_queue_suppress(queue->ring);
    for (count = 0; count < BATCH; count++) {
        got = pv_queue_pop(queue->ring, chain);
        if (got <= 0)
            break;
        sent = pair->counters.tx_bytes;
        bytes += pv_send(net, chain);
        if (pair->counters.tx_bytes != sent)
            pv_pass(pair, PV_POINT_REQUEST_NET, TRANSMIT, pair->counters.tx_bytes - sent);
        pv_queue_push(queue->ring, chain->head, chain->count, 0);
        if (bytes >= SHOWN) {
            pv_show(pair, queue);
            bytes = 0;
        }
    }
    pair->counters.batches += count > 0;
    pv_show(pair, queue);
    if (got == 0)
        wait_for_driver(pair, queue);
    else if (got < 0)
        pv_fail(pair, queue->ring);
}

static void receive(struct pv_net *net)
{
    struct pv_pair *pair = net->pair;
    struct pv_net_queue *queue = &pair->receive;
    struct pv_net_thread *thread = net->thread;
    uint64_t shown = pair->counters.rx_bytes, taken;
    enum received outcome = TAKEN;
    int count;

    pv_queue_suppress(queue->ring);
    for (count = 0; count < BATCH && outcome == TAKEN; count++) {
        taken = pair->counters.rx_bytes;
        outcome = pv_receive(net, &thread->frames);
        if (pair->counters.rx_bytes != taken)
            pv_pass(pair, PV_POINT_REQUEST_NET, RECEIVE, pair->counters.rx_bytes - taken);
        if (count == 0 || pair->counters.rx_bytes - shown >= SHOWN) {
            pv_show(pair, queue);
            shown = pair->counters.rx_bytes;
        }
    }
    pair->counters.batches += count > 1;
    pv_show(pair, queue);
    switch (outcome) {
    case TAKEN:
        break;
    case NONE:
        thread->readable = 0;
        break;
    case FULL:
        wait_for_driver(pair, queue);
        break;
    case BROKEN:
        pv_fail(pair, queue->ring);
        break;
    case GONE:
        thread->readable = 0;
        net->gone = 1;
        eventfd_write(pair->attention, 1);
    }
}

/* Whether there is something to receive, as far as is known, and room for it. */
static int receiving(const struct pv_net *net)
{
    const struct pv_net_thread *thread = net->thread;
    return net->pair->receive.looking && (thread->readable || thread->frames.length);
}

static void wait_for_events(struct pv_net *net, int timeout)
{
    struct pv_pair *pair = net->pair;
    struct epoll_event events[EVENTS];
    int count = epoll_wait(net->thread->epoll, events, EVENTS, timeout);

    for (int i = 0; i < count; i++) {
        int *flag = events[i].data.ptr;
        if (flag)
            *flag = 1;
        if (flag == &pair->receive.looking || flag == &pair->transmit.looking)
            pv_pass(pair, PV_POINT_QUEUE_KICK, flag == &pair->transmit.looking ? TRANSMIT : RECEIVE,
                    0);
    }
    pair->counters.wakeups += timeout != 0;
}

/* Wait while the device is stopped; 0 at its end. */
static int may_run(struct pv_net *net)
{
    struct pv_net_thread *thread = net->thread;
    int started;

    if (__atomic_load_n(&thread->state, __ATOMIC_ACQUIRE) == STARTED)
        return 1;
    pthread_mutex_lock(&thread->lock);
    thread->parked = 1;
    pthread_cond_broadcast(&thread->changed);
    while (thread->state == STOPPED)
        pthread_cond_wait(&thread->changed, &thread->lock);
    thread->parked = 0;
    started = thread->state == STARTED;
    net->pair->receive.looking = net->pair->receive.ring != NULL;
    net->pair->transmit.looking = net->pair->transmit.ring != NULL;
    thread->readable = 1;
    pthread_mutex_unlock(&thread->lock);
    return started;
}

static void *run(void *argument)
{
    struct pv_net *net = argument;
    struct pv_pair *pair = net->pair;

    while (may_run(net)) {
        if (!pair->broken && pair->transmit.looking)
            transmit(net);
        if (!pair->broken && receiving(net))
            receive(net);
        wait_for_events(net, !pair->broken && (pair->transmit.looking || receiving(net)) ? 0 : -1);
    }
    return NULL;
}

/* ---- what Python calls ---- */

static void release(struct pv_net *net)
{
    struct pv_net_thread *thread = net->thread;

    if (thread->wake >= 0)
        close(thread->wake);
    if (thread->epoll >= 0)
        close(thread->epoll);
    free(thread);
    net->thread = NULL;
}

/* What the thread needs, and the thread; 0 or an errno. */
static int prepare(struct pv_net *net, struct pv_net_thread *thread)
{
    struct pv_net_queue *queues[] = {&net->pair->receive, &net->pair->transmit};
    int error;

    thread->epoll = epoll_create1(EPOLL_CLOEXEC);
    thread->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (thread->epoll < 0 || thread->wake < 0)
        return errno;
    error = pv_watch(thread->epoll, thread->wake, NULL);
    if (!error)
        error = pv_watch(thread->epoll, net->fd, &thread->readable);
    for (int i = 0; i < 2 && !error; i++)
        if (queues[i]->ring)
            error = pv_watch(thread->epoll, queues[i]->doorbell, &queues[i]->looking);
    return error ? error : pv_start_thread(&thread->thread, net->name, run, net);
}

int pv_net_open(struct pv_net *net)
{
    struct pv_net_thread *thread = calloc(1, sizeof(*thread));
    int error;

    if (!thread)
        return -ENOMEM;
    net->thread = thread;
    pthread_mutex_init(&thread->lock, NULL);
    pthread_cond_init(&thread->changed, NULL);
    error = prepare(net, thread);
    if (error)
        release(net);
    return -error;
}

/* With the lock held. */
static void turn(struct pv_net_thread *thread, enum state state)
{
    __atomic_store_n(&thread->state, state, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&thread->changed);
    eventfd_write(thread->wake, 1);
}

void pv_net_start(struct pv_net *net)
{
    pthread_mutex_lock(&net->thread->lock);
    turn(net->thread, STARTED);
    pthread_mutex_unlock(&net->thread->lock);
}

void pv_net_stop(struct pv_net *net)
{
    struct pv_net_thread *thread = net->thread;

    pthread_mutex_lock(&thread->lock);
    turn(thread, STOPPED);
    while (!thread->parked)
        pthread_cond_wait(&thread->changed, &thread->lock);
    pthread_mutex_unlock(&thread->lock);
}

void pv_net_close(struct pv_net *net)
{
    pthread_mutex_lock(&net->thread->lock);
    turn(net->thread, ENDED);
    pthread_mutex_unlock(&net->thread->lock);
    pthread_join(net->thread->thread, NULL);
    release(net);
}
