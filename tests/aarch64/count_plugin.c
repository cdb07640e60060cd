/* count_plugin.c: a plugin of qemu-aarch64 that counts the instructions between two functions of the program,
 * count_begin and count_end, and prints a number for each pair on standard error. Built for this machine:
 *
 *     gcc -shared -fPIC -DVERSION=1 count_plugin.c -o count_plugin.so
 *
 * QEMU's header is not packaged. These few functions have been as they are since QEMU 4.2; VERSION is that of its
 * interface, 1 before QEMU 9 and 2 from there on. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*translated)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, void (*executed)(unsigned, void *),
                                                 int flags, void *data);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
extern const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *instruction);

__attribute__((visibility("default"))) int qemu_plugin_version = VERSION;

#define BEGIN ((void *)-1)
#define END ((void *)-2)

static uint64_t counted;
static bool counting;

/* Before each run of a block of instructions that is left only at its end. */
static void executed(unsigned cpu, void *what)
{
    (void)cpu;
    if (what == BEGIN) {
        counted = 0;
        counting = true;
    } else if (what == END) {
        counting = false;
        fprintf(stderr, "counted %" PRIu64 "\n", counted);
    } else if (counting) {
        counted += (uintptr_t)what;
    }
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb)
{
    const char *name = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(tb, 0));
    void *what = (void *)(uintptr_t)qemu_plugin_tb_n_insns(tb);

    (void)id;
    if (name && !strcmp(name, "count_begin"))
        what = BEGIN;
    if (name && !strcmp(name, "count_end"))
        what = END;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, what);
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    (void)argc;
    (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
