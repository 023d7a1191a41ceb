/*
 * A disk's threads.
 *
 * The leader waits for the doorbells and takes requests from the rings. What does not block it
 * carries out itself; for what does there are helpers, made when they are first needed. What C does
 * not understand, and what fails, goes to Python as it came.
 *
 * Facts about locking. One lock guards the rings, the lists of requests and the counts; it is never
 * held across I/O. When the leader is parked, `running` is zero and `todo` empty, no thread here
 * touches the guest's memory. Requests are never allocated: ring.c lets no queue have more in
 * flight than it has entries, and there is one for each of those.
 *
 * Facts about doorbells. The leader's epoll set is edge-triggered: a signal that comes after one
 * epoll_wait is reported by the next, whether or not anybody reads the eventfd. So nobody does.
 */
#define _GNU_SOURCE
#include <linux/virtio_blk.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

#include "disk.h"

enum {
    BATCH = 64,         /* requests taken before the other queues have their turn */
    SHOWN = 64 << 10,   /* bytes moved before what is done is shown: the driver works meanwhile */
    EVENTS = 16,        /* doorbells learnt of at once */
    COMPANY = 64,       /* for how many requests the leader remembers that others came meanwhile */
    SECOND = 1000000000 /* nanoseconds */
};

/* Why a queue is looked at. */
enum { LOOKING = 1, RUNG };

static const uint64_t POLL_FIRST = 4000; /* nanoseconds: where the time of polling starts to grow */

/* ---- tracing; with the lock held, so that the ring is one thread's at a time ---- */

static void trace(const struct pv_disk *disk, const struct pv_record *record)
{
    struct pv_tracer *tracer = __atomic_load_n(&disk->tracer, __ATOMIC_ACQUIRE);
    if (tracer)
        pv_trace(tracer, record);
}

static void trace_queue(const struct pv_disk *disk, const struct pv_disk_queue *queue,
                        enum pv_point point)
{
    if (disk->tracer)
        trace(disk, &(struct pv_record){
                        .time = pv_now(),
                        .number = (uint16_t)(queue - disk->queues),
                        .point = (uint8_t)point,
                    });
}

/* A step of a request; only if somebody traced when it was taken. */
static void trace_request(const struct pv_disk *disk, const struct request *request,
                          enum pv_step step)
{
    const struct operation *op = &request->op;
    if (request->traced)
        trace(disk, &(struct pv_record){
                        .time = step == PV_STEP_BEGIN ? request->taken : pv_now(),
                        .words = {op->offset, op->type, request->chain.head},
                        .size = (uint32_t)op->length,
                        .number = (uint16_t)(request->queue - disk->queues),
                        .point = PV_POINT_REQUEST_BLOCK,
                        .what = (uint8_t)step,
                    });
}

/* ---- answers; with the lock held ---- */

static void answer(struct pv_disk *disk, struct request *request, uint64_t at)
{
    const struct operation *op = &request->op;
    struct pv_disk_counters *counters = &disk->counters;
    struct pv_disk_operations *done = &counters->flush;
    uint32_t written = 1; /* the status byte */

    *op->status = VIRTIO_BLK_S_OK;
    trace_request(disk, request, PV_STEP_END);
    if (op->type == VIRTIO_BLK_T_IN) {
        written += (uint32_t)op->length;
        done = &counters->read;
    } else if (op->type == VIRTIO_BLK_T_OUT) {
        done = &counters->write;
    }
    done->operations++;
    done->bytes += op->length;
    done->nanoseconds += at - request->taken;
    counters->in_flight--;
    pv_queue_push(request->queue->ring, request->chain.head, request->chain.count, written);
    pv_put_back(disk->threads, request);
}

static void hand_over(struct pv_disk *disk, struct request *request)
{
    trace_request(disk, request, PV_STEP_HANDED);
    pv_append(&disk->threads->handed, request);
    disk->counters.handed++;
    eventfd_write(disk->attention, 1);
}

/* A request was carried out, or could not be. */
static void settle(struct pv_disk *disk, struct request *request, enum outcome outcome, uint64_t at)
{
    if (outcome == DONE)
        answer(disk, request, at);
    else
        hand_over(disk, request);
}

/* Show the driver what is answered. */
static void show(struct pv_disk *disk, struct pv_disk_queue *queue)
{
    if (pv_queue_publish(queue->ring)) {
        disk->counters.interrupts++;
        trace_queue(disk, queue, PV_POINT_QUEUE_INTERRUPT);
        eventfd_write(queue->call, 1);
    }
}

static void fail(struct pv_disk *disk, struct pv_queue *queue)
{
    __atomic_store_n(&disk->broken, queue, __ATOMIC_RELEASE);
    eventfd_write(disk->attention, 1);
}

/* ---- threads ---- */

/* Carry out a request that may block; called and left with the lock held. */
static void wait_for(struct pv_disk *disk, struct request *request)
{
    struct pv_disk_threads *threads = disk->threads;
    struct pv_disk_queue *queue = request->queue;
    enum outcome outcome;
    uint64_t at;

    pthread_mutex_unlock(&threads->lock);
    outcome = pv_carry_out(disk, request, 1);
    at = pv_now();
    pthread_mutex_lock(&threads->lock);
    settle(disk, request, outcome, at);
    show(disk, queue);
}

static void *help(void *argument)
{
    struct pv_disk *disk = argument;
    struct pv_disk_threads *threads = disk->threads;
    struct request *request;

    pthread_mutex_lock(&threads->lock);
    for (;;) {
        while (!threads->todo.first && threads->state != ENDED) {
            threads->idle++;
            pthread_cond_wait(&threads->work, &threads->lock);
            threads->idle--;
        }
        request = pv_take(&threads->todo);
        if (!request)
            break;
        threads->waiting--;
        threads->running++;
        disk->counters.helped++;
        wait_for(disk, request);
        if (--threads->running == 0)
            pthread_cond_broadcast(&threads->changed);
    }
    pthread_mutex_unlock(&threads->lock);
    return NULL;
}

/* Leave a request to the helpers. */
static void ask_for_help(struct pv_disk *disk, struct request *request)
{
    struct pv_disk_threads *threads = disk->threads;
    uint32_t count = threads->helper_count;

    pv_append(&threads->todo, request);
    threads->waiting++;
    pthread_cond_signal(&threads->work);
    if (threads->waiting > threads->idle && count < PV_DISK_HELPERS &&
        pv_start_thread(&threads->helpers[count], disk->name, help, disk) == 0)
        threads->helper_count++;
    if (threads->helper_count == 0) { /* the host allows no more threads */
        threads->waiting--;
        wait_for(disk, pv_take(&threads->todo));
    }
}

/* ---- the leader ---- */

static int stopping(const struct pv_disk *disk)
{
    return __atomic_load_n(&disk->threads->state, __ATOMIC_ACQUIRE) != STARTED;
}

/* Wait for doorbells, `timeout` ms; how many rang. */
static int wait_for_doorbells(struct pv_disk *disk, int timeout)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(disk->threads->epoll, events, EVENTS, timeout);

    for (int i = 0; i < count; i++) {
        struct pv_disk_queue *queue = events[i].data.ptr;
        if (queue)
            queue->looking = RUNG;
    }
    return count;
}

/* Wait until the limits allow the operation. */
static void throttle(struct pv_disk *disk, const struct request *request)
{
    struct pv_disk_threads *threads = disk->threads;
    struct pollfd wake = {.fd = threads->wake, .events = POLLIN};
    uint64_t at = pv_now(), due = pv_disk_charge(disk, request->op.length, at);
    eventfd_t count;

    if (due > at) {
        pthread_mutex_lock(&threads->lock);
        show(disk, request->queue);
        pthread_mutex_unlock(&threads->lock);
    }
    for (; due > at && !stopping(disk); at = pv_now()) {
        struct timespec left = {.tv_sec = (time_t)((due - at) / SECOND),
                                .tv_nsec = (long)((due - at) % SECOND)};
        if (ppoll(&wake, 1, &left, NULL) > 0)
            eventfd_read(threads->wake, &count);
    }
}

/* One request would block, and only one: whether the leader may as well do it itself. Others may
 * come meanwhile; then it leaves the next ones to the helpers. */
static int alone(struct pv_disk *disk, struct pv_disk_queue *queue)
{
    struct pv_disk_threads *threads = disk->threads;

    if (threads->running || threads->todo.first)
        return 0;
    if (threads->company) {
        threads->company--;
        return 0;
    }
    if (pv_queue_allow(queue->ring) == 0)
        return 1;
    threads->company = COMPANY;
    return 0;
}

/* Take what one queue holds, up to BATCH; with the lock held. The last result of pv_queue_pop. */
static int take_batch(struct pv_disk *disk, struct pv_disk_queue *queue, struct list *blocked)
{
    struct pv_disk_threads *threads = disk->threads;
    struct request *request;
    enum outcome outcome;
    uint64_t bytes = 0, at = pv_now();
    int got = 1, understood, count;

    for (count = 0; count < BATCH; count++) {
        request = threads->unused;
        got = pv_queue_pop(queue->ring, &request->chain);
        if (got <= 0)
            break;
        threads->unused = request->next;
        disk->counters.in_flight++;
        pthread_mutex_unlock(&threads->lock);
        request->queue = queue;
        request->taken = at;
        request->failed = 0;
        request->traced = disk->tracer != NULL;
        understood = pv_understand(disk, request);
        if (disk->iops || disk->bps)
            throttle(disk, request);
        outcome = understood ? pv_carry_out(disk, request, 0) : FAILED;
        at = pv_now();
        pthread_mutex_lock(&threads->lock);
        if (!understood)
            request->traced = 0; /* Python tells of it */
        trace_request(disk, request, PV_STEP_BEGIN);
        if (outcome == BLOCKS)
            pv_append(blocked, request);
        else
            settle(disk, request, outcome, at);
        bytes += request->op.length;
        if (bytes >= SHOWN) {
            show(disk, queue);
            bytes = 0;
        }
    }
    disk->counters.batches += count > 0;
    if (count && disk->poll)
        threads->last = at;
    show(disk, queue);
    return got;
}

/* Whether to look at the rings again, having found nothing. */
static int polling(const struct pv_disk *disk)
{
    const struct pv_disk_threads *threads = disk->threads;
    return threads->window && pv_now() - threads->last < threads->window;
}

static void serve(struct pv_disk *disk, struct pv_disk_queue *queue)
{
    struct pv_disk_threads *threads = disk->threads;
    struct list blocked = {NULL, &blocked.first};
    struct request *request;
    int got;

    pthread_mutex_lock(&threads->lock);
    if (queue->looking == RUNG)
        trace_queue(disk, queue, PV_POINT_QUEUE_KICK);
    pv_queue_suppress(queue->ring);
    got = take_batch(disk, queue, &blocked);
    request = blocked.first;
    if (request && !request->next && alone(disk, queue)) {
        wait_for(disk, request);
        if (wait_for_doorbells(disk, 0) > 0)
            threads->company = COMPANY;
    } else {
        while ((request = pv_take(&blocked)))
            ask_for_help(disk, request);
    }
    if (got == 0 && !polling(disk))
        got = pv_queue_allow(queue->ring);
    else if (got == 0)
        got = 1;
    if (got < 0)
        fail(disk, queue->ring);
    queue->looking = got > 0 ? LOOKING : 0;
    pthread_mutex_unlock(&threads->lock);
}

/* Wait for the next doorbell, and learn from how long that took how long polling is worth while:
 * it is not where requests are further apart than disk->poll. */
static void sleep_until_rung(struct pv_disk *disk)
{
    struct pv_disk_threads *threads = disk->threads;
    uint64_t grown = threads->window ? 2 * threads->window : POLL_FIRST;

    wait_for_doorbells(disk, -1);
    disk->counters.wakeups++;
    if (!disk->poll)
        return;
    if (pv_now() - threads->last > disk->poll)
        threads->window = 0;
    else
        threads->window = grown < disk->poll ? grown : disk->poll;
}

/* Wait while the disk is stopped; 0 at its end. */
static int may_lead(struct pv_disk *disk)
{
    struct pv_disk_threads *threads = disk->threads;
    int started;

    if (!stopping(disk))
        return 1;
    pthread_mutex_lock(&threads->lock);
    threads->parked = 1;
    pthread_cond_broadcast(&threads->changed);
    while (threads->state == STOPPED)
        pthread_cond_wait(&threads->changed, &threads->lock);
    threads->parked = 0;
    started = threads->state == STARTED;
    for (uint32_t i = 0; i < disk->queue_count; i++)
        disk->queues[i].looking = LOOKING;
    pthread_mutex_unlock(&threads->lock);
    return started;
}

void *pv_lead(void *argument)
{
    struct pv_disk *disk = argument;

    while (may_lead(disk)) {
        int busy = 0;
        for (uint32_t i = 0; i < disk->queue_count && !disk->broken; i++) {
            if (disk->queues[i].looking)
                serve(disk, &disk->queues[i]);
            busy |= disk->queues[i].looking;
        }
        /* A throttled request may have taken the signal of somebody who stops the disk. */
        if ((busy && !disk->broken) || stopping(disk))
            wait_for_doorbells(disk, 0);
        else
            sleep_until_rung(disk);
    }
    return NULL;
}
