/* What the threads of disks and of network devices have in common. */

#include <pthread.h>

/* What a device wants of its threads. */
enum state { STOPPED, STARTED, ENDED };

/* Start a thread called pv-<name>; 0 or an errno. */
int pv_start_thread(pthread_t *thread, const char *name, void *(*run)(void *), void *argument);

/* Have an epoll set report when `fd` becomes readable, as `what`; 0 or an errno. A signal that
 * comes after one epoll_wait is reported by the next, whether or not anybody reads the descriptor.
 */
int pv_watch(int epoll, int fd, void *what);
