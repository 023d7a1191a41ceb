/*
 * What pyvmm uses of <linux/kvm.h>, for cffi in API mode: every "..." is filled in by the compiler
 * from the system's header. The KVM_CAP_ names are added by _build.py.
 */

/* Of <sys/mman.h>, what Python's mmap does not have. */
#define MAP_NORESERVE ...
#define MADV_POPULATE_WRITE ...

#define KVM_API_VERSION ...
#define KVM_GET_API_VERSION ...
#define KVM_CREATE_VM ...
#define KVM_CHECK_EXTENSION ...
#define KVM_GET_VCPU_MMAP_SIZE ...
#define KVM_GET_SUPPORTED_CPUID ...
#define KVM_GET_MSR_INDEX_LIST ...
#define KVM_GET_MSR_FEATURE_INDEX_LIST ...

#define KVM_CREATE_VCPU ...
#define KVM_SET_USER_MEMORY_REGION ...
#define KVM_GET_DIRTY_LOG ...
#define KVM_SET_TSS_ADDR ...
#define KVM_SET_IDENTITY_MAP_ADDR ...
#define KVM_CREATE_IRQCHIP ...
#define KVM_GET_IRQCHIP ...
#define KVM_SET_IRQCHIP ...
#define KVM_CREATE_PIT2 ...
#define KVM_GET_PIT2 ...
#define KVM_SET_PIT2 ...
#define KVM_IRQ_LINE ...
#define KVM_IRQFD ...
#define KVM_IOEVENTFD ...
#define KVM_SET_GSI_ROUTING ...
#define KVM_SIGNAL_MSI ...
#define KVM_GET_CLOCK ...
#define KVM_SET_CLOCK ...
#define KVM_ENABLE_CAP ...

#define KVM_GET_REGS ...
#define KVM_SET_REGS ...
#define KVM_GET_SREGS ...
#define KVM_SET_SREGS ...
#define KVM_GET_FPU ...
#define KVM_SET_FPU ...
#define KVM_GET_XSAVE2 ...
#define KVM_SET_XSAVE ...
#define KVM_GET_XCRS ...
#define KVM_SET_XCRS ...
#define KVM_GET_MSRS ...
#define KVM_SET_MSRS ...
#define KVM_GET_LAPIC ...
#define KVM_SET_LAPIC ...
#define KVM_GET_VCPU_EVENTS ...
#define KVM_SET_VCPU_EVENTS ...
#define KVM_GET_DEBUGREGS ...
#define KVM_SET_DEBUGREGS ...
#define KVM_GET_MP_STATE ...
#define KVM_SET_MP_STATE ...
#define KVM_SET_CPUID2 ...
#define KVM_GET_CPUID2 ...
#define KVM_GET_TSC_KHZ ...
#define KVM_SET_TSC_KHZ ...
#define KVM_GET_STATS_FD ...
#define KVM_SET_GUEST_DEBUG ...
#define KVM_TRANSLATE ...
#define KVM_KVMCLOCK_CTRL ...
#define KVM_INTERRUPT ...
#define KVM_NMI ...

#define KVM_MEM_LOG_DIRTY_PAGES ...
#define KVM_MEM_READONLY ...
#define KVM_IRQCHIP_PIC_MASTER ...
#define KVM_IRQCHIP_PIC_SLAVE ...
#define KVM_IRQCHIP_IOAPIC ...
#define KVM_IRQ_ROUTING_IRQCHIP ...
#define KVM_IRQ_ROUTING_MSI ...
#define KVM_IRQFD_FLAG_DEASSIGN ...
#define KVM_IRQFD_FLAG_RESAMPLE ...
#define KVM_IOEVENTFD_FLAG_DATAMATCH ...
#define KVM_IOEVENTFD_FLAG_PIO ...
#define KVM_IOEVENTFD_FLAG_DEASSIGN ...
#define KVM_PIT_SPEAKER_DUMMY ...
#define KVM_CPUID_FLAG_SIGNIFCANT_INDEX ...
#define KVM_MP_STATE_RUNNABLE ...
#define KVM_MP_STATE_UNINITIALIZED ...
#define KVM_MP_STATE_INIT_RECEIVED ...
#define KVM_MP_STATE_HALTED ...
#define KVM_MP_STATE_SIPI_RECEIVED ...
#define KVM_GUESTDBG_ENABLE ...
#define KVM_GUESTDBG_SINGLESTEP ...
#define KVM_GUESTDBG_USE_SW_BP ...
#define KVM_GUESTDBG_USE_HW_BP ...
#define KVM_GUESTDBG_INJECT_DB ...
#define KVM_GUESTDBG_INJECT_BP ...
#define KVM_GUESTDBG_BLOCKIRQ ...
#define KVM_INTERNAL_ERROR_EMULATION ...
#define KVM_INTERNAL_ERROR_SIMUL_EX ...
#define KVM_INTERNAL_ERROR_DELIVERY_EV ...
#define KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON ...
#define KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES ...
#define KVM_STATS_TYPE_MASK ...
#define KVM_STATS_TYPE_CUMULATIVE ...
#define KVM_STATS_TYPE_PEAK ...
#define KVM_STATS_BASE_MASK ...
#define KVM_STATS_BASE_POW10 ...

struct kvm_stats_header {
    uint32_t flags, name_size, num_desc, id_offset, desc_offset, data_offset;
};

struct kvm_stats_desc {
    uint32_t flags;
    int16_t exponent;
    uint16_t size;
    uint32_t offset, bucket_size;
    ...;
};

struct kvm_userspace_memory_region {
    uint32_t slot;
    uint32_t flags;
    unsigned long long guest_phys_addr;
    unsigned long long memory_size;
    unsigned long long userspace_addr;
};

struct kvm_dirty_log {
    uint32_t slot;
    void *dirty_bitmap;
    ...;
};

struct kvm_regs {
    unsigned long long rax, rbx, rcx, rdx;
    unsigned long long rsi, rdi, rsp, rbp;
    unsigned long long r8, r9, r10, r11;
    unsigned long long r12, r13, r14, r15;
    unsigned long long rip, rflags;
};

struct kvm_segment {
    unsigned long long base;
    uint32_t limit;
    uint16_t selector;
    uint8_t type;
    uint8_t present, dpl, db, s, l, g, avl;
    uint8_t unusable;
    ...;
};

struct kvm_dtable {
    unsigned long long base;
    uint16_t limit;
    ...;
};

struct kvm_sregs {
    struct kvm_segment cs, ds, es, fs, gs, ss;
    struct kvm_segment tr, ldt;
    struct kvm_dtable gdt, idt;
    unsigned long long cr0, cr2, cr3, cr4, cr8;
    unsigned long long efer;
    unsigned long long apic_base;
    unsigned long long interrupt_bitmap[...];
};

struct kvm_fpu {
    uint8_t fpr[8][16];
    uint16_t fcw;
    uint16_t fsw;
    uint8_t ftwx;
    uint16_t last_opcode;
    unsigned long long last_ip;
    unsigned long long last_dp;
    uint8_t xmm[16][16];
    uint32_t mxcsr;
    ...;
};

struct kvm_xcr {
    uint32_t xcr;
    unsigned long long value;
    ...;
};

struct kvm_xcrs {
    uint32_t nr_xcrs;
    struct kvm_xcr xcrs[...];
    ...;
};

struct kvm_lapic_state {
    char regs[...];
};

struct kvm_vcpu_events {
    uint32_t sipi_vector;
    uint32_t flags;
    ...;
};

struct kvm_debugregs {
    unsigned long long db[4];
    unsigned long long dr6;
    unsigned long long dr7;
    unsigned long long flags;
    ...;
};

struct kvm_mp_state {
    uint32_t mp_state;
};

struct kvm_guest_debug_arch {
    unsigned long long debugreg[8];
};

struct kvm_guest_debug {
    uint32_t control;
    struct kvm_guest_debug_arch arch;
    ...;
};

struct kvm_translation {
    unsigned long long linear_address;
    unsigned long long physical_address;
    uint8_t valid;
    uint8_t writeable;
    uint8_t usermode;
    ...;
};

struct kvm_msr_entry {
    uint32_t index;
    unsigned long long data;
    ...;
};

struct kvm_msrs {
    uint32_t nmsrs;
    struct kvm_msr_entry entries[];
    ...;
};

struct kvm_msr_list {
    uint32_t nmsrs;
    uint32_t indices[];
};

struct kvm_cpuid_entry2 {
    uint32_t function;
    uint32_t index;
    uint32_t flags;
    uint32_t eax;
    uint32_t ebx;
    uint32_t ecx;
    uint32_t edx;
    ...;
};

struct kvm_cpuid2 {
    uint32_t nent;
    struct kvm_cpuid_entry2 entries[];
    ...;
};

struct kvm_pic_state {
    uint8_t last_irr, irr, imr, isr;
    uint8_t priority_add;
    uint8_t irq_base;
    uint8_t read_reg_select;
    uint8_t poll;
    uint8_t special_mask;
    uint8_t init_state;
    uint8_t auto_eoi;
    uint8_t rotate_on_auto_eoi;
    uint8_t special_fully_nested_mode;
    uint8_t init4;
    uint8_t elcr;
    uint8_t elcr_mask;
};

struct kvm_ioapic_state {
    unsigned long long base_address;
    uint32_t ioregsel;
    uint32_t id;
    uint32_t irr;
    uint32_t pad;
    union {
        unsigned long long bits;
    } redirtbl[24];
};

struct kvm_irqchip {
    uint32_t chip_id;
    union {
        char dummy[512];
        struct kvm_pic_state pic;
        struct kvm_ioapic_state ioapic;
    } chip;
    ...;
};

struct kvm_pit_config {
    uint32_t flags;
    ...;
};

struct kvm_pit_state2 {
    uint32_t flags;
    ...;
};

struct kvm_irq_level {
    uint32_t irq;
    uint32_t level;
    ...;
};

struct kvm_irqfd {
    uint32_t fd;
    uint32_t gsi;
    uint32_t flags;
    uint32_t resamplefd;
    ...;
};

struct kvm_ioeventfd {
    unsigned long long datamatch;
    unsigned long long addr;
    uint32_t len;
    int32_t fd;
    uint32_t flags;
    ...;
};

struct kvm_irq_routing_irqchip {
    uint32_t irqchip;
    uint32_t pin;
};

struct kvm_irq_routing_msi {
    uint32_t address_lo;
    uint32_t address_hi;
    uint32_t data;
    union {
        uint32_t pad;
        uint32_t devid;
    };
};

/* Only for the alignment that it gives the union below. */
struct kvm_irq_routing_s390_adapter {
    unsigned long long ind_addr;
    unsigned long long summary_addr;
    unsigned long long ind_offset;
    uint32_t summary_offset;
    uint32_t adapter_id;
};

struct kvm_irq_routing_entry {
    uint32_t gsi;
    uint32_t type;
    uint32_t flags;
    uint32_t pad;
    union {
        struct kvm_irq_routing_irqchip irqchip;
        struct kvm_irq_routing_msi msi;
        struct kvm_irq_routing_s390_adapter adapter;
        uint32_t pad[8];
    } u;
};

struct kvm_irq_routing {
    uint32_t nr;
    uint32_t flags;
    struct kvm_irq_routing_entry entries[];
};

struct kvm_msi {
    uint32_t address_lo;
    uint32_t address_hi;
    uint32_t data;
    uint32_t flags;
    ...;
};

struct kvm_clock_data {
    unsigned long long clock;
    uint32_t flags;
    unsigned long long realtime;
    unsigned long long host_tsc;
    ...;
};

struct kvm_enable_cap {
    uint32_t cap;
    uint32_t flags;
    unsigned long long args[4];
    ...;
};

struct kvm_run {
    uint8_t immediate_exit;
    ...;
};
