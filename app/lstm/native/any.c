/* For every processor; and the word on whether avx2.c would run on this one. */

#define KIND any
#include "fitted.c"
#include "forecast.c"
#include "pinball.c"
#include "steps.c"

int has_avx2(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 0;
#endif
}
