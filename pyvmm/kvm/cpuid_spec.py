"""CPUID: facts only. Leaves, fields, and which bit is which feature.

Sources: Intel SDM volume 2A, "CPUID"; AMD APM volume 3 (24594), appendix E; KVM's own leaves are
in the kernel's virt/kvm/x86/cpuid.rst. Features have the names of Linux's /proc/cpuinfo
(asm/cpufeatures.h), and those that it does not show, QEMU's.
"""

from __future__ import annotations

SIGNIFICANT_INDEX = 1 << 0  # KVM_CPUID_FLAG_SIGNIFCANT_INDEX of <asm/kvm.h>

EAX, EBX, ECX, EDX = range(4)

# Leaves.
VENDOR = 0x0  # EAX: the highest basic leaf
FEATURES = 0x1
CACHES = 0x4
TOPOLOGY = 0xB
XSAVE = 0xD
TOPOLOGY_V2 = 0x1F
KVM_FEATURES = 0x4000_0001
AMD_FEATURES = 0x8000_0001
BRAND = (0x8000_0002, 0x8000_0003, 0x8000_0004)
BRAND_SIZE = 48  # bytes, in all registers of the three
ADDRESS_SIZES = 0x8000_0008
AMD_CACHES = 0x8000_001D
AMD_TOPOLOGY = 0x8000_001E

# The vendors that follow AMD's manual, as EBX, EDX and ECX of leaf 0 spell them.
AMD_VENDORS = (b"AuthenticAMD", b"HygonGenuine")

# FEATURES.
EBX_APIC_ID_SHIFT, EBX_APIC_ID = 24, 0xFF
EBX_LOGICAL_COUNT_SHIFT = 16
EBX_LOGICAL_COUNT_MAX = 0xFF
EBX_BELOW_COUNTS = 0xFFFF  # CLFLUSH line size and brand index
ECX_X2APIC = 1 << 21
ECX_TSC_DEADLINE = 1 << 24
ECX_HYPERVISOR = 1 << 31
EDX_HTT = 1 << 28

# CACHES and AMD_CACHES, EAX.
CACHE_TYPE = 0b1_1111  # 0: no more caches
CACHE_LEVEL_SHIFT, CACHE_LEVEL = 5, 0b111
CACHE_SHARING_SHIFT, CACHE_SHARING_MAX = 14, 0xFFF  # logical processors that share it, less one
CACHE_CORES_SHIFT, CACHE_CORES_MAX = 26, 0x3F  # CACHES only: cores of the package, less one
CACHE_BELOW_SHARING = (1 << CACHE_SHARING_SHIFT) - 1
SHARED_LEVEL = 3  # caches from this level on belong to the whole package

# TOPOLOGY and TOPOLOGY_V2: sub-leaf 0 is the threads of a core, 1 the cores of the package.
LEVEL_TYPE_SHIFT = 8  # ECX; bits 7 to 0 repeat the sub-leaf
LEVEL_INVALID, LEVEL_SMT, LEVEL_CORE = 0, 1, 2
LEVEL_COUNT_MAX = 0xFFFF  # EBX

# ADDRESS_SIZES.
PHYSICAL_BITS = 0xFF  # EAX
PHYSICAL_BITS_DEFAULT = 36
CORE_COUNT_MAX = 0xFF  # ECX, AMD: cores less one
CORE_ID_SHIFT, CORE_ID_SIZE = 12, 0xF  # ECX, AMD: bits of the APIC id that number cores

# AMD_FEATURES.
ECX_CMP_LEGACY = 1 << 1
ECX_TOPOEXT = 1 << 22

# AMD_TOPOLOGY: EAX the APIC id, EBX the core, ECX the node (the only one is 0).
CORE_ID = 0xFF

# KVM_FEATURES, EDX: KVM_HINTS_REALTIME promises that vCPUs have host CPUs of their own.
HINTS_REALTIME = 1 << 0

# XSAVE: from sub-leaf 2 on each describes its component: EAX its size, EBX its offset in bytes, 0
# for one that IA32_XSS enables. ECX of sub-leaf 0 is the size of all that XCR0 may enable.
XSAVE_COMPONENTS = ((0, EAX), (1, ECX))  # where bits say which there are: XCR0's, IA32_XSS's
XSAVE_LEGACY_SIZE = 576  # the FXSAVE area and the header, Intel SDM volume 1 §13.4
XSAVE_COMPONENT_OF = {  # component: it exists for any of these features, SDM volume 1 §13.1
    2: ("avx",),
    3: ("mpx",),
    4: ("mpx",),
    5: ("avx512f",),
    6: ("avx512f",),
    7: ("avx512f",),
    8: ("intel_pt",),
    9: ("pku",),
    10: ("enqcmd",),
    11: ("shstk", "ibt"),
    12: ("shstk", "ibt"),
    15: ("arch_lbr",),
    17: ("amx_tile",),
    18: ("amx_tile",),
}

# Names of the bits of each feature register, from bit 0 on; `.` is one that has none here. AMD
# repeats some bits of leaf 1 in leaf 0x80000001: a name stands for all of its bits.
FEATURE_BITS = {
    (0x1, 0, EDX): """
        fpu vme de pse tsc msr pae mce
        cx8 apic . sep mtrr pge mca cmov
        pat pse36 pn clflush . dts acpi mmx
        fxsr sse sse2 ss ht tm ia64 pbe""",
    (0x1, 0, ECX): """
        pni pclmulqdq dtes64 monitor ds_cpl vmx smx est
        tm2 ssse3 cid sdbg fma cx16 xtpr pdcm
        . pcid dca sse4_1 sse4_2 x2apic movbe popcnt
        tsc_deadline_timer aes xsave . avx f16c rdrand hypervisor""",
    (0x6, 0, EAX): """
        dtherm ida arat . pln . pts hwp
        hwp_notify hwp_act_window hwp_epp hwp_pkg_req . . . .
        . . . hfi""",
    (0x7, 0, EBX): """
        fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep
        bmi2 erms invpcid rtm cqm zero_fcs_fds mpx rdt_a
        avx512f avx512dq rdseed adx smap avx512ifma . clflushopt
        clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl""",
    (0x7, 0, ECX): """
        . avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk
        gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme avx512_vpopcntdq .
        la57 . . . . . rdpid .
        bus_lock_detect cldemote . movdiri movdir64b enqcmd sgx_lc .""",
    (0x7, 0, EDX): """
        . . avx512_4vnniw avx512_4fmaps fsrm . . .
        avx512_vp2intersect srbds_ctrl md_clear rtm_always_abort . tsx_force_abort serialize .
        tsxldtrk . pconfig arch_lbr ibt . amx_bf16 avx512_fp16
        amx_tile amx_int8 spec_ctrl stibp flush_l1d arch_capabilities core_capabilities ssbd""",
    (0x7, 1, EAX): """
        . . . . avx_vnni avx512_bf16 . cmpccxadd
        . . fzrm fsrs fsrc . . .
        . fred lkgs wrmsrns . amx_fp16 . avx_ifma
        . . lam""",
    (0x7, 1, EDX): """
        . . . . avx_vnni_int8 avx_ne_convert . .
        amx_complex . avx_vnni_int16 . . . prefetchi""",
    (0xD, 1, EAX): "xsaveopt xsavec xgetbv1 xsaves xfd",
    (KVM_FEATURES, 0, EAX): """
        kvmclock kvm_nopiodelay kvm_mmu kvmclock kvm_asyncpf kvm_steal_time kvm_pv_eoi kvm_pv_unhalt
        . kvm_pv_tlb_flush kvm_asyncpf_vmexit kvm_pv_ipi
        kvm_poll_control kvm_pv_sched_yield kvm_asyncpf_int kvm_msi_ext_dest_id
        . . . . . . . .
        kvmclock_stable_bit""",
    (AMD_FEATURES, 0, EDX): """
        fpu vme de pse tsc msr pae mce
        cx8 apic . syscall mtrr pge mca cmov
        pat pse36 . mp nx . mmxext mmx
        fxsr fxsr_opt pdpe1gb rdtscp . lm 3dnowext 3dnow""",
    (AMD_FEATURES, 0, ECX): """
        lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse
        3dnowprefetch osvw ibs xop skinit wdt . lwp
        fma4 tce . nodeid_msr . tbm topoext perfctr_core
        perfctr_nb . bpext ptsc perfctr_llc mwaitx""",
    (0x8000_0007, 0, EBX): "overflow_recov succor . smca",
    (ADDRESS_SIZES, 0, EBX): """
        clzero irperf xsaveerptr . rdpru . . .
        . wbnoinvd . . ibpb . ibrs stibp
        . stibp_always_on . . . . . amd_ppin
        ssbd virt_ssbd amd_no_ssb cppc amd_psfd btc_no . brs""",
    (0x8000_000A, 0, EDX): """
        npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists
        . . pausefilter . pfthreshold avic . v_vmsave_vmload
        vgif . x2avic . v_spec_ctrl . . .
        . vnmi . . svme_addr_chk""",
    (0x8000_001F, 0, EAX): "sme sev . sev_es",
    (0x8000_0021, 0, EAX): """
        no_nested_data_bp fs_gs_base_ns lfence_always_serializing . . verw_clear null_sel_clr_base .
        auto_ibrs . . . . . . .
        . . . . . . . .
        . . . sbpb ibpb_brtype srso_no srso_user_kernel_no .""",
}

# QEMU's names where they are others, after `-` and `.` have become `_`.
ALIASES = {
    "amd_ssbd": "ssbd",
    "amd_stibp": "stibp",
    "core_capability": "core_capabilities",
    "cr8legacy": "cr8_legacy",
    "ffxsr": "fxsr_opt",
    "i64": "lm",
    "lzcnt": "abm",
    "pause_filter": "pausefilter",
    "prefetchiti": "prefetchi",
    "sse3": "pni",
    "tsc_deadline": "tsc_deadline_timer",
    "xd": "nx",
}

# What cannot be without each feature: SDM volume 1 §13 to §15 and §18 for XSAVE and the vector
# extensions, as Linux's cpuid-deps.c has them; APM volume 2 §15 for SVM.
DEPENDENTS = {
    "xsave": "avx mpx pku xsaveopt xsavec xgetbv1 xsaves",
    "xsaves": "xfd shstk ibt arch_lbr",
    "xfd": "amx_tile",
    "amx_tile": "amx_bf16 amx_int8 amx_fp16 amx_complex",
    "avx": "avx2 fma fma4 xop f16c vaes vpclmulqdq avx_vnni avx_ifma avx_vnni_int8 avx_ne_convert "
    "avx_vnni_int16",
    "avx2": "avx512f",
    "avx512f": "avx512dq avx512ifma avx512pf avx512er avx512cd avx512bw avx512vl avx512_4vnniw "
    "avx512_4fmaps avx512_vp2intersect avx512_vpopcntdq",
    "avx512bw": "avx512vbmi avx512_vbmi2 avx512_bitalg avx512_fp16 avx512_bf16",
    "avx512vl": "avx512_vnni avx512_fp16 avx512_bf16",
    "svm": "npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists pausefilter "
    "pfthreshold avic v_vmsave_vmload vgif x2avic v_spec_ctrl vnmi "
    "svme_addr_chk",
}
