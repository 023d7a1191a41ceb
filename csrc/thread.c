#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>

#include "thread.h"

enum { STACK = 128 << 10 }; /* bytes */

int pv_start_thread(pthread_t *thread, const char *name, void *(*run)(void *), void *argument)
{
    char whole[16]; /* prctl(2), PR_SET_NAME */
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error)
        return error;
    pthread_attr_setstacksize(&attributes, STACK);
    error = pthread_create(thread, &attributes, run, argument);
    pthread_attr_destroy(&attributes);
    if (!error) {
        snprintf(whole, sizeof(whole), "pv-%s", name);
        pthread_setname_np(*thread, whole);
    }
    return error;
}

int pv_watch(int epoll, int fd, void *what)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = what};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? errno : 0;
}
