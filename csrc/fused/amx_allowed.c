/* amx_allowed.c: see fused.h. */
#include "fused.h"

#ifdef __x86_64__
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REQUEST_PERMISSION 0x1023 /* ARCH_REQ_XCOMP_PERM */
#define TILE_DATA 18

bool vlad_amx_allowed(void)
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
#else /* what ends in _amx.c is not compiled */
bool vlad_amx_allowed(void) { return false; }
bool vlad_linear_amx(const struct vlad_linear *job, const struct vlad_pool *pool)
{
    (void)job;
    (void)pool;
    return false;
}
bool vlad_attention_amx(const struct vlad_attention *job, const struct vlad_pool *pool)
{
    (void)job;
    (void)pool;
    return false;
}
void vlad_norm_amx(const float *x, const float *weight, const float *bias, uint16_t *y, size_t n, size_t width,
                   float epsilon, const struct vlad_pool *pool)
{
    (void)x, (void)weight, (void)bias, (void)y, (void)n, (void)width, (void)epsilon, (void)pool;
}
#endif
