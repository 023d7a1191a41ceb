/* Runs an instruction that the emulator of a software KVM lacks, and real hardware has. */
#include "guest.h"

void main(const void *boot_params)
{
    (void)boot_params;
    static uint64_t pair[2] __attribute__((aligned(16))) = {1, 2};
    uint64_t low = 1, high = 2;
    asm volatile("lock cmpxchg16b %0"
                 : "+m"(pair), "+a"(low), "+d"(high)
                 : "b"(3ul), "c"(4ul)
                 : "memory");
    CHECK(pair[0] == 3 && pair[1] == 4);
}
