/*
 * What a block request means (VIRTIO 1.2 §5.2.6), as far as C carries it out: plain reads, writes
 * and flushes in the framing that drivers use, a descriptor for the header and one for the status.
 * Everything else is Python's, as pyvmm/virtio/blk.py says.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/virtio_blk.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "disk.h"

_Static_assert(sizeof(struct pv_buffer) == sizeof(struct iovec), "ring.h");
_Static_assert(offsetof(struct pv_buffer, base) == offsetof(struct iovec, iov_base), "ring.h");
_Static_assert(offsetof(struct pv_buffer, length) == offsetof(struct iovec, iov_len), "ring.h");

enum {
    SECTOR = 512,       /* §5.2.6: the unit of positions, whatever the block size */
    STATUS = 1,         /* bytes */
    SECOND = 1000000000 /* nanoseconds */
};

static const uint64_t BURST = 20000000; /* how much of its time a limited disk may catch up */

/* ---- lists; with the lock held ---- */

void pv_append(struct list *list, struct request *request)
{
    request->next = NULL;
    *list->last = request;
    list->last = &request->next;
}

struct request *pv_take(struct list *list)
{
    struct request *request = list->first;
    if (request) {
        list->first = request->next;
        if (!list->first)
            list->last = &list->first;
    }
    return request;
}

/* The last one used is the first to be used again: it is in the processor's cache. */
void pv_put_back(struct pv_disk_threads *threads, struct request *request)
{
    request->next = threads->unused;
    threads->unused = request;
}

/* ---- operations ---- */

int pv_medium(int fd)
{
    struct stat stat;
    struct statfs system;
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fstat(fd, &stat) < 0 || fstatfs(fd, &system) < 0)
        return -errno;
    /* A block device's node is on a tmpfs too, but that says nothing of the device. */
    if (S_ISREG(stat.st_mode) && (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC))
        return MEMORY;
    return flags & O_DIRECT ? DIRECT : CACHED;
}

/* The guest wrote all of it, and may still change it: the header is copied before it is checked. */
int pv_understand(const struct pv_disk *disk, struct request *request)
{
    const struct pv_chain *chain = &request->chain;
    const struct pv_buffer *buffers = chain->buffers;
    uint32_t count = chain->readable + chain->writable;
    struct operation *op = &request->op;
    uint64_t size = __atomic_load_n(&disk->size, __ATOMIC_RELAXED);
    struct virtio_blk_outhdr header;

    *op = (struct operation){0};
    for (uint32_t i = 0; i < count; i++)
        op->length += buffers[i].length;
    op->length -= op->length < sizeof(header) + STATUS ? op->length : sizeof(header) + STATUS;
    if (!chain->readable || !chain->writable || buffers[0].length != sizeof(header) ||
        buffers[count - 1].length != STATUS)
        return 0;
    memcpy(&header, buffers[0].base, sizeof(header));
    op->type = header.type;
    op->data = (const struct iovec *)(buffers + 1);
    op->count = (int)count - 2;
    op->status = buffers[count - 1].base;
    if (op->type == VIRTIO_BLK_T_FLUSH)
        return op->count == 0;
    if (!(op->type == VIRTIO_BLK_T_IN && chain->readable == 1) &&
        !(op->type == VIRTIO_BLK_T_OUT && chain->writable == 1 && !disk->read_only))
        return 0;
    if (op->length == 0 || op->length % SECTOR || header.sector > size / SECTOR)
        return 0;
    op->offset = header.sector * SECTOR;
    return op->length <= size - op->offset;
}

enum outcome pv_carry_out(const struct pv_disk *disk, struct request *request, int may_block)
{
    const struct operation *op = &request->op;
    enum medium medium = disk->threads->medium;
    int writeback = __atomic_load_n(&disk->writeback, __ATOMIC_RELAXED);
    ssize_t done;

    may_block |= medium == MEMORY;
    if (!may_block && (medium == DIRECT || op->type == VIRTIO_BLK_T_FLUSH ||
                       (op->type == VIRTIO_BLK_T_OUT && !writeback)))
        return BLOCKS;
    switch (op->type) {
    case VIRTIO_BLK_T_IN:
        done =
            preadv2(disk->fd, op->data, op->count, (off_t)op->offset, may_block ? 0 : RWF_NOWAIT);
        /* Without all of it in the cache, or on a file system that cannot tell: once more. */
        if (done != (ssize_t)op->length && !may_block)
            return BLOCKS;
        break;
    case VIRTIO_BLK_T_OUT:
        done =
            pwritev2(disk->fd, op->data, op->count, (off_t)op->offset, writeback ? 0 : RWF_DSYNC);
        break;
    default:
        done = fdatasync(disk->fd);
    }
    if (done == (ssize_t)op->length)
        return DONE;
    request->failed = op->type == VIRTIO_BLK_T_FLUSH ? errno : 0;
    return FAILED;
}

/* When a bucket that fills with `rate` a second holds what was taken from it before. */
static uint64_t charge(uint64_t *due, uint64_t amount, uint64_t rate, uint64_t now)
{
    uint64_t allowed;

    if (!rate)
        return 0;
    allowed = *due > now - BURST ? *due : now - BURST;
    *due = allowed + amount * SECOND / rate;
    return allowed;
}

uint64_t pv_disk_charge(struct pv_disk *disk, uint64_t length, uint64_t now)
{
    uint64_t requests = charge(&disk->iops_due, 1, disk->iops, now);
    uint64_t bytes = charge(&disk->bps_due, length, disk->bps, now);

    return requests > bytes ? requests : bytes;
}
