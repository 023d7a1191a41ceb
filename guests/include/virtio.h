/*
 * A virtio driver for tiny guests: PCI or MMIO, split queues, MSI-X or the wire (VIRTIO 1.2).
 *
 *     struct virtio device;
 *     struct virtqueue queue;
 *     CHECK(virtio_find(&device, VIRTIO_ID_RNG, BAR));       // or virtio_find_mmio
 *     virtio_negotiate(&device, VIRTIO_F_VERSION_1);
 *     virtio_queue(&device, &queue, 0, QUEUE_MAX);
 *     msix_enable(&device, 1); msix_set(&device, 0, VECTOR); virtio_vector(&device, &queue, 0);
 *     virtio_start(&device);
 *     virtio_add(&queue, buffers, 0, 1); virtio_kick(&queue);
 *     while (!virtio_used(&queue, &used)) ...
 */
#pragma once
#include "guest.h"

enum { VIRTIO_ID_BLOCK = 2, VIRTIO_ID_RNG = 4 };       /* §5 */
enum { VIRTIO_DRIVER_OK = 4, VIRTIO_FEATURES_OK = 8 }; /* §2.1 */
enum { VIRTIO_NEEDS_RESET = 64, VIRTIO_FAILED = 128 };
enum { VIRTIO_INTERRUPT_QUEUE = 1, VIRTIO_INTERRUPT_CONFIG = 2 }; /* §4.1.4.5 */
#define VIRTIO_F_INDIRECT_DESC (1ul << 28)
#define VIRTIO_F_EVENT_IDX (1ul << 29)
#define VIRTIO_F_VERSION_1 (1ul << 32)

/* PCI 3.0 §6.1; a function's registers in the ECAM are at `config`. */
enum { PCI_COMMAND = 0x04, PCI_STATUS = 0x06, PCI_BAR0 = 0x10, PCI_CAPABILITIES = 0x34 };
enum { PCI_IO = 1, PCI_MEMORY = 2, PCI_BUS_MASTER = 4, PCI_INTX_DISABLE = 1 << 10 };
enum { PCI_STATUS_INTERRUPT = 1 << 3 };
enum { MSIX_FUNCTION_MASK = 1 << 14, MSIX_ENABLE = 1 << 15 }; /* §6.8.2.3, message control */

#define QUEUE_MAX 256u
#define PCI_WINDOW 0xc0000000ul /* where a BAR may be */
#define VIRTIO_MMIO 0xfeb00000ul

struct virtio {
    bool mmio;
    uintptr_t config;                              /* PCI: its configuration space */
    uintptr_t common, isr, device, notify, window; /* its registers; MMIO: all in `common` */
    uint32_t multiplier;
    uintptr_t msix, table, pba; /* the MSI-X capability, the table, the pending bits */
    uint64_t features;          /* negotiated */
};

struct descriptor { /* §2.7.5 */
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};
enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };

struct buffer {
    void *address;
    uint32_t length;
};

struct used {
    uint32_t id, length; /* §2.7.8 */
};

struct virtqueue {
    struct descriptor descriptors[QUEUE_MAX] __attribute__((aligned(16)));
    struct {
        volatile uint16_t flags, index, ring[QUEUE_MAX + 1]; /* used_event follows the ring */
    } available;
    struct {
        volatile uint16_t flags, index;
        volatile struct used ring[QUEUE_MAX + 1]; /* avail_event follows the ring */
    } used __attribute__((aligned(4)));
    uintptr_t doorbell;
    uint16_t index, size, free, free_count;
    uint16_t seen;   /* used entries taken */
    uint16_t kicked; /* available entries that the device was told of */
    bool event_idx;
};

#pragma GCC visibility push(hidden)
/* Find the first device with this ID on PCI, put its BAR at `bar` and switch it on. */
bool virtio_find(struct virtio *device, unsigned id, uintptr_t bar);
/* The same on MMIO. */
bool virtio_find_mmio(struct virtio *device, unsigned id);
/* Move a PCI device's BAR. */
void virtio_place(struct virtio *device, uintptr_t bar);

/* Reset it and get to FEATURES_OK with those of `features` that it offers. */
void virtio_negotiate(struct virtio *device, uint64_t features);
/* Set up and enable a queue, with no interrupt vector. `size` is a power of two to QUEUE_MAX. */
void virtio_queue(struct virtio *device, struct virtqueue *queue, uint16_t index, uint16_t size);
void virtio_start(struct virtio *device);
/* Reset it, and wait until it is. */
void virtio_reset(struct virtio *device);
uint8_t virtio_status(const struct virtio *device);
void virtio_set_status(const struct virtio *device, uint8_t status);
/* What interrupted over the wire; lowers it. */
uint32_t virtio_acknowledge(const struct virtio *device);
/* Where the device's own configuration space is. */
uintptr_t virtio_config(const struct virtio *device);

/* Have the queue, or with NULL a change of configuration, interrupt by this entry of the table. */
void virtio_vector(const struct virtio *device, const struct virtqueue *queue, uint16_t entry);
/* Write MSI-X's message control, with every one of its first `entries` masked. */
void msix_enable(const struct virtio *device, unsigned entries);
void msix_control(const struct virtio *device, uint16_t flags);
/* Send `vector` to CPU 0 for this entry, unmasked. */
void msix_set(const struct virtio *device, unsigned entry, uint8_t vector);
void msix_mask(const struct virtio *device, unsigned entry, bool masked);
bool msix_pending(const struct virtio *device, unsigned entry);

/* Make a chain available: `readable` buffers, then `writable` ones. Its head, or -1 if it is full.
 * The device is not told yet. */
int virtio_add(struct virtqueue *queue, const struct buffer *buffers, unsigned readable,
               unsigned writable);
/* Tell the device, if it wants to know. */
void virtio_kick(struct virtqueue *queue);
/* Take the next used chain; false if there is none. */
bool virtio_used(struct virtqueue *queue, struct used *used);
/* Ask for an interrupt with the next used chain; only if VIRTIO_F_EVENT_IDX is negotiated. */
void virtio_want_interrupt(struct virtqueue *queue);

/* The local APIC on; the end of an interrupt there; an IOAPIC pin, level-triggered, to CPU 0. */
void apic_enable(void);
void apic_end(void);
void ioapic_level(unsigned gsi, uint8_t vector);
#pragma GCC visibility pop

/* The PCI slot of a device found on PCI: its INTA# is GSI 16 + slot % 4. */
static inline unsigned virtio_slot(const struct virtio *device)
{
    return (unsigned)(device->config - ECAM) >> 15;
}

/* A full barrier: stores before it are seen before loads behind it are done. */
static inline void fence(void)
{
    asm volatile("lock; orl $0, (%%rsp)" : : : "memory", "cc");
}
