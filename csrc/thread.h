/* What the threads of vCPUs, of disks and of network devices have in common. */

#include <pthread.h>
#include <signal.h>

/* What a device wants of its threads. */
enum state { STOPPED, STARTED, ENDED };

/* What such a thread blocks: signals are for Python's main thread. But not those of its own faults,
 * by which a thread that blocks them dies without a word. */
void pv_signals_for_others(sigset_t *set);

/* Start a thread called pv-<name>; 0 or an errno. */
int pv_start_thread(pthread_t *thread, const char *name, void *(*run)(void *), void *argument);

/* Have an epoll set report when `fd` becomes readable, as `what`; 0 or an errno. A signal that
 * comes after one epoll_wait is reported by the next, whether or not anybody reads the descriptor.
 */
int pv_watch(int epoll, int fd, void *what);
