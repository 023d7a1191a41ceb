/*
 * Run a kernel in libkrun: krun LIBRARY MEMORY_MIB KERNEL [INITRD CMDLINE], an uncompressed ELF.
 * The library is opened at run time; its functions' types are those of its libkrun.h.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { KERNEL_FORMAT_ELF = 1 };

static void *library;

/* The library's function of that name, or nothing to call where it no longer exists. */
static void *function(const char *name)
{
    return dlsym(library, name);
}

static void must(const char *what, int32_t result)
{
    if (result < 0) {
        fprintf(stderr, "krun: %s gave %d\n", what, result);
        exit(1);
    }
}

static void if_there(const char *name, uint32_t context)
{
    int32_t (*call)(uint32_t) = (int32_t(*)(uint32_t))function(name);
    if (call)
        must(name, call(context));
}

int main(int argc, char **argv)
{
    if (argc < 4 || !(library = dlopen(argv[1], RTLD_LAZY))) {
        fprintf(stderr, "krun: %s\n", argc < 4 ? "too few arguments" : dlerror());
        return 1;
    }
    int32_t (*create)(void) = function("krun_create_ctx");
    int32_t (*configure)(uint32_t, uint8_t, uint32_t) = function("krun_set_vm_config");
    int32_t (*console)(uint32_t, int, int) = function("krun_add_serial_console_default");
    int32_t (*kernel)(uint32_t, const char *, uint32_t, const char *, const char *) =
        function("krun_set_kernel");
    int32_t (*enter)(uint32_t) = function("krun_start_enter");

    int32_t context = create();
    must("krun_create_ctx", context);
    must("krun_set_vm_config", configure(context, 1, atoi(argv[2])));
    if_there("krun_disable_implicit_console", context);
    if_there("krun_disable_implicit_vsock", context);
    if_there("krun_disable_implicit_init", context);
    must("krun_add_serial_console_default", console(context, 0, 1));
    must("krun_set_kernel", kernel(context, argv[3], KERNEL_FORMAT_ELF, argc > 4 ? argv[4] : NULL,
                                   argc > 5 ? argv[5] : ""));
    must("krun_start_enter", enter(context));
    return 0;
}
