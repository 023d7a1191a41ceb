/* Memory-mapped accesses of every size: the host bridge in ECAM, and addresses with nothing. */
#include "guest.h"

void main(const void *boot_params)
{
    (void)boot_params;
    uint32_t id = read32(ECAM);
    CHECK(id != 0xffffffff);
    CHECK(read8(ECAM) == (uint8_t)id && read8(ECAM + 3) == id >> 24);
    CHECK(read16(ECAM) == (uint16_t)id && read16(ECAM + 2) == id >> 16);
    CHECK(read64(ECAM) == (id | (uint64_t)read32(ECAM + 4) << 32));
    CHECK(read32(ECAM + 1) == (id >> 8 | (uint32_t)read8(ECAM + 4) << 24)); /* misaligned */

    CHECK(read8(HOLE) == 0xff && read16(HOLE) == 0xffff && read32(HOLE) == 0xffffffff);
    CHECK(read64(HOLE) == ~0ul);
    CHECK(read64(HOLE + 0xffc) == ~0ul); /* over a page's end: two accesses */
    write8(HOLE, 1), write16(HOLE, 1), write32(HOLE, 1), write64(HOLE, 1);
    write64(HOLE + 0xffc, 1);

    uint8_t copy[8];
    void *to = copy;
    const void *from = (const void *)ECAM;
    size_t count = sizeof(copy);
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    CHECK(copy[0] == (uint8_t)id && copy[3] == id >> 24);
}
