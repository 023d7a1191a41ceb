#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>

#include "thread.h"

enum { STACK = 128 << 10 }; /* bytes */

void pv_signals_for_others(sigset_t *set)
{
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

    sigfillset(set);
    for (unsigned at = 0; at < sizeof(own) / sizeof(own[0]); at++)
        sigdelset(set, own[at]);
}

int pv_start_thread(pthread_t *thread, const char *name, void *(*run)(void *), void *argument)
{
    char whole[16]; /* prctl(2), PR_SET_NAME */
    pthread_attr_t attributes;
    sigset_t others, before;
    int error = pthread_attr_init(&attributes);
    if (error)
        return error;
    pthread_attr_setstacksize(&attributes, STACK);
    pv_signals_for_others(&others);
    pthread_sigmask(SIG_SETMASK, &others, &before); /* the thread inherits it */
    error = pthread_create(thread, &attributes, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
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
