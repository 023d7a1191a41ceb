/*
 * The first process of a guest whose root is a directory of the host. pyvmm/boot/rootfs.py makes
 * the initial RAM file system that it is in, and says there what it is to do:
 *
 *     /modules/000.ko ...   drivers, in the order of loading
 *     /mode                 overlay, ro or rw
 *     /arguments            the command, each word ended by NUL; if empty, the root's own init runs
 *     /environment          of the command, as NAME=VALUE ended by NUL
 *     /terminal             a struct winsize: the command has /dev/hvc0; if empty, it has ports
 *
 * It is linked with nothing, so that it runs whatever the root has.
 */
#include <asm/ioctls.h>
#include <asm/termios.h>
#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/if.h>
#include <linux/mount.h>
#include <linux/poll.h>
#include <linux/sockios.h>
#include <linux/time_types.h>
#include <linux/utsname.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>

enum {
    EXIT_STATUS_PORT = 0x506, /* pyvmm/layout.py */
    WORDS_SIZE = 128 << 10,   /* bytes of arguments, and of environment; pyvmm/boot/rootfs.py */
    WORDS_MAX = 4096,
    CHUNK = 32 << 10, /* what a port takes at once, drivers/char/virtio_console.c */
    PORTS = 3,        /* standard input, output and error */
    DEVICES_MAX = 64, /* among which the one with those ports is looked for */
    PORT_WAIT_MS = 10000,
    NOT_EXECUTABLE = 126, /* POSIX, Shell Command Language, 2.8.2 */
    NOT_FOUND = 127,
    SIGNALLED = 128, /* plus the signal's number, as shells have it */
};

static long call(long number, long a, long b, long c, long d, long e)
{
    register long r10 asm("r10") = d;
    register long r8 asm("r8") = e;
    asm volatile("syscall"
                 : "+a"(number)
                 : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                 : "rcx", "r11", "memory");
    return number;
}
#define CALL5(name, a, b, c, d, e)                                                                 \
    call(__NR_##name, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))
#define CALL3(name, a, b, c) CALL5(name, a, b, c, 0, 0)
#define CALL1(name, a) CALL5(name, a, 0, 0, 0, 0)

static size_t length(const char *text)
{
    size_t n = 0;
    while (text[n])
        n++;
    return n;
}

static int equal(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* Append `text` at `at`, of which there is room enough; the new end. */
static char *append(char *at, const char *text)
{
    while (*text)
        *at++ = *text++;
    *at = 0;
    return at;
}

static char *append_number(char *at, unsigned number, int digits)
{
    for (int place = digits; place--; number /= 10)
        at[place] = '0' + number % 10;
    at[digits] = 0;
    return at + digits;
}

static void say(const char *text)
{
    CALL3(write, 2, text, length(text));
}

/* The first process must not end: the kernel panics, and what was said is in pyvmm's report. */
static void must(long result, const char *what)
{
    if (result >= 0)
        return;
    say("pyvmm's init: ");
    say(what);
    say("\n");
    CALL1(exit_group, 1);
}

static long open_file(const char *path, int flags)
{
    return CALL3(open, path, flags | O_CLOEXEC, 0);
}

/* Read a file, at most `size` bytes; how many there were, 0 if it is not there. */
static size_t read_file(const char *path, char *buffer, size_t size)
{
    long fd = open_file(path, O_RDONLY), got;
    size_t done = 0;
    while (done < size && (got = CALL3(read, fd, buffer + done, size - done)) > 0)
        done += got;
    CALL1(close, fd);
    return done;
}

static void load_modules(void)
{
    char path[] = "/modules/000.ko";
    for (unsigned number = 0;; number++) {
        append(append_number(path + sizeof "/modules/" - 1, number, 3), ".ko");
        long fd = open_file(path, O_RDONLY);
        if (fd < 0)
            return;
        CALL3(finit_module, fd, "", 0); /* what fails is missed below, if it was needed */
        CALL1(close, fd);
        CALL1(unlink, path);
    }
}

static long mount(const char *type, const char *source, const char *target, unsigned long flags,
                  const char *options)
{
    return CALL5(mount, source, target, type, flags, options);
}

static void mount_root(void)
{
    char mode[8] = "";
    read_file("/mode", mode, sizeof mode - 1);
    int overlay = equal(mode, "overlay");
    const char *place = overlay ? "/lower" : "/new";
    CALL3(mkdir, "/new", 0755, 0);
    CALL3(mkdir, place, 0755, 0);
    must(
        mount("virtiofs", "root", place, equal(mode, "rw") ? 0 : MS_RDONLY, NULL),
        "the root cannot be mounted; virtiofs and virtio_pci must be in the kernel or its modules");
    if (overlay) {
        CALL3(mkdir, "/ram", 0755, 0);
        must(mount("tmpfs", "tmpfs", "/ram", 0, "mode=0755"), "the kernel must have tmpfs");
        CALL3(mkdir, "/ram/upper", 0755, 0);
        CALL3(mkdir, "/ram/work", 0755, 0);
        must(mount("overlay", "overlay", "/new", 0,
                   "lowerdir=/lower,upperdir=/ram/upper,workdir=/ram/work"),
             "the overlay cannot be mounted; overlay must be in the kernel or its modules");
    }
    mount("devtmpfs", "devtmpfs", "/new/dev", MS_NOSUID, "mode=0755");
    mount("proc", "proc", "/new/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount("sysfs", "sysfs", "/new/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount("tmpfs", "tmpfs", "/new/run", MS_NOSUID | MS_NODEV, "mode=0755");
    if (equal(mode, "ro"))
        mount("tmpfs", "tmpfs", "/new/tmp", MS_NOSUID | MS_NODEV, "mode=1777");
    must(CALL1(chdir, "/new"), "the root is gone");
    must(mount(NULL, ".", "/", MS_MOVE, NULL), "the root cannot be moved");
    must(CALL1(chroot, "."), "the root cannot be entered");
    must(CALL1(chdir, "/"), "the root cannot be entered");
}

/* The strings in `buffer`, which each end with NUL, as a list that ends with NULL. */
static void split(char *buffer, size_t size, char **list)
{
    size_t at = 0, count = 0;
    while (at < size && count < WORDS_MAX) {
        list[count++] = buffer + at;
        at += length(buffer + at) + 1;
    }
    list[count] = NULL;
}

/* Become the program, looked for as a shell does; does not return. */
static void execute(char **argv, char **envp)
{
    static char path[WORDS_SIZE + 64];
    static const char *const places[] = {
        "/usr/local/sbin/", "/usr/local/bin/", "/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/",
    };
    long error = -ENOENT;
    int slash = 0;
    for (const char *c = argv[0]; *c; c++)
        slash |= *c == '/';
    if (slash)
        error = CALL3(execve, argv[0], argv, envp);
    for (size_t i = 0; !slash && i < sizeof places / sizeof *places; i++) {
        append(append(path, places[i]), argv[0]);
        long failed = CALL3(execve, path, argv, envp);
        if (failed != -ENOENT)
            error = failed;
    }
    int missing = error == -ENOENT || error == -ENOTDIR;
    say(argv[0]);
    say(missing ? ": no such program\n" : ": it cannot be executed\n");
    CALL1(exit_group, missing ? NOT_FOUND : NOT_EXECUTABLE);
}

/* Open one of the ports named pyvmm.stdin and so on, once the driver has made it. */
static long open_port(const char *name)
{
    struct __kernel_timespec pause = {.tv_nsec = 1000000};
    char path[64], found[32];
    for (int wait = 0; wait < PORT_WAIT_MS; wait++) {
        for (int device = 0; device < DEVICES_MAX; device++)
            for (int port = 0; port < PORTS; port++) {
                char node[16], *at = append(node, "vport");
                at = append_number(at, device, device < 10 ? 1 : 2);
                append_number(append(at, "p"), port, 1);
                append(append(append(path, "/sys/class/virtio-ports/"), node), "/name");
                size_t got = read_file(path, found, sizeof found - 1);
                found[got ? got - 1 : 0] = 0; /* without the line feed */
                if (!equal(found, name))
                    continue;
                append(append(path, "/dev/"), node);
                long fd = open_file(path, O_RDWR);
                if (fd >= 0)
                    return fd;
            }
        CALL3(nanosleep, &pause, NULL, 0);
    }
    must(-1, "the command has no ports; virtio_console must be in the kernel or its modules");
    return -1;
}

/* Copy what can be read at once: how much, 0 at the end, or a negative error. */
static long copy(int from, int to)
{
    static char buffer[CHUNK];
    long got = CALL3(read, from, buffer, sizeof buffer), put;
    for (long done = 0; done < got; done += put)
        if ((put = CALL3(write, to, buffer + done, got - done)) < 0)
            return put;
    return got;
}

/* Wait for `process`, and for whatever else ends meanwhile; the status as a shell would tell it. */
static long wait_for(long process)
{
    int status = 0;
    while (CALL5(wait4, -1, &status, 0, 0, 0) != process)
        ;
    int signal = status & 0x7f; /* wait(2) */
    return signal ? SIGNALLED + signal : status >> 8 & 0xff;
}

/* Copy output until `process` ends, and then what it wrote between our last look and its end. */
static long copy_output(long process, int (*pipes)[2], const int *to)
{
    struct pollfd wanted[PORTS] = {{.fd = CALL3(pidfd_open, process, 0, 0), .events = POLLIN}};
    must(wanted[0].fd, "the kernel must have pidfd_open (Linux 5.3)");
    for (int i = 1; i < PORTS; i++) {
        wanted[i] = (struct pollfd){.fd = pipes[i][0], .events = POLLIN};
        CALL3(fcntl, pipes[i][0], F_SETFL, O_NONBLOCK);
    }
    do {
        CALL3(poll, wanted, PORTS, -1);
        for (int i = 1; i < PORTS; i++)
            if (wanted[i].revents && copy(pipes[i][0], to[i]) == 0)
                wanted[i].fd = -1; /* closed by all who had it */
    } while (!wanted[0].revents);
    CALL3(kill, -1, SIGKILL, 0); /* nobody else may write for ever */
    for (int i = 1; i < PORTS; i++)
        while (copy(pipes[i][0], to[i]) > 0)
            ;
    return wait_for(process);
}

/* A program may want to open its standard files again, as /dev/stderr, which ports do not allow. */
static long run_with_ports(char **argv, char **envp)
{
    int pipes[PORTS][2], ports[PORTS];
    static const char *const names[PORTS] = {"pyvmm.stdin", "pyvmm.stdout", "pyvmm.stderr"};
    for (int i = 0; i < PORTS; i++) {
        ports[i] = open_port(names[i]);
        must(CALL3(pipe2, pipes[i], O_CLOEXEC, 0), "there are no pipes");
    }
    long process = CALL1(fork, 0);
    if (!process) {
        CALL1(setsid, 0);
        for (int i = 0; i < PORTS; i++)
            CALL3(dup2, pipes[i][i > 0], i, 0);
        execute(argv, envp);
    }
    CALL1(close, pipes[1][1]);
    CALL1(close, pipes[2][1]);
    if (!CALL1(fork, 0)) { /* a command that does not read must not hold up its output */
        CALL1(close, pipes[0][0]);
        while (copy(ports[0], pipes[0][1]) > 0)
            ;
        CALL1(exit_group, 0);
    }
    CALL1(close, pipes[0][0]);
    CALL1(close, pipes[0][1]);
    return copy_output(process, pipes, ports);
}

static long run_with_terminal(char **argv, char **envp, struct winsize *size)
{
    long fd = open_file("/dev/hvc0", O_RDWR | O_NOCTTY);
    must(fd, "the command has no terminal; virtio_console must be in the kernel or its modules");
    CALL3(ioctl, fd, TIOCSWINSZ, size);
    long process = CALL1(fork, 0);
    if (!process) {
        CALL1(setsid, 0);
        CALL3(ioctl, fd, TIOCSCTTY, 0);
        for (int standard = 0; standard < 3; standard++)
            CALL3(dup2, fd, standard, 0);
        execute(argv, envp);
    }
    long status = wait_for(process);
    CALL3(ioctl, fd, TCSBRK, 1); /* as tcdrain(3) */
    return status;
}

/* What udev or systemd would do for a command that needs no more. */
static void prepare(void)
{
    CALL3(mkdir, "/dev/pts", 0755, 0);
    CALL3(mkdir, "/dev/shm", 01777, 0);
    mount("devpts", "devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666");
    mount("tmpfs", "tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
    CALL3(symlink, "/proc/self/fd", "/dev/fd", 0);
    CALL3(symlink, "/proc/self/fd/0", "/dev/stdin", 0);
    CALL3(symlink, "/proc/self/fd/1", "/dev/stdout", 0);
    CALL3(symlink, "/proc/self/fd/2", "/dev/stderr", 0);

    char name[__NEW_UTS_LEN];
    size_t size = read_file("/etc/hostname", name, sizeof name), end = 0;
    while (end < size && name[end] != '\n')
        end++;
    CALL3(sethostname, name, end, 0);

    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    long fd = CALL3(socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    CALL3(ioctl, fd, SIOCSIFFLAGS, &loopback);
    CALL1(close, fd);
}

static void end(long status)
{
    CALL1(sync, 0);
    must(CALL3(ioperm, EXIT_STATUS_PORT, 1, 1), "the kernel must allow I/O ports (ioperm)");
    asm volatile("outb %0, %1" : : "a"((uint8_t)status), "d"((uint16_t)EXIT_STATUS_PORT));
    CALL1(pause, 0);
}

__attribute__((used)) void start(long *stack)
{
    static char arguments[WORDS_SIZE], environment[WORDS_SIZE];
    static char *argv[WORDS_MAX + 1], *envp[WORDS_MAX + 1];
    static const char *const inits[] = {"/sbin/init", "/etc/init", "/bin/init", "/bin/sh"};
    struct winsize size;
    load_modules();
    split(arguments, read_file("/arguments", arguments, sizeof arguments - 1), argv);
    split(environment, read_file("/environment", environment, sizeof environment - 1), envp);
    int terminal = read_file("/terminal", (char *)&size, sizeof size) == sizeof size;
    mount_root();
    if (argv[0]) {
        prepare();
        end(terminal ? run_with_terminal(argv, envp, &size) : run_with_ports(argv, envp));
    }
    char **ours = (char **)(stack + 1), **theirs = ours + *stack + 1;
    for (size_t i = 0; i < sizeof inits / sizeof *inits; i++) { /* as kernel_init() */
        ours[0] = (char *)inits[i];
        CALL3(execve, inits[i], ours, theirs);
    }
    must(-1, "the root has no init; there must be /sbin/init or a command");
}

asm(".globl _start\n"
    "_start: mov %rsp, %rdi\n"
    "and $-16, %rsp\n"
    "call start\n");
