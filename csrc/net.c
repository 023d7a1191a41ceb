/*
 * The thread of one pair of a network device's queues: it waits for doorbells and for frames, and
 * moves what there is in batches. While it is parked it touches nothing of the guest's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "frames.h"
#include "thread.h"
#include "trace.h"

enum { RECEIVE, TRANSMIT }; /* the queues' places in the thread */

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

static void trace(const struct pv_net *net, enum pv_point point, int place, uint64_t size)
{
    struct pv_tracer *tracer = __atomic_load_n(&net->tracer, __ATOMIC_ACQUIRE);
    if (tracer)
        pv_trace(tracer, &(struct pv_record){
                             .time = pv_now(),
                             .size = (uint32_t)size,
                             .number = (uint16_t)place,
                             .point = (uint8_t)point,
                         });
}

static void fail(struct pv_net *net, struct pv_queue *queue)
{
    __atomic_store_n(&net->broken, queue, __ATOMIC_RELEASE);
    eventfd_write(net->attention, 1);
}

/* Show the driver what is done. */
static void show(struct pv_net *net, const struct pv_net_queue *queue)
{
    if (pv_queue_publish(queue->ring)) {
        net->counters.interrupts++;
        trace(net, PV_POINT_QUEUE_INTERRUPT, queue == &net->transmit ? TRANSMIT : RECEIVE, 0);
        eventfd_write(queue->call, 1);
    }
}

/* Have the driver ring for what it adds from now on, unless it has added something already. */
static void wait_for_driver(struct pv_net *net, struct pv_net_queue *queue)
{
    int got = pv_queue_allow(queue->ring);

    if (got < 0)
        fail(net, queue->ring);
    queue->looking = got > 0;
}

static void transmit(struct pv_net *net)
{
    struct pv_net_queue *queue = &net->transmit;
    struct pv_chain *chain = &net->thread->frames.chain;
    uint64_t bytes = 0, sent;
    int got = 1, count;

    pv_queue_suppress(queue->ring);
    for (count = 0; count < BATCH; count++) {
        got = pv_queue_pop(queue->ring, chain);
        if (got <= 0)
            break;
        sent = net->counters.tx_bytes;
        bytes += pv_send(net, chain);
        if (net->counters.tx_bytes != sent)
            trace(net, PV_POINT_REQUEST_NET, TRANSMIT, net->counters.tx_bytes - sent);
        pv_queue_push(queue->ring, chain->head, chain->count, 0);
        if (bytes >= SHOWN) {
            show(net, queue);
            bytes = 0;
        }
    }
    net->counters.batches += count > 0;
    show(net, queue);
    if (got == 0)
        wait_for_driver(net, queue);
    else if (got < 0)
        fail(net, queue->ring);
}

static void receive(struct pv_net *net)
{
    struct pv_net_queue *queue = &net->receive;
    struct pv_net_thread *thread = net->thread;
    uint64_t shown = net->counters.rx_bytes, taken;
    enum received outcome = TAKEN;
    int count;

    pv_queue_suppress(queue->ring);
    for (count = 0; count < BATCH && outcome == TAKEN; count++) {
        taken = net->counters.rx_bytes;
        outcome = pv_receive(net, &thread->frames);
        if (net->counters.rx_bytes != taken)
            trace(net, PV_POINT_REQUEST_NET, RECEIVE, net->counters.rx_bytes - taken);
        if (count == 0 || net->counters.rx_bytes - shown >= SHOWN) {
            show(net, queue);
            shown = net->counters.rx_bytes;
        }
    }
    net->counters.batches += count > 1;
    show(net, queue);
    switch (outcome) {
    case TAKEN:
        break;
    case NONE:
        thread->readable = 0;
        break;
    case FULL:
        wait_for_driver(net, queue);
        break;
    case BROKEN:
        fail(net, queue->ring);
        break;
    case GONE:
        thread->readable = 0;
        net->gone = 1;
        eventfd_write(net->attention, 1);
    }
}

/* Whether there is something to receive, as far as is known, and room for it. */
static int receiving(const struct pv_net *net)
{
    const struct pv_net_thread *thread = net->thread;
    return net->receive.looking && (thread->readable || thread->frames.length);
}

static void wait_for_events(struct pv_net *net, int timeout)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(net->thread->epoll, events, EVENTS, timeout);

    for (int i = 0; i < count; i++) {
        int *flag = events[i].data.ptr;
        if (flag)
            *flag = 1;
        if (flag == &net->receive.looking || flag == &net->transmit.looking)
            trace(net, PV_POINT_QUEUE_KICK, flag == &net->transmit.looking ? TRANSMIT : RECEIVE, 0);
    }
    net->counters.wakeups += timeout != 0;
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
    net->receive.looking = net->receive.ring != NULL;
    net->transmit.looking = net->transmit.ring != NULL;
    thread->readable = 1;
    pthread_mutex_unlock(&thread->lock);
    return started;
}

static void *run(void *argument)
{
    struct pv_net *net = argument;

    while (may_run(net)) {
        if (!net->broken && net->transmit.looking)
            transmit(net);
        if (!net->broken && receiving(net))
            receive(net);
        wait_for_events(net, !net->broken && (net->transmit.looking || receiving(net)) ? 0 : -1);
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
    struct pv_net_queue *queues[] = {&net->receive, &net->transmit};
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
    sigset_t all, before;
    int error;

    if (!thread)
        return -ENOMEM;
    net->thread = thread;
    pthread_mutex_init(&thread->lock, NULL);
    pthread_cond_init(&thread->changed, NULL);
    sigfillset(&all); /* the thread inherits it: signals are for Python */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = prepare(net, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
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
