/* The fitted forecasts as the recurrences that they are: what app/lstm/fitted.py computes with matrix products.

   Simple smoothing, theta and damped Holt run through time once for all their constants side by side, so that a window costs ten
   microseconds. app/lstm/fitted.py says what is computed and why, and app/lstm/tables.py the constants.
*/

#include "engine.h"

#include <math.h>
#include <string.h>

/* Weights of n constants by their normal likelihood, from sums of squared errors over `count` steps; the weighted rms. */
INLINE float weigh(const float *squares, float *weights, int n, float count)
{
    float most = -INFINITY, total = 0, mean = 0;
    for (int c = 0; c < n; c++) {
        weights[c] = -0.5f * count * logf(larger(squares[c], 0) + 1e-6f * (count + 1));
        most = larger(most, weights[c]);
    }
    for (int c = 0; c < n; c++)
        total += weights[c] = expf(weights[c] - most);
    for (int c = 0; c < n; c++) {
        weights[c] /= total;
        mean += weights[c] * larger(squares[c], 0);
    }
    return sqrtf(mean / larger(count, 1));
}

/* The dynamic theta model with none of its drift, with half of it, and with the share that errs least: ahead [3, H], rms [3]. */
INLINE void smooth_with_drift(const Fitting *plan, const float *values, const float *judged, long first, long T, float count,
                              float *ahead, float *rms)
{
    const long H = plan->horizon;
    const float *alpha = plan->alphas;
    float level[ALPHAS] = {0}, see[ALPHAS] = {0}, sed[ALPHAS] = {0}, sdd[ALPHAS] = {0}, fade[ALPHAS], inverse[ALPHAS];
    float intercept = 0, slope = 0, total = 0, moment = 0;
    for (int a = 0; a < ALPHAS; a++)
        fade[a] = 1, inverse[a] = 1 / alpha[a];
    for (long t = first; t < T; t++) {
        const float value = values[t], counts = judged[t];
        SIDE_BY_SIDE for (int a = 0; a < ALPHAS; a++) {
            const float error = value - level[a];
            const float drift = slope * inverse[a] + fade[a] * (intercept + slope * (1 - inverse[a]));
            see[a] += counts * error * error;
            sed[a] += counts * error * drift;
            sdd[a] += counts * drift * drift;
            level[a] += alpha[a] * error;
            fade[a] *= 1 - alpha[a];
        }
        const float n = (float)(t - first + 1);
        total += value;
        moment += value * n;
        slope = n > 1 ? 12 * (moment - total * (n + 1) / 2) / (n * (n * n - 1)) : 0;
        intercept = total / n - (n + 1) / 2 * slope;
    }
    float share[ALPHAS], squares[3][ALPHAS], weights[3][ALPHAS], start[3] = {0};
    for (int a = 0; a < ALPHAS; a++) {
        share[a] = bound(sed[a] / larger(sdd[a], 1e-9f), 0, 1);
        squares[0][a] = see[a];
        squares[1][a] = see[a] - sed[a] + 0.25f * sdd[a];
        squares[2][a] = see[a] - 2 * share[a] * sed[a] + share[a] * share[a] * sdd[a];
    }
    for (int kind = 0; kind < 3; kind++) {
        rms[kind] = weigh(squares[kind], weights[kind], ALPHAS, count);
        for (int a = 0; a < ALPHAS; a++)
            start[kind] += weights[kind][a] * level[a];
    }
    for (int a = 0; a < ALPHAS; a++) {
        weights[1][a] *= 0.5f;
        weights[2][a] *= share[a];
    }
    float run[ALPHAS] = {0}; /* what the drifts so far have added to the level */
    for (long h = 0; h < H; h++) {
        float half = 0, fitted = 0;
        _Pragma("omp simd reduction(+ : half, fitted)") for (int a = 0; a < ALPHAS; a++) {
            const float drift = slope * inverse[a] + fade[a] * (intercept + slope * (1 - inverse[a]));
            const float there = drift + alpha[a] * run[a];
            half += weights[1][a] * there;
            fitted += weights[2][a] * there;
            run[a] += drift;
            fade[a] *= 1 - alpha[a];
        }
        ahead[h] = start[0];
        ahead[H + h] = start[1] + half;
        ahead[2 * H + h] = start[2] + fitted;
    }
}

/* Damped Holt, begun with the slope of the first observations: ahead [H]; gives the rms. */
INLINE float smooth_damped(const Fitting *plan, const float *values, const float *judged, long first, long T, float count,
                           float *ahead)
{
    const float *alpha = plan->holt, *beta = alpha + HOLT, *damping = beta + HOLT;
    float level[HOLT] = {0}, trend[HOLT], squares[HOLT] = {0}, of_trend[HOLT], weights[HOLT];
    const long later = least(first + plan->first_slope, T - 1);
    const float slope = values[later] / (float)(later > first ? later - first : 1);
    for (int c = 0; c < HOLT; c++)
        trend[c] = slope, of_trend[c] = alpha[c] * beta[c];
    for (long t = first + 1; t < T; t++) {
        const float value = values[t], counts = judged[t];
        for (int c = 0; c < HOLT; c++) {
            const float kept = damping[c] * trend[c], error = value - level[c] - kept;
            level[c] += kept + alpha[c] * error;
            trend[c] = kept + of_trend[c] * error;
            squares[c] += counts * error * error;
        }
    }
    const float rms = weigh(squares, weights, HOLT, count);
    float start = 0;
    for (int c = 0; c < HOLT; c++) {
        start += weights[c] * level[c];
        trend[c] *= weights[c] * damping[c];
    }
    for (long h = 0; h < plan->horizon; h++) {
        _Pragma("omp simd reduction(+ : start)") for (int c = 0; c < HOLT; c++) {
            start += trend[c];
            trend[c] *= damping[c];
        }
        ahead[h] = start;
    }
    return rms;
}

/* All kinds for one row of values [T], of which `mask` says what was observed: ahead [kinds, H], rms [kinds]. */
INLINE void smooth(const Fitting *plan, const float *row, const float *mask, long T, int with_holt, float *ahead, float *rms)
{
    float values[MOST_STEPS], judged[MOST_STEPS], count = 0;
    long first = 0;
    while (first < T - 1 && mask[first] == 0)
        first++;
    const int is_empty = mask[first] == 0;
    const float start = row[first];
    for (long t = 0; t < T; t++) {
        values[t] = t < first || is_empty ? 0 : row[t] - start;
        judged[t] = t - first >= plan->unjudged && !is_empty ? mask[t] : 0;
        count += judged[t];
    }
    smooth_with_drift(plan, values, judged, first, T, count, ahead, rms);
    if (with_holt)
        rms[3] = smooth_damped(plan, values, judged, first, T, count, ahead + 3 * plan->horizon);
    for (long i = 0; i < (with_holt ? 4 : 3) * plan->horizon; i++)
        ahead[i] += start;
}

/* The seasonal shape [m] about zero; `sums` [2, R + 1] and `rest` [2, R + 2 m] are room to work in. */
INLINE void fade_season(const Fitting *plan, const float *window, const float *mask, long m, float *shape, double *sums, float *rest)
{
    const long R = plan->length;
    memset(shape, 0, (size_t)m * sizeof *shape);
    if (m < 2)
        return;
    const long half = m / 2, width = m + 1 - m % 2, lead = half + (m - R % m) % m, seasons = (lead + R - half) / m;
    double *of_mask = sums + R + 1;
    float *seen = rest + seasons * m;
    int begun = 0;
    sums[0] = of_mask[0] = 0;
    for (long t = 0; t < R; t++) {
        begun |= mask[t] != 0;
        sums[t + 1] = sums[t] + (begun ? window[t] : 0);
        of_mask[t + 1] = of_mask[t] + begun;
    }
    memset(rest, 0, (size_t)(2 * seasons * m) * sizeof *rest);
    for (long t = 0; t + width <= R; t++) {
        double whole = sums[t + width] - sums[t], known = of_mask[t + width] - of_mask[t];
        if (m % 2 == 0) { /* the two ends count half */
            whole -= 0.5 * (sums[t + 1] - sums[t] + sums[t + width] - sums[t + width - 1]);
            known -= 0.5 * (of_mask[t + 1] - of_mask[t] + of_mask[t + width] - of_mask[t + width - 1]);
        }
        if (known / (double)m > 0.999 && mask[half + t] != 0) {
            seen[lead + t] = 1;
            rest[lead + t] = window[half + t] - (float)(whole / (double)m);
        }
    }
    float freedom = 0, known = 0, mean = 0, noise = 0, doubt = 0, strength = 0;
    float *worth = (float *)sums, *squared = worth + m; /* [m] each: the sums are not needed any more */
    memset(worth, 0, (size_t)(2 * m) * sizeof *worth);
    float weight = 1;
    for (long s = seasons - 1; s >= 0; s--, weight *= plan->fading)
        for (long p = 0; p < m; p++) {
            const float here = seen[s * m + p] * weight;
            worth[p] += here;
            squared[p] += here * here;
            shape[p] += rest[s * m + p] * here;
            freedom += seen[s * m + p];
        }
    for (long p = 0; p < m; p++)
        if (worth[p] > 0) {
            shape[p] /= worth[p];
            mean += shape[p];
            known += 1;
        }
    mean /= larger(known, 1);
    for (long p = 0; p < m; p++)
        shape[p] = worth[p] > 0 ? shape[p] - mean : 0;
    for (long s = 0; s < seasons; s++)
        for (long p = 0; p < m; p++) {
            const float off = rest[s * m + p] - shape[p];
            noise += off * off * seen[s * m + p];
        }
    freedom -= known;
    noise /= larger(freedom, 1);
    for (long p = 0; p < m; p++)
        if (worth[p] > 0) {
            doubt += noise * squared[p] / larger(worth[p] * worth[p], 1e-9f);
            strength += shape[p] * shape[p];
        }
    const float trust = freedom >= 1 ? bound(1 - doubt / (float)m / larger(strength / (float)m, 1e-9f), 0, 1) : 0.5f;
    for (long p = 0; p < m; p++)
        shape[p] *= trust;
}

long NAME(count_fitting_room)(const Fitting *plan)
{
    return 4 * (plan->length + 1) + 2 * (2 * plan->length + 2) + plan->length + 4 * plan->horizon + 8;
}

void NAME(fit_bases)(const Fitting *plan, long rows, const float *window, const float *mask, const float *loc, const float *scale,
                      const float *log_taken, float *forecasts, float *errors, float *room)
{
    const long R = plan->length, H = plan->horizon, T = least(plan->smoothed, R), kinds = plan->kinds, K = plan->width;
    const int with_holt = kinds > 3;
    double *sums = (double *)room;              /* [2, R + 1] */
    float *rest = room + 4 * (R + 1);           /* [2, seasons * m] */
    float *shape = rest + 2 * (R + R + 2);      /* [m] */
    float *ahead = shape + R;                   /* [4, H] */
    for (long b = 0; b < rows; b++, window += R, mask += R, forecasts += H * K, errors += K) {
        const float *end = window + R - T, *end_mask = mask + R - T;
        const int is_log = log_taken[b] != 0;
        for (long s = 0; s < plan->seasons; s++) {
            const long m = plan->season_lengths[s];
            float plain[MOST_STEPS], raw[MOST_STEPS], rms[4];
            fade_season(plan, window, mask, m, shape, sums, rest);
            for (long t = 0; t < T; t++)
                plain[t] = end[t] - shape[(t - T % m + m) % m];
            smooth(plan, plain, end_mask, T, with_holt, ahead, rms);
            for (long kind = 0; kind < (with_holt ? 4 : 3); kind++) {
                errors[s * kinds + kind] = rms[kind];
                for (long h = 0; h < H; h++)
                    forecasts[h * K + s * kinds + kind] = ahead[kind * H + h] + shape[h % m];
            }
            if (!with_holt)
                continue;
            double total = 0, squares = 0;
            float lowest = INFINITY;
            for (long t = 0; t < T; t++) {
                const float logarithm = bound(plain[t] * scale[b] + loc[b], -plan->widest_logarithm, plan->widest_logarithm);
                raw[t] = is_log ? expf(logarithm) : plain[t];
                total += raw[t];
                lowest = raw[t] < lowest ? raw[t] : lowest;
            }
            const float mean = (float)(total / (double)T);
            for (long t = 0; t < T; t++)
                squares += ((double)raw[t] - mean) * ((double)raw[t] - mean);
            const float spread = (float)sqrt(squares / (double)T) + 1e-6f, floor = plan->floor_share * larger(lowest, 1e-9f);
            for (long t = 0; t < T; t++)
                raw[t] = (raw[t] - mean) / spread;
            smooth(plan, raw, end_mask, T, with_holt, ahead, rms);
            const float factor = is_log ? expf(-bound(loc[b], -plan->widest_logarithm, plan->widest_logarithm)) / scale[b] : 1;
            for (long kind = 1; kind < 4; kind++) {
                errors[s * kinds + kind + 3] = rms[kind] * spread * factor;
                for (long h = 0; h < H; h++) {
                    float value = ahead[kind * H + h] * spread + mean;
                    if (is_log)
                        value = (logf(larger(value, floor)) - loc[b]) / scale[b];
                    forecasts[h * K + s * kinds + kind + 3] = value + shape[h % m];
                }
            }
        }
    }
}
