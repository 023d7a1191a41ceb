/* What the files of a disk's data path share: disk.c, worker.c and worker_control.c. */

#include <pthread.h>
#include <stdint.h>
#include <sys/uio.h>

#include "ring.h"
#include "thread.h"
#include "trace.h"
#include "worker.h"

/* What a chain asks for. */
struct operation {
    uint32_t type;
    uint64_t offset;
    uint64_t length;
    const struct iovec *data;
    int count;
    uint8_t *status;
};

struct request {
    struct request *next;
    struct pv_disk_queue *queue;
    struct operation op;
    uint64_t taken; /* when, in nanoseconds */
    int failed;     /* see pv_disk_take */
    int traced;     /* somebody traced when it was taken */
    struct pv_chain chain;
};

/* Requests, first in, first out. */
struct list {
    struct request *first, **last;
};

enum medium {
    CACHED, /* by the page cache: reads may block, writes hardly do */
    DIRECT, /* O_DIRECT: everything blocks */
    MEMORY, /* tmpfs: nothing does */
};

struct pv_disk_threads {
    enum medium medium;
    pthread_mutex_t lock;
    pthread_cond_t work;    /* for helpers: something to do, or the end */
    pthread_cond_t changed; /* for the leader and pv_disk_stop: state, parked, running */
    enum state state;
    int parked;
    uint32_t running; /* requests in the hands of helpers */
    uint32_t waiting; /* how many are in `todo` */
    uint32_t idle;    /* helpers that wait */
    uint32_t helper_count;
    pthread_t leader, helpers[PV_DISK_HELPERS];
    struct list todo, handed;
    struct request *unused;
    struct request *requests; /* all: one for each entry of the queues and one in hand */
    int epoll, wake;

    /* The leader's own. */
    uint32_t company;      /* see `alone` */
    uint64_t window, last; /* how long to poll now, and since when */
};

enum outcome { DONE, BLOCKS, FAILED };

/* ---- disk.c ---- */

/* Lists of requests; with the lock held. */
void pv_append(struct list *list, struct request *request);
struct request *pv_take(struct list *list);
void pv_put_back(struct pv_disk_threads *threads, struct request *request);

/* How the disk's file behaves; -errno if that cannot be found out. */
int pv_medium(int fd);

/* Find out what a request asks for; 0 if it is not for C. */
int pv_understand(const struct pv_disk *disk, struct request *request);

/* Do it, unless it would block and may not. A failure leaves its errno in request->failed. */
enum outcome pv_carry_out(const struct pv_disk *disk, struct request *request, int may_block);

/* ---- worker.c ---- */

void *pv_lead(void *disk);
