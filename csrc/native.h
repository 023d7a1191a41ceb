/*
 * The contract between the C fast path and Python. Read by the C compiler and, as it stands, by
 * cffi: so it has no preprocessor lines. All addresses are guest-physical or port numbers.
 */

enum pv_limits {
    PV_RULES = 192,       /* published and posted registers of one machine */
    PV_RING_BYTES = 4096, /* posted writes that wait for Python, for one register */
    PV_TRACE = 32,        /* last exits that a vCPU remembers; a power of two */
    PV_PLACES = 256,      /* addresses whose accesses a vCPU counts; a power of two */
    PV_PROBES = 8,        /* of them, how many are looked at for one access */
    PV_INFO = 18,         /* words of detail about an exit that ends or suspends the guest */
};

/* Why pv_vcpu_run returned; the first four ask Python to answer an access. */
enum pv_exit_kind {
    PV_EXIT_PIO_READ,
    PV_EXIT_PIO_WRITE,
    PV_EXIT_MMIO_READ,
    PV_EXIT_MMIO_WRITE,
    PV_EXIT_INTERRUPTED,    /* kicked, or a signal arrived */
    PV_EXIT_HLT,            /* only without the in-kernel interrupt controllers */
    PV_EXIT_SHUTDOWN,       /* triple fault */
    PV_EXIT_FAIL_ENTRY,     /* info: hardware reason, physical CPU */
    PV_EXIT_INTERNAL_ERROR, /* info: suberror, number of data words, data */
    PV_EXIT_DEBUG,          /* info: exception, pc, dr6, dr7 */
    PV_EXIT_SYSTEM_EVENT,   /* info: type, number of data words, data */
    PV_EXIT_UNKNOWN,        /* info: KVM's exit reason */
    PV_EXIT_ERROR,          /* KVM_RUN itself failed; info: errno */
    PV_EXIT_KINDS,
};

enum pv_space { PV_PIO, PV_MMIO };

enum pv_rule_kind {
    PV_RULE_BYTES,   /* reads are answered from bytes */
    PV_RULE_ONES,    /* reads give all ones */
    PV_RULE_COUNTER, /* reads give CLOCK_MONOTONIC in ticks of hz, modulo 2^bits */
    PV_RULE_POST,    /* one-byte writes go to ring */
};

/* Posted one-byte writes of one register. Several vCPUs append, one Python thread drains. */
struct pv_ring {
    int lock; /* a spin lock: held for a few stores, never across a system call */
    uint32_t used;
    int event;           /* eventfd, signalled when the ring is no longer empty */
    uint8_t bytes[4096]; /* PV_RING_BYTES */
};

struct pv_rule {
    uint64_t base;
    uint32_t size;
    uint8_t space;
    uint8_t kind;
    uint8_t bits;
    uint8_t enabled; /* written by Python with the device's lock held */
    uint64_t hz;
    uint8_t *bytes; /* at least `size` of them */
    struct pv_ring *ring;
};

/* All rules of a machine. Rules are only ever added; `count` is written last. */
struct pv_fastpath {
    uint32_t count;
    struct pv_rule rules[192]; /* PV_RULES */
};

/* One of the last exits, for a person who asks why the guest died. */
struct pv_trace {
    uint64_t rip;
    uint64_t address;
    uint8_t kind;
    uint8_t size;
};

/* How often an address has been accessed in one way; unused while `count` is 0. */
struct pv_place {
    uint64_t address;
    uint64_t count;
    uint8_t kind;
};

struct pv_vcpu {
    int fd;
    int index;
    struct kvm_run *run;
    uint64_t run_size;
    struct pv_fastpath *fastpath;

    int thread; /* its kernel thread id while it may be kicked by signal, else 0 */

    /* The access that Python is asked to answer: a read's answer goes to `value`. */
    uint64_t address;
    uint64_t value;
    uint32_t size;
    uint32_t pending; /* 1 while KVM waits for this access to be finished */
    uint32_t at;      /* which element of a string access this is */
    uint64_t begun;   /* when it came, or 0 if nobody traces; see pv_now */

    struct pv_tracer *tracer; /* NULL if nobody traces; Python sets it, any time */

    uint64_t info[18]; /* PV_INFO */

    uint64_t exits[13];        /* PV_EXIT_KINDS: all exits, by kind */
    uint64_t answered[13];     /* those of them that never left C */
    uint32_t traced;           /* exits traced so far; the last is trace[(traced - 1) % PV_TRACE] */
    struct pv_trace trace[32]; /* PV_TRACE */

    /* Accesses by kind and address: a hash table that only grows. What finds no room in it is
     * counted in `elsewhere`. Python reads it while the vCPU runs. */
    struct pv_place places[256]; /* PV_PLACES */
    uint64_t elsewhere[4];       /* by kind */
};

/* ioctl(2); the result, or -errno. Any thread. */
long pv_ioctl(int fd, unsigned long request, void *arg);
long pv_ioctl_value(int fd, unsigned long request, unsigned long arg);

/* What CPUID tells this host of `function`: eax, ebx, ecx, edx. Any thread. */
void pv_cpuid(uint32_t function, uint32_t registers[4]);

/* Map the kvm_run of vcpu->fd, run_size bytes; 0 or -errno. */
int pv_vcpu_open(struct pv_vcpu *vcpu);
void pv_vcpu_close(struct pv_vcpu *vcpu);

/* Make the calling thread the one that pv_vcpu_kick interrupts, named vcpu<index>, with every
 * other signal blocked but those of its own faults; 0 or -errno. pv_vcpu_leave takes that back. */
int pv_vcpu_enter(struct pv_vcpu *vcpu);
void pv_vcpu_leave(struct pv_vcpu *vcpu);

/* Run the guest until Python must decide; an enum pv_exit_kind. Only on the vCPU's thread. */
int pv_vcpu_run(struct pv_vcpu *vcpu);

/* Make pv_vcpu_run return soon, also if it is not running now. Any thread. */
void pv_vcpu_kick(struct pv_vcpu *vcpu);

/* Add a rule: its index, or -1 if there are PV_RULES already. One thread at a time. */
int pv_rule_add(struct pv_fastpath *fastpath, const struct pv_rule *rule);
void pv_rule_enable(struct pv_rule *rule, int enabled);

/* Move what is posted to `out` (PV_RING_BYTES long); how many bytes. Any thread. */
uint32_t pv_ring_drain(struct pv_ring *ring, uint8_t *out);

/* The built-in guest: a Multiboot image, see guests/hello.S. */
extern const unsigned char pv_hello[];
extern const unsigned int pv_hello_size;

/* The first process of a guest with a root directory: an ELF program, see guest/init.c. */
extern const unsigned char pv_init[];
extern const unsigned int pv_init_size;
