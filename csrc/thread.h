/* What the threads of disks and of network devices have in common. */

#include <pthread.h>

/* What a device wants of its threads. */
enum state { STOPPED, STARTED, ENDED };

/* Start a thread; 0 or an errno. */
int pv_start_thread(pthread_t *thread, void *(*run)(void *), void *argument);

/* Name the calling thread pv-<name>. */
void pv_name_thread(const char *name);

/* Have an epoll set report when `fd` becomes readable, as `what`; 0 or an errno. A signal that
 * comes after one epoll_wait is reported by the next, whether or not anybody reads the descriptor.
 */
int pv_watch(int epoll, int fd, void *what);
