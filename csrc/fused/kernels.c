/* kernels.c: see fused.h. */
#include "fused.h"

#if defined __x86_64__
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REQUEST_PERMISSION 0x1023 /* ARCH_REQ_XCOMP_PERM */
#define TILE_DATA 18

static bool amx_allowed(void)
{
    unsigned a, b, c, d;

    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) /* AMX-BF16, AMX-TILE */
        return false;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl") ||
        !__builtin_cpu_supports("avx512bf16"))
        return false;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

const struct vlad_kernels *vlad_kernels(void)
{
    static const struct vlad_kernels amx = {vlad_linear_amx, vlad_attention_amx, vlad_norm_amx, NULL};

    return amx_allowed() ? &amx : NULL;
}
#elif defined __aarch64__ /* where NEON is part of the architecture, and dot products are not */
#include <sys/auxv.h>

#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif

const struct vlad_kernels *vlad_kernels(void)
{
    static const struct vlad_kernels neon = {
        vlad_linear_neon, vlad_attention_neon, vlad_norm_neon, vlad_linear8_neon
    };
    static const struct vlad_kernels with_dot = {
        vlad_linear_neon, vlad_attention_neon, vlad_norm_neon, vlad_linear8_dot
    };

    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? &with_dot : &neon;
}
#else
const struct vlad_kernels *vlad_kernels(void)
{
    return NULL;
}
#endif
