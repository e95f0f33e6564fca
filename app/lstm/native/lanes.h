/* Arithmetic on eight numbers at once, and products of matrices. */

#ifndef ENGRAM_LANES_H
#define ENGRAM_LANES_H

#include "engine.h"

#include <math.h>

enum { LANES = 8, ROWS = 6 };

typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int Bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE Lanes all(float value) { return (Lanes){0} + value; }
INLINE Lanes pick(Bits which, Lanes a, Lanes b) { return (Lanes)((which & (Bits)a) | (~which & (Bits)b)); }
INLINE Lanes magnitude(Lanes x) { return (Lanes)((Bits)x & 0x7fffffff); }

/* e^x to 2 ulp, 0 and 3e38 beyond what float32 holds. Cephes' polynomial (Moshier, 1989). */
INLINE Lanes exponential(Lanes x)
{
    x = pick(x < -87.0f, all(-87.0f), pick(x > 88.0f, all(88.0f), x));
    const Lanes y0 = x * 1.44269504f;
    const Bits whole = __builtin_convertvector(y0 + pick(y0 < 0.0f, all(-0.5f), all(0.5f)), Bits);
    const Lanes n = __builtin_convertvector(whole, Lanes);
    const Lanes r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Lanes y = all(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    return y * (Lanes)((whole + 127) << 23);
}

/* log x of normal positive numbers. Cephes' polynomial. */
INLINE Lanes logarithm(Lanes x)
{
    Bits bits = (Bits)x, exponent = (bits >> 23) - 126;
    Lanes m = (Lanes)((bits & 0x007fffff) | 0x3f000000);
    const Bits is_low = m < 0.70710678f;
    exponent += is_low; /* true is -1 */
    m = m - 1.0f + (Lanes)(is_low & (Bits)m);
    const Lanes e = __builtin_convertvector(exponent, Lanes), z = m * m;
    Lanes y = all(7.0376836292e-2f);
    y = y * m - 1.1514610310e-1f;
    y = y * m + 1.1676998740e-1f;
    y = y * m - 1.2420140846e-1f;
    y = y * m + 1.4249322787e-1f;
    y = y * m - 1.6668057665e-1f;
    y = y * m + 2.0000714765e-1f;
    y = y * m - 2.4999993993e-1f;
    y = y * m + 3.3333331174e-1f;
    y = y * m * z - 2.12194440e-4f * e - 0.5f * z;
    return m + y + 0.693359375f * e;
}

INLINE Lanes logistic(Lanes x) { return 1.0f / (1.0f + exponential(-x)); }

INLINE Lanes tangent(Lanes x) { return 1.0f - 2.0f / (1.0f + exponential(2.0f * x)); }

INLINE Lanes root(Lanes x)
{
    for (int i = 0; i < LANES; i++)
        x[i] = sqrtf(x[i]);
    return x;
}

INLINE Lanes arsinh(Lanes x)
{
    const Lanes size = pick(magnitude(x) > 1e18f, all(1e18f), magnitude(x));
    const Lanes y = logarithm(size + root(size * size + 1.0f));
    return pick(x < 0.0f, -y, y);
}

/* x Phi(x), with Phi by Abramowitz & Stegun 7.1.26, wrong by 1.5e-7 at most. */
INLINE Lanes gelu(Lanes x)
{
    const Lanes z = magnitude(x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * z);
    const Lanes tail = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    const Lanes beyond = 0.5f * tail * exponential(-z * z); /* of what lies further out */
    return x * pick(x < 0.0f, beyond, 1.0f - beyond);
}

INLINE Lanes softplus(Lanes x) { return pick(x > 20.0f, x, logarithm(1.0f + exponential(x))); }

/* log(1 + e^x) of a number much below zero needs log1p; e^x itself is as good there. */
INLINE Lanes softplus_small(Lanes x) { return pick(x < -8.0f, exponential(x), softplus(x)); }

INLINE long fill_up(long count, long to) { return (count + to - 1) / to * to; }

INLINE void multiply_rows(int n, int halves, const float *x, long ldx, const float *tile, long in, const float *start, long lds,
                          float *y, long ldy)
{
    Lanes sums[ROWS][2];
    for (int r = 0; r < n; r++)
        for (int half = 0; half < halves; half++)
            sums[r][half] = *(const Lanes *)(start + r * lds + half * LANES);
    for (long i = 0; i < in; i++) {
        const Lanes left = *(const Lanes *)(tile + i * TILE), right = *(const Lanes *)(tile + i * TILE + LANES);
        for (int r = 0; r < n; r++) {
            sums[r][0] += left * x[r * ldx + i];
            if (halves > 1)
                sums[r][1] += right * x[r * ldx + i];
        }
    }
    for (int r = 0; r < n; r++)
        for (int half = 0; half < halves; half++)
            *(Lanes *)(y + r * ldy + half * LANES) = sums[r][half];
}

INLINE void multiply_tile(int halves, const float *x, long ldx, const float *tile, const float *start, long lds, float *y, long ldy,
                          long rows, long in)
{
    long r = 0;
    for (; r + ROWS <= rows && r + 8 != rows; r += ROWS)
        multiply_rows(ROWS, halves, x + r * ldx, ldx, tile, in, start + r * lds, lds, y + r * ldy, ldy);
    for (; r + 4 <= rows; r += 4)
        multiply_rows(4, halves, x + r * ldx, ldx, tile, in, start + r * lds, lds, y + r * ldy, ldy);
    for (; r < rows; r++)
        multiply_rows(1, halves, x + r * ldx, ldx, tile, in, start + r * lds, lds, y + r * ldy, ldy);
}

/* y [rows, out] = start + x [rows, in] w; `out` a multiple of LANES, w's last tile whole all the same; start [out] where lds = 0,
   else [rows, lds], and may be y itself. */
INLINE void multiply(const float *x, long ldx, const float *w, const float *start, long lds, float *y, long ldy, long rows, long in,
                     long out)
{
    long o = 0;
    for (; o + TILE <= out; o += TILE, w += in * TILE)
        multiply_tile(2, x, ldx, w, start + o, lds, y + o, ldy, rows, in);
    if (o < out)
        multiply_tile(1, x, ldx, w, start + o, lds, y + o, ldy, rows, in);
}

#endif
