/*
 * libFuzzer's target for csrc/disk.c: requests as the disk's threads take them, on a file that goes
 * on where the disk ends. Each input is a case of case.h; the script's first byte says what kind of
 * disk it is.
 */
#define _GNU_SOURCE
#include <linux/virtio_blk.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../disk.h"
#include "case.h"

enum {
    READ_ONLY = 1, /* bits of the script's first byte */
    WRITEBACK = 2,
    SECTOR = 512,
    SIZE = 24 * SECTOR, /* of the disk */
    FILE_SIZE = 2 * SIZE,
    PUMP = 16,
};

static struct pv_disk_threads threads = {.medium = MEMORY};
static struct pv_disk disk = {.fd = -1, .size = SIZE, .threads = &threads};
static uint8_t *file, content[FILE_SIZE];

static void open_file(void)
{
    disk.fd = memfd_create("disk", MFD_CLOEXEC);
    assert(disk.fd >= 0 && ftruncate(disk.fd, FILE_SIZE) == 0);
    file = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, disk.fd, 0);
    assert(file != MAP_FAILED);
    memset(content, 0x5a, FILE_SIZE);
    memcpy(file, content, FILE_SIZE);
}

static void check_untouched(size_t from)
{
    assert(memcmp(file + from, content + from, FILE_SIZE - from) == 0);
}

/* What must hold of a request that C carries out. */
static void check(const struct operation *op)
{
    uint64_t length = 0;

    assert(op->status && inside(op->status, 1));
    assert(op->count >= 0 && op->count <= PV_QUEUE_MAX);
    for (int i = 0; i < op->count; i++) {
        assert(inside(op->data[i].iov_base, op->data[i].iov_len));
        length += op->data[i].iov_len;
    }
    assert(length == op->length);
    if (op->type == VIRTIO_BLK_T_FLUSH) {
        assert(length == 0);
    } else {
        assert(op->type == VIRTIO_BLK_T_IN || (op->type == VIRTIO_BLK_T_OUT && !disk.read_only));
        assert(length > 0 && length % SECTOR == 0 && op->offset % SECTOR == 0);
        assert(op->offset <= SIZE && length <= SIZE - op->offset);
    }
}

/* Serve one request; whether there was one. */
static int serve(struct request *request)
{
    uint32_t written = 0;

    if (pv_queue_pop(&queue, &request->chain) <= 0)
        return 0;
    request->failed = 0;
    if (pv_understand(&disk, request)) {
        check(&request->op);
        assert(pv_carry_out(&disk, request, 0) == DONE);
        *request->op.status = VIRTIO_BLK_S_OK;
        written = 1;
    }
    pv_queue_push(&queue, request->chain.head, request->chain.count, written);
    pv_queue_publish(&queue);
    return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct request request;
    size_t length;
    const uint8_t *script = load_case(data, size, &length);

    if (!script || !length)
        return -1;
    if (disk.fd < 0)
        open_file();
    disk.read_only = script[0] & READ_ONLY;
    disk.writeback = !!(script[0] & WRITEBACK);
    if (pv_queue_open(&queue) < 0)
        return 0;
    for (int i = 0; i < PUMP && serve(&request); i++)
        ;
    check_untouched(disk.read_only ? 0 : SIZE);
    memcpy(file, content, SIZE);
    return 0;
}
