"""Declares libslirp to cffi, without a compiler or its headers: a module for dlopen() is generated.

The declarations are those of <slirp/libslirp.h> up to version 1 of SlirpConfig, which every release
takes; tests/unit/backends/test_slirp_abi.py compares them with the installed header.
"""

from __future__ import annotations

from cffi import FFI

CDEF = """
struct in6_addr {
    uint32_t words[4];
};

typedef struct Slirp Slirp;

typedef struct {
    uint32_t version;
    int restricted;
    bool in_enabled;
    uint32_t vnetwork;  // struct in_addr, here and below
    uint32_t vnetmask;
    uint32_t vhost;
    bool in6_enabled;
    struct in6_addr vprefix_addr6;
    uint8_t vprefix_len;
    struct in6_addr vhost6;
    const char *vhostname;
    const char *tftp_server_name;
    const char *tftp_path;
    const char *bootfile;
    uint32_t vdhcp_start;
    uint32_t vnameserver;
    struct in6_addr vnameserver6;
    const char **vdnssearch;
    const char *vdomainname;
    size_t if_mtu;
    size_t if_mru;
    bool disable_host_loopback;
    bool enable_emu;
} SlirpConfig;

typedef struct {
    ssize_t (*send_packet)(const void *frame, size_t length, void *opaque);
    void (*guest_error)(const char *message, void *opaque);
    int64_t (*clock_get_ns)(void *opaque);
    void *(*timer_new)(void (*expired)(void *argument), void *argument, void *opaque);
    void (*timer_free)(void *timer, void *opaque);
    void (*timer_mod)(void *timer, int64_t expire_ms, void *opaque);
    void (*register_poll_fd)(int fd, void *opaque);
    void (*unregister_poll_fd)(int fd, void *opaque);
    void (*notify)(void *opaque);
} SlirpCb;

typedef int (*SlirpAddPollCb)(int fd, int events, void *opaque);
typedef int (*SlirpGetREventsCb)(int index, void *opaque);

const char *slirp_version_string(void);
Slirp *slirp_new(const SlirpConfig *config, const SlirpCb *callbacks, void *opaque);
void slirp_cleanup(Slirp *slirp);
void slirp_input(Slirp *slirp, const uint8_t *frame, int length);
void slirp_pollfds_fill(Slirp *slirp, uint32_t *timeout_ms, SlirpAddPollCb add, void *opaque);
void slirp_pollfds_poll(Slirp *slirp, int failed, SlirpGetREventsCb ready, void *opaque);
int slirp_add_hostxfwd(Slirp *slirp, const void *host_address, uint32_t host_length,
                       const void *guest_address, uint32_t guest_length, int flags);

// Of GLib, which libslirp brings along and complains to.
typedef void (*GLogFunc)(const char *domain, int level, const char *message, void *data);
unsigned int g_log_set_handler(const char *domain, int levels, GLogFunc handler, void *data);
"""

ffibuilder = FFI()
ffibuilder.cdef(CDEF)
ffibuilder.set_source("pyvmm.backends._libslirp", None)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
