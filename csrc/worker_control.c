/*
 * What Python calls: a disk's threads made, started, stopped and ended, and the requests that they
 * leave to it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "disk.h"

static void release(struct pv_disk *disk)
{
    struct pv_disk_threads *threads = disk->threads;

    if (threads->wake >= 0)
        close(threads->wake);
    if (threads->epoll >= 0)
        close(threads->epoll);
    free(threads->requests);
    free(threads);
    disk->threads = NULL;
}

/* What the threads need, and the leader; 0 or an errno. */
static int prepare(struct pv_disk *disk, struct pv_disk_threads *threads)
{
    size_t count = 1;
    int medium = pv_medium(disk->fd), error;

    if (medium < 0)
        return -medium;
    threads->medium = (enum medium)medium;
    threads->epoll = epoll_create1(EPOLL_CLOEXEC);
    threads->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (threads->epoll < 0 || threads->wake < 0)
        return errno;
    error = pv_watch(threads->epoll, threads->wake, NULL);
    for (uint32_t i = 0; i < disk->queue_count && !error; i++) {
        count += disk->queues[i].ring->size;
        disk->queues[i].looking = 1;
        error = pv_watch(threads->epoll, disk->queues[i].doorbell, &disk->queues[i]);
    }
    threads->requests = calloc(count, sizeof(struct request));
    if (!threads->requests)
        return ENOMEM;
    for (size_t i = 0; i < count; i++)
        pv_put_back(threads, &threads->requests[i]);
    return error ? error : pv_start_thread(&threads->leader, disk->name, pv_lead, disk);
}

int pv_disk_open(struct pv_disk *disk)
{
    struct pv_disk_threads *threads = calloc(1, sizeof(*threads));
    int error;

    if (!threads)
        return -ENOMEM;
    disk->threads = threads;
    threads->todo.last = &threads->todo.first;
    threads->handed.last = &threads->handed.first;
    pthread_mutex_init(&threads->lock, NULL);
    pthread_cond_init(&threads->work, NULL);
    pthread_cond_init(&threads->changed, NULL);
    error = prepare(disk, threads);
    if (error)
        release(disk);
    return -error;
}

static void turn(struct pv_disk *disk, enum state state)
{
    struct pv_disk_threads *threads = disk->threads;

    __atomic_store_n(&threads->state, state, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&threads->changed);
    pthread_cond_broadcast(&threads->work);
    eventfd_write(threads->wake, 1);
}

void pv_disk_start(struct pv_disk *disk)
{
    pthread_mutex_lock(&disk->threads->lock);
    turn(disk, STARTED);
    pthread_mutex_unlock(&disk->threads->lock);
}

void pv_disk_stop(struct pv_disk *disk)
{
    struct pv_disk_threads *threads = disk->threads;

    pthread_mutex_lock(&threads->lock);
    turn(disk, STOPPED);
    while (!threads->parked || threads->running || threads->todo.first)
        pthread_cond_wait(&threads->changed, &threads->lock);
    pthread_mutex_unlock(&threads->lock);
}

void pv_disk_close(struct pv_disk *disk)
{
    struct pv_disk_threads *threads = disk->threads;

    pthread_mutex_lock(&threads->lock);
    while (pv_take(&threads->todo))
        ;
    threads->waiting = 0;
    turn(disk, ENDED);
    pthread_mutex_unlock(&threads->lock);
    pthread_join(threads->leader, NULL);
    for (uint32_t i = 0; i < threads->helper_count; i++)
        pthread_join(threads->helpers[i], NULL);
    release(disk);
}

int pv_disk_take(struct pv_disk *disk, struct pv_chain *chain, int *failed)
{
    struct pv_disk_threads *threads = disk->threads;
    struct request *request;
    int queue = -1;

    pthread_mutex_lock(&threads->lock);
    request = pv_take(&threads->handed);
    if (request) {
        *chain = request->chain;
        *failed = request->failed;
        queue = (int)(request->queue - disk->queues);
        pv_put_back(threads, request);
    }
    pthread_mutex_unlock(&threads->lock);
    return queue;
}

void pv_disk_push(struct pv_disk *disk, uint32_t queue, uint16_t head, uint16_t count,
                  uint32_t written)
{
    pthread_mutex_lock(&disk->threads->lock);
    pv_queue_push(disk->queues[queue].ring, head, count, written);
    disk->counters.in_flight--;
    pthread_mutex_unlock(&disk->threads->lock);
}

int pv_disk_publish(struct pv_disk *disk, uint32_t queue)
{
    int wanted;

    pthread_mutex_lock(&disk->threads->lock);
    wanted = pv_queue_publish(disk->queues[queue].ring);
    pthread_mutex_unlock(&disk->threads->lock);
    return wanted;
}
