/* What CPUID must say in any machine: the hypervisor's bit and signature, and the topology. */
#include "guest.h"

void main(const void *boot_params)
{
    (void)boot_params;
    struct cpuid one = cpuid(1, 0), kvm = cpuid(0x40000000, 0);
    CHECK(one.ecx & 1u << 31);
    CHECK(one.edx & 1u << 9);                                                 /* a local APIC */
    CHECK(kvm.ebx == 0x4b4d564b && kvm.ecx == 0x564b4d56 && kvm.edx == 0x4d); /* KVMKVMKVM */
    CHECK(kvm.eax >= 0x40000001);

    CHECK(cpuid(0, 0).eax >= 0xb);
    CHECK(one.ebx >> 24 == read32(LAPIC + 0x20) >> 24); /* the APIC's id */
    unsigned count = 0;
    for (uint32_t level = 0; cpuid(0xb, level).ecx & 0xff00; level++) {
        struct cpuid topology = cpuid(0xb, level);
        CHECK((topology.ecx & 0xff) == level);
        CHECK(topology.edx == one.ebx >> 24);
        CHECK((topology.ebx & 0xffff) >= count);
        CHECK(topology.ebx <= 1u << (topology.eax & 0x1f));
        count = topology.ebx & 0xffff;
    }
    CHECK(count);
    print_number(count);
    print(" CPUs\n");
}
