/*
 * What the fuzz targets are fed with: where a ring is, what guest memory holds, and a script of
 * what the device and the driver do then. tests/fakes/ringcase.py makes and plays the same files.
 *
 *     u8 features   bit 0 packed, 1 event index, 2 indirect descriptors
 *     u8 length     of the script
 *     u16 size      of the queue
 *     u64 areas[3]  descriptor, driver, device
 *     u8 script[length]
 *     u8 image[]    guest memory from address 0 on; the rest is zero
 *
 * Include ring.h before it.
 */
#undef NDEBUG
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER = 28, REGION = 0x10000 };
static const uint64_t HIGH = 1ull << 32; /* where the second of the two regions is */

static uint8_t *ram[2]; /* allocated, so that the address sanitizer knows where they end */
static struct pv_queue queue;
static struct pv_chain chain;

/* Make guest memory and `queue`; the script and its length, or NULL for what is no case. */
static const uint8_t *load_case(const uint8_t *data, size_t size, size_t *length)
{
    for (int i = 0; i < 2; i++)
        if (!ram[i] && !(ram[i] = malloc(REGION)))
            abort();
    if (size < HEADER || size < HEADER + (size_t)data[1] || size > HEADER + data[1] + REGION)
        return NULL;
    memset(&queue, 0, sizeof(queue));
    queue.memory.count = 2;
    for (int i = 0; i < 2; i++)
        queue.memory.regions[i] = (struct pv_region){i ? HIGH : 0, REGION, ram[i]};
    queue.packed = data[0] & 1;
    queue.event_idx = data[0] >> 1 & 1;
    queue.indirect = data[0] >> 2 & 1;
    memcpy(&queue.size, data + 2, 2);
    memcpy(&queue.descriptor_area, data + 4, 8);
    memcpy(&queue.driver_area, data + 12, 8);
    memcpy(&queue.device_area, data + 20, 8);

    size_t image = size - HEADER - data[1];
    memcpy(ram[0], data + HEADER + data[1], image);
    memset(ram[0] + image, 0, REGION - image);
    memset(ram[1], 0, REGION);
    *length = data[1];
    return data + HEADER;
}

/* Whether guest memory holds `length` bytes at the host's address `at`. */
static int inside(const void *at, uint64_t length)
{
    for (int i = 0; i < 2; i++) {
        uintptr_t offset = (uintptr_t)at - (uintptr_t)ram[i];
        if (offset < REGION && length <= REGION - offset)
            return 1;
    }
    return 0;
}
