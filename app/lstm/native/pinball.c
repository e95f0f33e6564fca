/* From a net's last layer to the quantile loss, and the loss's gradient by that layer: app/lstm/network.py (`answer`) and losses.py
   (`pinball`), which hold it to the same numbers. A step of training spends more on these small sums by torch than on the LSTM.
*/

#include "lanes.h"

#include <string.h>

long NAME(count_pinball_room)(const Pinball *p)
{
    return p->horizon * (p->bases + 2 * (p->quantiles - 1)) + 3 * LANES + p->quantiles;
}

/* One step ahead: its quantiles from the median outwards, what they cost, and the loss's gradient by each into `by`. */
INLINE float judge_quantiles(const Pinball *p, float median, const float *gaps, float target, float weight, float *by)
{
    const long Q = p->quantiles, middle = p->middle;
    float cost = 0, edge = median;
    by[middle] = median;
    for (long q = middle - 1; q >= 0; q--)
        by[q] = edge -= gaps[q];
    edge = median;
    for (long q = middle + 1; q < Q; q++)
        by[q] = edge += gaps[q - 1];
    for (long q = 0; q < Q; q++) {
        const float error = target - by[q], level = p->levels[q];
        cost += error >= 0 ? level * error : (level - 1) * error; /* a number that is none falls through to the sum */
        by[q] = weight * (error > 0 ? -level : error < 0 ? 1 - level : 0.5f - level);
    }
    return weight * cost;
}

double NAME(run_pinball)(const Pinball *p, float *room)
{
    const long H = p->horizon, K = p->bases, Q = p->quantiles, G = Q - 1, outputs = H * (K + Q + 1);
    float *const weights = room, *const bends = weights + H * K + LANES, *const gaps = bends + H * G + LANES;
    float *const by_quantile = gaps + H * G + LANES;
    double counted = 0, loss = 0;
    for (long i = 0; i < p->rows * H; i++)
        counted += p->observed[i];
    const float share = (float)(2 / ((double)Q * (counted > 1 ? counted : 1)));
    for (long b = 0; b < p->rows; b++) {
        const float *const out = p->out + b * outputs, *const rest = out + H * K, *const trust = rest + H * Q;
        const float *const bases = p->forecasts + b * H * K, *const logits = p->logits + b * H * K;
        float *const by = p->by_out + b * outputs, *const by_rest = by + H * K, *const by_trust = by_rest + H * Q;
        for (long h = 0; h < H; h++) {
            float *const row = weights + h * K;
            for (long k = 0; k < K; k++)
                row[k] = logits[h * K + k] * (1 + trust[h]) + out[h * K + k];
            float highest = row[0];
            for (long k = 1; k < K; k++)
                highest = larger(highest, row[k]);
            for (long k = 0; k < K; k++)
                row[k] -= highest;
            for (long g = 0; g < G; g++)
                bends[h * G + g] = rest[h * Q + 1 + g] / p->widest;
        }
        for (long i = 0; i < H * K; i += LANES)
            *(Lanes *)(weights + i) = exponential(*(Lanes *)(weights + i));
        for (long i = 0; i < H * G; i += LANES) {
            const Lanes bend = tangent(*(Lanes *)(bends + i));
            *(Lanes *)(bends + i) = bend;
            *(Lanes *)(gaps + i) = exponential(p->widest * bend);
        }
        for (long i = 0; i < H * G; i++)
            gaps[i] *= p->gaps[b * H * G + i];
        float cost = 0;
        for (long h = 0; h < H; h++) {
            const float *const row = weights + h * K, *const base = bases + h * K;
            float total = 0, mean = 0;
            for (long k = 0; k < K; k++) {
                total += row[k];
                mean += row[k] * base[k];
            }
            mean /= total;
            const float shift = p->shift[b * H + h], median = mean + shift * (1 + trust[h]) + rest[h * Q];
            cost += judge_quantiles(p, median, gaps + h * G, p->target[b * H + h], share * p->observed[b * H + h], by_quantile);
            float below = 0, above = 0;
            for (long g = 0; g < p->middle; g++) {
                below += by_quantile[g]; /* a gap moves all quantiles beyond it */
                by_rest[h * Q + 1 + g] = -below;
            }
            for (long g = G - 1; g >= p->middle; g--) {
                above += by_quantile[g + 1];
                by_rest[h * Q + 1 + g] = above;
            }
            for (long g = 0; g < G; g++)
                by_rest[h * Q + 1 + g] *= gaps[h * G + g] * (1 - bends[h * G + g] * bends[h * G + g]);
            const float by_median = below + by_quantile[p->middle] + above, scale = by_median / total;
            by_rest[h * Q] = by_median;
            float by_factor = by_median * shift;
            for (long k = 0; k < K; k++) {
                const float by_logit = scale * row[k] * (base[k] - mean);
                by[h * K + k] = by_logit;
                by_factor += by_logit * logits[h * K + k];
            }
            by_trust[h] = by_factor;
        }
        loss += (double)cost;
    }
    return loss;
}
