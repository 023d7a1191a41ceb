#include "virtio.h"

/* §4.1.4.3 struct virtio_pci_common_cfg */
enum { DEVICE_FEATURE_SELECT = 0, DEVICE_FEATURE = 4, DRIVER_FEATURE_SELECT = 8 };
enum { DRIVER_FEATURE = 12, CONFIG_MSIX_VECTOR = 16, DEVICE_STATUS = 20, QUEUE_SELECT = 22 };
enum { QUEUE_SIZE = 24, QUEUE_MSIX_VECTOR = 26, QUEUE_ENABLE = 28, QUEUE_NOTIFY_OFF = 30 };
enum { QUEUE_DESC = 32, QUEUE_DRIVER = 40, QUEUE_DEVICE = 48 };
/* §4.2.2 */
enum { MMIO_MAGIC = 0, MMIO_VERSION = 4, MMIO_DEVICE_ID = 8, MMIO_DEVICE_FEATURES = 0x10 };
enum { MMIO_DEVICE_FEATURES_SEL = 0x14, MMIO_DRIVER_FEATURES = 0x20 };
enum { MMIO_DRIVER_FEATURES_SEL = 0x24, MMIO_QUEUE_SEL = 0x30, MMIO_QUEUE_SIZE_MAX = 0x34 };
enum { MMIO_QUEUE_SIZE = 0x38, MMIO_QUEUE_READY = 0x44, MMIO_QUEUE_NOTIFY = 0x50 };
enum { MMIO_INTERRUPT_STATUS = 0x60, MMIO_INTERRUPT_ACK = 0x64, MMIO_STATUS = 0x70 };
enum { MMIO_QUEUE_DESC = 0x80, MMIO_QUEUE_DRIVER = 0x90, MMIO_QUEUE_DEVICE = 0xa0 };
enum { MMIO_CONFIG = 0x100 };

enum { CAPABILITY_VENDOR = 9, CAPABILITY_MSIX = 0x11 };           /* PCI 3.0 appendix H */
enum { COMMON = 1, NOTIFY = 2, ISR = 3, DEVICE = 4, WINDOW = 5 }; /* §4.1.4 */

/* ---- finding it ---- */

static void walk(struct virtio *device, uintptr_t bar)
{
    uintptr_t at = device->config + read8(device->config + PCI_CAPABILITIES);
    for (; at != device->config; at = device->config + read8(at + 1)) {
        uint8_t kind = read8(at);
        if (kind == CAPABILITY_MSIX) {
            device->msix = at;
            device->table = bar + (read32(at + 4) & ~7u);
            device->pba = bar + (read32(at + 8) & ~7u);
        }
        if (kind != CAPABILITY_VENDOR)
            continue;
        uintptr_t base = bar + read32(at + 8);
        switch (read8(at + 3)) {
        case COMMON:
            device->common = base;
            break;
        case NOTIFY:
            device->notify = base;
            device->multiplier = read32(at + 16);
            break;
        case ISR:
            device->isr = base;
            break;
        case DEVICE:
            device->device = base;
            break;
        case WINDOW:
            device->window = at;
            break;
        }
    }
}

void virtio_place(struct virtio *device, uintptr_t bar)
{
    uint16_t command = read16(device->config + PCI_COMMAND);
    write16(device->config + PCI_COMMAND, command & ~PCI_MEMORY);
    write32(device->config + PCI_BAR0, (uint32_t)bar);
    write32(device->config + PCI_BAR0 + 4, (uint32_t)(bar >> 32));
    write16(device->config + PCI_COMMAND, command | PCI_MEMORY);
    walk(device, bar);
}

bool virtio_find(struct virtio *device, unsigned id, uintptr_t bar)
{
    *device = (struct virtio){0};
    for (unsigned slot = 1; slot < 32; slot++) {
        device->config = ECAM + ((uintptr_t)slot << 15);
        if (read32(device->config) == ((0x1040u + id) << 16 | 0x1af4)) { /* §4.1.2 */
            virtio_place(device, bar);
            write16(device->config + PCI_COMMAND, PCI_MEMORY | PCI_BUS_MASTER);
            return true;
        }
    }
    return false;
}

bool virtio_find_mmio(struct virtio *device, unsigned id)
{
    *device = (struct virtio){.mmio = true};
    for (device->common = VIRTIO_MMIO; device->common < IOAPIC; device->common += 0x1000) {
        if (read32(device->common + MMIO_MAGIC) != 0x74726976)
            return false;
        if (read32(device->common + MMIO_DEVICE_ID) == id)
            return read32(device->common + MMIO_VERSION) == 2;
    }
    return false;
}

/* ---- its life ---- */

uint8_t virtio_status(const struct virtio *device)
{
    return device->mmio ? (uint8_t)read32(device->common + MMIO_STATUS)
                        : read8(device->common + DEVICE_STATUS);
}

void virtio_set_status(const struct virtio *device, uint8_t status)
{
    if (device->mmio)
        write32(device->common + MMIO_STATUS, status);
    else
        write8(device->common + DEVICE_STATUS, status);
}

void virtio_reset(struct virtio *device)
{
    virtio_set_status(device, 0);
    while (virtio_status(device))
        ;
}

static uint64_t offered(const struct virtio *device)
{
    uint64_t features = 0;
    for (unsigned word = 0; word < 2; word++) {
        uintptr_t common = device->common;
        write32(common + (device->mmio ? MMIO_DEVICE_FEATURES_SEL : DEVICE_FEATURE_SELECT), word);
        uint32_t bits = read32(common + (device->mmio ? MMIO_DEVICE_FEATURES : DEVICE_FEATURE));
        features |= (uint64_t)bits << 32 * word;
    }
    return features;
}

void virtio_negotiate(struct virtio *device, uint64_t features)
{
    virtio_reset(device);
    virtio_set_status(device, 1); /* ACKNOWLEDGE */
    virtio_set_status(device, 3); /* and DRIVER */
    device->features = offered(device) & features;
    for (unsigned word = 0; word < 2; word++) {
        uintptr_t common = device->common;
        write32(common + (device->mmio ? MMIO_DRIVER_FEATURES_SEL : DRIVER_FEATURE_SELECT), word);
        write32(common + (device->mmio ? MMIO_DRIVER_FEATURES : DRIVER_FEATURE),
                (uint32_t)(device->features >> 32 * word));
    }
    virtio_set_status(device, 3 | VIRTIO_FEATURES_OK);
    CHECK(virtio_status(device) == (3 | VIRTIO_FEATURES_OK));
}

static void set_areas(uintptr_t descriptors, uintptr_t driver, uintptr_t used,
                      const struct virtqueue *queue)
{
    const struct {
        uintptr_t at;
        const volatile void *area;
    } areas[] = {
        {descriptors, queue->descriptors}, {driver, &queue->available}, {used, &queue->used}};
    for (unsigned at = 0; at < 3; at++) {
        write32(areas[at].at, (uint32_t)(uintptr_t)areas[at].area);
        write32(areas[at].at + 4, (uint32_t)((uintptr_t)areas[at].area >> 32));
    }
}

void virtio_queue(struct virtio *device, struct virtqueue *queue, uint16_t index, uint16_t size)
{
    uintptr_t common = device->common;
    queue->index = index;
    queue->size = queue->free_count = size;
    queue->free = queue->seen = queue->kicked = 0;
    queue->event_idx = device->features & VIRTIO_F_EVENT_IDX;
    queue->available.flags = queue->available.index = queue->available.ring[size] = 0;
    queue->used.flags = queue->used.index = 0;
    queue->used.ring[size].id = 0;
    for (unsigned at = 0; at < size; at++)
        queue->descriptors[at].next = (uint16_t)(at + 1);
    if (device->mmio) {
        write32(common + MMIO_QUEUE_SEL, index);
        CHECK(read32(common + MMIO_QUEUE_SIZE_MAX) >= 1);
        write32(common + MMIO_QUEUE_SIZE, size);
        set_areas(common + MMIO_QUEUE_DESC, common + MMIO_QUEUE_DRIVER, common + MMIO_QUEUE_DEVICE,
                  queue);
        write32(common + MMIO_QUEUE_READY, 1);
        CHECK(read32(common + MMIO_QUEUE_READY) == 1);
        queue->doorbell = common + MMIO_QUEUE_NOTIFY;
        return;
    }
    write16(common + QUEUE_SELECT, index);
    CHECK(read16(common + QUEUE_SIZE));
    write16(common + QUEUE_SIZE, size);
    CHECK(read16(common + QUEUE_SIZE) == size);
    set_areas(common + QUEUE_DESC, common + QUEUE_DRIVER, common + QUEUE_DEVICE, queue);
    write16(common + QUEUE_ENABLE, 1);
    queue->doorbell = device->notify + device->multiplier * read16(common + QUEUE_NOTIFY_OFF);
}

void virtio_start(struct virtio *device)
{
    virtio_set_status(device, 3 | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
}

uint32_t virtio_acknowledge(const struct virtio *device)
{
    if (!device->mmio)
        return read8(device->isr);
    uint32_t status = read32(device->common + MMIO_INTERRUPT_STATUS);
    write32(device->common + MMIO_INTERRUPT_ACK, status);
    return status;
}

uintptr_t virtio_config(const struct virtio *device)
{
    return device->mmio ? device->common + MMIO_CONFIG : device->device;
}

/* ---- MSI-X: PCI 3.0 §6.8.2 ---- */

void virtio_vector(const struct virtio *device, const struct virtqueue *queue, uint16_t entry)
{
    uintptr_t at = device->common + CONFIG_MSIX_VECTOR;
    if (queue) {
        write16(device->common + QUEUE_SELECT, queue->index);
        at = device->common + QUEUE_MSIX_VECTOR;
    }
    write16(at, entry);
    CHECK(read16(at) == entry);
}

void msix_control(const struct virtio *device, uint16_t flags)
{
    write16(device->msix + 2, flags);
}

void msix_enable(const struct virtio *device, unsigned entries)
{
    for (unsigned entry = 0; entry < entries; entry++)
        msix_mask(device, entry, true);
    msix_control(device, MSIX_ENABLE);
}

void msix_set(const struct virtio *device, unsigned entry, uint8_t vector)
{
    uintptr_t at = device->table + 16 * entry;
    write32(at, LAPIC); /* SDM 3A §10.11: to the CPU whose id is 0, fixed, an edge */
    write32(at + 4, 0);
    write32(at + 8, vector);
    msix_mask(device, entry, false);
}

void msix_mask(const struct virtio *device, unsigned entry, bool masked)
{
    write32(device->table + 16 * entry + 12, masked);
}

bool msix_pending(const struct virtio *device, unsigned entry)
{
    return read32(device->pba + entry / 32 * 4) >> entry % 32 & 1;
}

/* ---- queues: §2.7 ---- */

int virtio_add(struct virtqueue *queue, const struct buffer *buffers, unsigned readable,
               unsigned writable)
{
    unsigned count = readable + writable;
    if (!count || count > queue->free_count)
        return -1;
    uint16_t head = queue->free, at = head;
    for (unsigned number = 0; number < count; number++) {
        struct descriptor *descriptor = &queue->descriptors[at];
        descriptor->address = (uintptr_t)buffers[number].address;
        descriptor->length = buffers[number].length;
        descriptor->flags = (uint16_t)((number + 1 < count ? DESC_NEXT : 0) |
                                       (number >= readable ? DESC_WRITE : 0));
        at = descriptor->next;
    }
    queue->free = at;
    queue->free_count = (uint16_t)(queue->free_count - count);
    queue->available.ring[queue->available.index % queue->size] = head;
    asm volatile("" : : : "memory"); /* x86 keeps stores in order; so must the compiler */
    queue->available.index++;
    return head;
}

void virtio_kick(struct virtqueue *queue)
{
    fence(); /* the device sees the new index, or its wish to be told is seen here */
    uint16_t now = queue->available.index, before = queue->kicked;
    uint16_t event = (uint16_t)queue->used.ring[queue->size].id;
    queue->kicked = now;
    bool wanted = queue->event_idx ? (uint16_t)(now - event - 1) < (uint16_t)(now - before)
                                   : !(queue->used.flags & 1);
    if (wanted && queue->doorbell % 0x1000 == MMIO_QUEUE_NOTIFY && queue->doorbell >= VIRTIO_MMIO)
        write32(queue->doorbell, queue->index);
    else if (wanted)
        write16(queue->doorbell, queue->index);
}

bool virtio_used(struct virtqueue *queue, struct used *used)
{
    if (queue->used.index == queue->seen)
        return false;
    asm volatile("" : : : "memory");
    unsigned entry = queue->seen++ % queue->size;
    used->id = queue->used.ring[entry].id;
    used->length = queue->used.ring[entry].length;
    uint16_t at = (uint16_t)used->id, count = 1;
    while (queue->descriptors[at].flags & DESC_NEXT)
        at = queue->descriptors[at].next, count++;
    queue->descriptors[at].next = queue->free;
    queue->free = (uint16_t)used->id;
    queue->free_count = (uint16_t)(queue->free_count + count);
    return true;
}

void virtio_want_interrupt(struct virtqueue *queue)
{
    queue->available.ring[queue->size] = queue->seen;
    fence();
}

/* ---- interrupt controllers ---- */

void apic_enable(void)
{
    write32(LAPIC + 0xf0, 0x1ff); /* SDM 3A §10.9 */
}

void apic_end(void)
{
    write32(LAPIC + 0xb0, 0);
}

void ioapic_level(unsigned gsi, uint8_t vector)
{
    const uint32_t entry[2] = {1u << 15 | vector, 0}; /* 82093AA §3.2.4: level, CPU 0 */
    for (unsigned half = 2; half--;) {
        write32(IOAPIC, 0x10 + 2 * gsi + half);
        write32(IOAPIC + 0x10, entry[half]);
    }
}
