/* For processors with AVX2 and FMA, of which there are hardly others left. */

#if defined(__x86_64__) && defined(__GNUC__)
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define KIND avx2
#include "fitted.c"
#include "forecast.c"
#include "pinball.c"
#include "steps.c"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
