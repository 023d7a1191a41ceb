/*
 * The hot exit loop: run a vCPU until Python must decide.
 *
 * Facts about kicks. KVM_RUN returns EINTR at once if kvm_run.immediate_exit is set when it begins
 * (KVM api.rst 5, "immediate_exit"), and at the next signal while the guest runs. A kicker first
 * stores what it wants, then sets immediate_exit, then sends the signal. The vCPU's thread, on
 * EINTR, clears immediate_exit and then returns to its caller, who looks at what is wanted. So a
 * kick that falls between two KVM_RUNs is met by immediate_exit, one that falls into KVM_RUN by the
 * signal; and if the clearing store wipes out a kick, what that kick wants was stored before and
 * is about to be seen.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "native.h"
#include "thread.h"
#include "trace.h"

_Static_assert(sizeof((struct pv_ring){0}.bytes) == PV_RING_BYTES, "native.h");
_Static_assert(sizeof((struct pv_vcpu){0}.places) == PV_PLACES * sizeof(struct pv_place),
               "native.h");
_Static_assert(sizeof((struct pv_fastpath){0}.rules) == PV_RULES * sizeof(struct pv_rule),
               "native.h");
_Static_assert(sizeof((struct pv_vcpu){0}.info) == PV_INFO * sizeof(uint64_t), "native.h");
_Static_assert(sizeof((struct pv_vcpu){0}.exits) == PV_EXIT_KINDS * sizeof(uint64_t), "native.h");
_Static_assert(sizeof((struct pv_vcpu){0}.trace) == PV_TRACE * sizeof(struct pv_trace), "native.h");

static int kick_signal;

long pv_ioctl(int fd, unsigned long request, void *arg)
{
    long result = ioctl(fd, request, arg);
    return result < 0 ? -errno : result;
}

long pv_ioctl_value(int fd, unsigned long request, unsigned long arg)
{
    long result = ioctl(fd, request, arg);
    return result < 0 ? -errno : result;
}

void pv_cpuid(uint32_t function, uint32_t registers[4])
{
    __cpuid(function, registers[0], registers[1], registers[2], registers[3]);
}

/* ---- signals ---- */

static void on_kick(int signal)
{
    (void)signal; /* all it has to do is to interrupt KVM_RUN */
}

/* Take the first real-time signal that nobody in this process handles. */
static void choose_kick_signal(void)
{
    struct sigaction kick = {.sa_handler = on_kick};
    for (int signal = SIGRTMIN; signal <= SIGRTMAX; signal++) {
        struct sigaction old;
        if (sigaction(signal, NULL, &old) == 0 && old.sa_handler == SIG_DFL &&
            sigaction(signal, &kick, NULL) == 0) {
            kick_signal = signal;
            return;
        }
    }
}

int pv_vcpu_enter(struct pv_vcpu *vcpu)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    char name[16]; /* prctl(2), PR_SET_NAME */
    sigset_t blocked;

    snprintf(name, sizeof(name), "vcpu%d", vcpu->index);
    pthread_setname_np(pthread_self(), name);
    pthread_once(&once, choose_kick_signal);
    if (!kick_signal)
        return -EBUSY;
    pv_signals_for_others(&blocked);
    sigdelset(&blocked, kick_signal);
    int error = pthread_sigmask(SIG_SETMASK, &blocked, NULL);
    if (error)
        return -error;
    __atomic_store_n(&vcpu->thread, (int)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
    return 0;
}

void pv_vcpu_leave(struct pv_vcpu *vcpu)
{
    __atomic_store_n(&vcpu->thread, 0, __ATOMIC_SEQ_CST);
}

void pv_vcpu_kick(struct pv_vcpu *vcpu)
{
    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    int thread = __atomic_load_n(&vcpu->thread, __ATOMIC_SEQ_CST);
    if (thread)
        syscall(SYS_tgkill, getpid(), thread, kick_signal);
}

/* ---- vCPU ---- */

int pv_vcpu_open(struct pv_vcpu *vcpu)
{
    void *run = mmap(NULL, vcpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (run == MAP_FAILED)
        return -errno;
    vcpu->run = run;
    vcpu->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
    return 0;
}

void pv_vcpu_close(struct pv_vcpu *vcpu)
{
    if (vcpu->run)
        munmap(vcpu->run, vcpu->run_size);
    vcpu->run = NULL;
}

/* ---- published registers and posted writes ---- */

int pv_rule_add(struct pv_fastpath *fastpath, const struct pv_rule *rule)
{
    uint32_t at = fastpath->count;
    if (at == PV_RULES)
        return -1;
    fastpath->rules[at] = *rule;
    /* A vCPU that sees the new count sees the rule: it loads the count first. */
    __atomic_store_n(&fastpath->count, at + 1, __ATOMIC_RELEASE);
    return (int)at;
}

void pv_rule_enable(struct pv_rule *rule, int enabled)
{
    /* What Python stored in the rule's bytes must be there for a vCPU that sees it enabled. */
    __atomic_store_n(&rule->enabled, (uint8_t)enabled, __ATOMIC_RELEASE);
}

static void ring_lock(struct pv_ring *ring)
{
    while (__atomic_exchange_n(&ring->lock, 1, __ATOMIC_ACQUIRE))
        __builtin_ia32_pause();
}

static void ring_unlock(struct pv_ring *ring)
{
    __atomic_store_n(&ring->lock, 0, __ATOMIC_RELEASE);
}

/* Append one byte; 0 if the ring is full. */
static int ring_append(struct pv_ring *ring, uint8_t byte)
{
    ring_lock(ring);
    uint32_t used = ring->used;
    if (used < PV_RING_BYTES) {
        ring->bytes[used] = byte;
        ring->used = used + 1;
    }
    ring_unlock(ring);
    if (used == 0)
        eventfd_write(ring->event, 1);
    return used < PV_RING_BYTES;
}

uint32_t pv_ring_drain(struct pv_ring *ring, uint8_t *out)
{
    ring_lock(ring);
    uint32_t used = ring->used;
    memcpy(out, ring->bytes, used);
    ring->used = 0;
    ring_unlock(ring);
    return used;
}

static uint64_t counter(uint64_t hz, unsigned bits)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t ticks = (uint64_t)now.tv_sec * hz + (uint64_t)now.tv_nsec * hz / 1000000000u;
    return ticks & (((uint64_t)1 << bits) - 1);
}

static const struct pv_rule *find_rule(const struct pv_vcpu *vcpu, unsigned space, int write)
{
    const struct pv_fastpath *fastpath = vcpu->fastpath;
    if (!fastpath)
        return NULL;
    uint32_t count = __atomic_load_n(&fastpath->count, __ATOMIC_ACQUIRE);
    for (uint32_t at = 0; at < count; at++) {
        const struct pv_rule *rule = &fastpath->rules[at];
        uint64_t offset = vcpu->address - rule->base;
        if (offset < rule->size && vcpu->size <= rule->size - offset && rule->space == space &&
            (rule->kind == PV_RULE_POST) == write &&
            __atomic_load_n(&rule->enabled, __ATOMIC_ACQUIRE))
            return rule;
    }
    return NULL;
}

static int answer_read(struct pv_vcpu *vcpu, unsigned space)
{
    const struct pv_rule *rule = find_rule(vcpu, space, 0);
    if (!rule)
        return 0;
    vcpu->value = ~(uint64_t)0;
    if (rule->kind == PV_RULE_BYTES)
        memcpy(&vcpu->value, rule->bytes + (vcpu->address - rule->base), vcpu->size);
    else if (rule->kind == PV_RULE_COUNTER)
        vcpu->value = counter(rule->hz, rule->bits) >> 8 * (vcpu->address - rule->base);
    return 1;
}

static int answer_write(struct pv_vcpu *vcpu, unsigned space)
{
    const struct pv_rule *rule = find_rule(vcpu, space, 1);
    return rule && vcpu->size == 1 && ring_append(rule->ring, (uint8_t)vcpu->value);
}

/* ---- the loop ---- */

/* Count an access by its address. The guest chooses the addresses, so the search is short. */
static void count(struct pv_vcpu *vcpu, int kind)
{
    uint64_t hash = (vcpu->address ^ (uint64_t)kind << 62) * 0x9e3779b97f4a7c15u;

    for (unsigned probe = 0; probe < PV_PROBES; probe++) {
        struct pv_place *place = &vcpu->places[(probe + (hash >> 56)) % PV_PLACES];
        if (!place->count) {
            place->address = vcpu->address;
            place->kind = (uint8_t)kind;
        }
        if (!place->count || (place->address == vcpu->address && place->kind == kind)) {
            /* Python must not see a count before the address that it is of. */
            __atomic_store_n(&place->count, place->count + 1, __ATOMIC_RELEASE);
            return;
        }
    }
    vcpu->elsewhere[kind]++;
}

static void trace(struct pv_vcpu *vcpu, int kind)
{
    struct pv_trace *entry = &vcpu->trace[vcpu->traced++ % PV_TRACE];
    entry->rip = vcpu->run->s.regs.regs.rip;
    entry->address = vcpu->address;
    entry->kind = (uint8_t)kind;
    entry->size = (uint8_t)vcpu->size;
}

/* Note when an access came, for trace_exit. */
static void begin_exit(struct pv_vcpu *vcpu)
{
    vcpu->begun = __atomic_load_n(&vcpu->tracer, __ATOMIC_ACQUIRE) ? pv_now() : 0;
}

/* Tell those who trace of an exit that has been answered. */
static void trace_exit(struct pv_vcpu *vcpu, int kind, enum pv_point point)
{
    struct pv_tracer *tracer = __atomic_load_n(&vcpu->tracer, __ATOMIC_ACQUIRE);
    uint64_t now, value = vcpu->value;

    if (!tracer)
        return;
    if (vcpu->size < sizeof(value)) /* a read's answer may have more */
        value &= ((uint64_t)1 << 8 * vcpu->size) - 1;
    now = pv_now();
    if (!vcpu->begun) /* they have come meanwhile */
        vcpu->begun = now;
    pv_trace(tracer, &(struct pv_record){
                         .time = vcpu->begun,
                         .duration = now - vcpu->begun,
                         .words = {vcpu->address, value, vcpu->run->s.regs.regs.rip},
                         .size = vcpu->size,
                         .number = (uint16_t)vcpu->index,
                         .point = (uint8_t)point,
                         .what = (uint8_t)kind,
                     });
}

/* An exit that is no access. */
static void trace_event(struct pv_vcpu *vcpu, int kind)
{
    vcpu->address = vcpu->value = vcpu->size = 0;
    vcpu->begun = 0;
    trace_exit(vcpu, kind, PV_POINT_EXIT_OTHER);
}

static uint8_t *pio_data(struct pv_vcpu *vcpu)
{
    return (uint8_t *)vcpu->run + vcpu->run->io.data_offset + (size_t)vcpu->at * vcpu->size;
}

/* Answer the elements of a port access, a string instruction's one by one; the kind if one of them
 * is Python's, -1 when all are done. */
static int do_pio(struct pv_vcpu *vcpu)
{
    const struct kvm_run *run = vcpu->run;
    int in = run->io.direction == KVM_EXIT_IO_IN;
    int kind = in ? PV_EXIT_PIO_READ : PV_EXIT_PIO_WRITE;

    for (; vcpu->at < run->io.count; vcpu->at++, vcpu->pending = 0) {
        if (!vcpu->pending) {
            vcpu->address = run->io.port;
            vcpu->size = run->io.size;
            vcpu->value = 0;
            if (!in)
                memcpy(&vcpu->value, pio_data(vcpu), vcpu->size);
            vcpu->exits[kind]++;
            count(vcpu, kind);
            trace(vcpu, kind);
            begin_exit(vcpu);
            if (!(in ? answer_read(vcpu, PV_PIO) : answer_write(vcpu, PV_PIO))) {
                vcpu->pending = 1;
                return kind;
            }
            vcpu->answered[kind]++;
        }
        if (in)
            memcpy(pio_data(vcpu), &vcpu->value, vcpu->size);
        trace_exit(vcpu, kind, PV_POINT_EXIT_PIO);
    }
    vcpu->at = 0;
    return -1;
}

static int do_mmio(struct pv_vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    int kind = run->mmio.is_write ? PV_EXIT_MMIO_WRITE : PV_EXIT_MMIO_READ;

    if (!vcpu->pending) {
        vcpu->address = run->mmio.phys_addr;
        vcpu->size = run->mmio.len;
        vcpu->value = 0;
        if (run->mmio.is_write)
            memcpy(&vcpu->value, run->mmio.data, vcpu->size);
        vcpu->exits[kind]++;
        count(vcpu, kind);
        trace(vcpu, kind);
        begin_exit(vcpu);
        if (!(run->mmio.is_write ? answer_write(vcpu, PV_MMIO) : answer_read(vcpu, PV_MMIO))) {
            vcpu->pending = 1;
            return kind;
        }
        vcpu->answered[kind]++;
    }
    if (!run->mmio.is_write)
        memcpy(run->mmio.data, &vcpu->value, vcpu->size);
    trace_exit(vcpu, kind, PV_POINT_EXIT_MMIO);
    vcpu->pending = 0;
    return -1;
}

/* Keep the detail of an exit that Python has to name. */
static int describe(struct pv_vcpu *vcpu)
{
    const struct kvm_run *run = vcpu->run;
    uint64_t *info = vcpu->info;

    switch (run->exit_reason) {
    case KVM_EXIT_HLT:
        return PV_EXIT_HLT;
    case KVM_EXIT_SHUTDOWN:
        return PV_EXIT_SHUTDOWN;
    case KVM_EXIT_FAIL_ENTRY:
        info[0] = run->fail_entry.hardware_entry_failure_reason;
        info[1] = run->fail_entry.cpu;
        return PV_EXIT_FAIL_ENTRY;
    case KVM_EXIT_INTERNAL_ERROR:
        info[0] = run->internal.suberror;
        info[1] = run->internal.ndata;
        memcpy(info + 2, run->internal.data, sizeof(run->internal.data));
        return PV_EXIT_INTERNAL_ERROR;
    case KVM_EXIT_DEBUG:
        info[0] = run->debug.arch.exception;
        info[1] = run->debug.arch.pc;
        info[2] = run->debug.arch.dr6;
        info[3] = run->debug.arch.dr7;
        return PV_EXIT_DEBUG;
    case KVM_EXIT_SYSTEM_EVENT:
        info[0] = run->system_event.type;
        info[1] = run->system_event.ndata;
        memcpy(info + 2, run->system_event.data, sizeof(run->system_event.data));
        return PV_EXIT_SYSTEM_EVENT;
    default:
        info[0] = run->exit_reason;
        return PV_EXIT_UNKNOWN;
    }
}

_Static_assert(sizeof((struct kvm_run){0}.internal.data) <= (PV_INFO - 2) * sizeof(uint64_t), "");
_Static_assert(sizeof((struct kvm_run){0}.system_event.data) <= (PV_INFO - 2) * sizeof(uint64_t),
               "");

int pv_vcpu_run(struct pv_vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    int resume = vcpu->pending; /* Python has answered: finish that access first */
    int kind;

    for (;; resume = 0) {
        if (!resume && ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
            int error = errno;
            if (error == EAGAIN) /* an application processor has been started */
                continue;
            if (error == EINTR) {
                __atomic_store_n(&run->immediate_exit, 0, __ATOMIC_SEQ_CST);
                kind = PV_EXIT_INTERRUPTED;
            } else {
                vcpu->info[0] = (uint64_t)error;
                kind = PV_EXIT_ERROR;
            }
            vcpu->exits[kind]++;
            trace_event(vcpu, kind);
            return kind;
        }
        if (run->exit_reason == KVM_EXIT_IO)
            kind = do_pio(vcpu);
        else if (run->exit_reason == KVM_EXIT_MMIO)
            kind = do_mmio(vcpu);
        else {
            kind = describe(vcpu);
            vcpu->address = vcpu->size = 0;
            vcpu->exits[kind]++;
            trace(vcpu, kind);
            trace_event(vcpu, kind);
        }
        if (kind >= 0)
            return kind;
    }
}
