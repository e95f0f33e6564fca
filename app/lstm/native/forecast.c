/* One forecast from end to end: scaling, classical forecasts, the prior, the nets, and back. The same as app/lstm/ensemble.py with what
   it calls, which says what is computed and why; tests/lstm/test_compiled.py holds both to the same answers.

   A window is prepared by itself, the nets take up to `BATCH` of them at once, so that their weights are read once for all.
*/

#include "lanes.h"

#include <math.h>
#include <string.h>

enum { BATCH = 32 };

/* What undoes the scaling of one window: z = (u - loc) / scale with u = log(x / level) or x / level. */
typedef struct {
    double level, loc, scale, low, high, floor; /* floor: what a logarithm is taken of at least */
    int is_log;
} Scaling;

INLINE float dot(const float *a, const float *b, long n)
{
    float sum = 0;
    _Pragma("omp simd reduction(+ : sum)") for (long i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* ---- scaling: app/lstm/scaling.py ---- */

INLINE int is_seen(double value) { return value - value == 0; }
INLINE double bound_wide(double value, double low, double high) { return value < low ? low : value > high ? high : value; }

/* From the last `context` values: the level and loc of the last season, the spread of all. `units` [context] is room. */
INLINE Scaling fit_scaling(const Preparation *p, const double *history, double *units)
{
    const long L = p->context;
    const double *context = history + p->reach - L;
    int is_log = p->takes_logarithms != 0;
    for (long t = 0; t < p->reach; t++)
        is_log &= !(history[t] <= 0);
    long seen = 0, recent = 0, from = most(0, L - most(p->scaling_season, 4));
    double largest = 0;
    for (long t = 0; t < L; t++)
        if (is_seen(context[t])) {
            seen++;
            recent += t >= from;
            largest = fmax(largest, fabs(context[t]));
        }
    if (!recent)
        from = 0, recent = seen;
    if (!(largest > 0))
        largest = 1;
    double shares = 0;
    for (long t = from; t < L; t++)
        shares += is_seen(context[t]) ? fabs(context[t]) / largest : 0;
    double level = largest * (shares / (double)most(recent, 1));
    if (!(level > largest * 1e-12))
        level = largest;
    double mean = 0, loc = 0, low = INFINITY, high = -INFINITY, squares = 0;
    for (long t = 0; t < L; t++) {
        if (!is_seen(context[t]))
            continue;
        units[t] = is_log ? log(fmax(context[t] / level, 1e-300)) : context[t] / level;
        mean += units[t];
        loc += t >= from ? units[t] : 0;
        low = fmin(low, units[t]);
        high = fmax(high, units[t]);
    }
    mean /= (double)most(seen, 1);
    for (long t = 0; t < L; t++)
        squares += is_seen(context[t]) ? (units[t] - mean) * (units[t] - mean) : 0;
    if (!seen)
        low = high = 0;
    const double room = (is_log ? 1.0 : 3.0) * (high - low) + 1.0;
    return (Scaling){.level = level,
                     .loc = loc / (double)most(recent, 1),
                     .scale = sqrt(squares / (double)most(seen, 1)) + 0.01,
                     .low = low - room,
                     .high = high + room,
                     .floor = exp(fmax(low - room, -700)),
                     .is_log = is_log};
}

INLINE double scale(const Scaling *s, double value)
{
    double unit = value / s->level;
    if (s->is_log)
        unit = log(unit > s->floor ? unit : s->floor);
    return (bound_wide(unit, s->low, s->high) - s->loc) / s->scale;
}

INLINE double undo(const Scaling *s, double scaled)
{
    double unit = bound_wide(scaled * s->scale + s->loc, s->low, s->high);
    if (s->is_log)
        unit = exp(bound_wide(unit, -700, 700));
    unit *= s->level;
    return is_seen(unit) ? unit : unit > 0 ? 1.7976931348623157e308 : unit < 0 ? -1.7976931348623157e308 : 0;
}

/* Every `step`-th place from `first` on: a missing one takes the last seen before it, else the first after it. */
INLINE void carry(float *filled, char *known, long first, long step, long length)
{
    long before = -1;
    for (long t = first; t < length; t += step) {
        if (known[t]) {
            if (before < 0)
                for (long earlier = first; earlier < t; earlier += step)
                    filled[earlier] = filled[t], known[earlier] = 1;
            before = t;
        } else if (before >= 0)
            filled[t] = filled[before], known[t] = 1;
    }
}

/* history [reach] -> in its own units without gaps, and where it was observed. `known` [reach] is room. */
INLINE void fill(const Preparation *p, const Scaling *s, const double *history, float *filled, float *mask, char *known)
{
    const long R = p->reach, m = p->season;
    long seen = 0;
    for (long t = 0; t < R; t++) {
        known[t] = is_seen(history[t]);
        seen += known[t];
        mask[t] = known[t];
        filled[t] = known[t] ? (float)scale(s, history[t]) : 0;
    }
    if (seen == R)
        return;
    if (m > 1 && m <= R)
        for (long phase = 0; phase < m; phase++)
            carry(filled, known, phase, m, R);
    carry(filled, known, 0, 1, R);
}

/* ---- the classical forecasts that are linear: app/lstm/bases.py ---- */

/* The mean of each phase over the last seasons, [m]; the first phase is that of the next step. */
INLINE float mean_season(const float *end, long m, long seasons, float *shape)
{
    float total = 0;
    for (long phase = 0; phase < m; phase++) {
        float sum = 0;
        for (long s = 1; s <= seasons; s++)
            sum += end[phase - s * m];
        shape[phase] = sum / (float)seasons;
        total += shape[phase];
    }
    return total / (float)m;
}

/* history [history] -> the first bases of each row of forecasts [horizon, bases]. `room` [2 * history]. */
INLINE void forecast_linear(const Preparation *p, const float *history, float *forecasts, float *room)
{
    const long R = p->history, H = p->horizon, K = p->bases;
    const float *end = history + R;
    float *shape = room, *plain = room + R, found[4];
    for (int k = 0; k < 4; k++)
        found[k] = dot(history, p->recent + k * R, R);
    for (long h = 0; h < H; h++) {
        float *row = forecasts + h * K;
        row[0] = found[0];
        row[1] = found[1];
        row[2] = found[1] + found[2] * p->steps[h];
        row[3] = found[0] + found[3] * p->steps[H + h];
    }
    long k = 4;
    for (long i = 0; i < p->shapes; i++, k++) {
        const long m = p->shape_seasons[2 * i];
        float level = 0;
        for (long t = 1; t <= m; t++)
            level += end[-t];
        level = level / (float)m - mean_season(end, m, p->shape_seasons[2 * i + 1], shape);
        for (long h = 0, phase = 0; h < H; h++, phase = phase + 1 == m ? 0 : phase + 1)
            forecasts[h * K + k] = level + shape[phase];
    }
    for (long i = 0; i < p->smoothings; i++, k += 3) {
        const long m = p->smoothed_seasons[i];
        const float mean = mean_season(end, m, R / m, shape), *maps = p->smoothed + i * 4 * R;
        for (long phase = 0; phase < m; phase++)
            shape[phase] -= mean;
        for (long t = 0; t < R; t++)
            plain[t] = history[t] - shape[(t + m - R % m) % m];
        for (int n = 0; n < 4; n++)
            found[n] = dot(plain, maps + n * R, R);
        for (long h = 0, phase = 0; h < H; h++, phase = phase + 1 == m ? 0 : phase + 1) {
            float *row = forecasts + h * K + k;
            row[0] = found[0] + shape[phase];
            row[1] = found[1] + shape[phase];
            row[2] = found[2] + found[3] * p->steps[h] + shape[phase];
        }
    }
}

/* ---- what is known of a window: app/lstm/inputs.py ---- */

INLINE void measure(const Preparation *p, const float *history, const float *mask, float unit, const Scaling *s, float *facts)
{
    const long R = p->history, m = p->season, late = least(most(m, 4), R);
    float count = 0, rough = 0, squares = 0, turning = 0, recent = 0, before = 0;
    for (long t = 0; t < R; t++)
        count += mask[t];
    for (long t = 1; t < R; t++) {
        const float step = history[t] - history[t - 1];
        rough += fabsf(step);
        squares += step * step;
        turning += t > 1 ? step * (history[t - 1] - history[t - 2]) : 0;
    }
    if (R == 1)
        rough = fabsf(history[0]);
    for (long t = 0; t < R; t++)
        *(t >= R - late ? &recent : &before) += history[t];
    const float steps = (float)most(R - 1, 1);
    facts[0] = log1pf(count) / 3;
    facts[1] = bound(count / (float)m, 0, 10) / 5;
    facts[2] = logf((float)m) / 3;
    facts[3] = (float)p->has_several_seasons;
    facts[4] = logf(unit);
    facts[5] = logf(rough / steps / unit + 0.05f);
    facts[6] = R > 2 ? turning / (float)(R - 2) / (squares / steps + 1e-6f) : 0;
    facts[7] = R > late ? asinhf((recent / (float)late - before / (float)(R - late)) / unit) : 0;
    facts[8] = (float)s->is_log;
    facts[9] = (float)log(s->scale) / 3;
}

/* Mean absolute error of each base [bases], had it forecast `past` steps ago; -1 where too little was seen. */
INLINE void look_back(const Preparation *p, const float *forecasts, const float *filled, const float *mask, float *errors)
{
    const long K = p->bases, past = p->past, R = p->reach;
    float observed = 0, earlier = 0;
    for (long t = 0; t < R - past; t++)
        earlier += mask[t];
    for (long t = R - past; t < R; t++)
        observed += mask[t];
    const int is_known = earlier >= 3 && observed > 0;
    for (long k = 0; k < K; k++)
        errors[k] = is_known ? 0 : -1;
    for (long h = 0; is_known && h < past; h++)
        if (mask[R - past + h] != 0)
            for (long k = 0; k < K; k++)
                errors[k] += fabsf(forecasts[h * K + k] - filled[R - past + h]) / observed;
}

/* log(error / unit), bounded; 0 where it is unknown. */
INLINE float compare(float error, float unit) { return error < 0 ? 0 : bound(logf(error / unit + 0.05f) / 2, -2, 3); }

/* The lower one of the two in the middle, as torch has it. */
INLINE float find_median(const float *values, long count, float *sorted)
{
    for (long i = 0; i < count; i++) {
        long at = i;
        for (; at && sorted[at - 1] > values[i]; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = values[i];
    }
    return sorted[(count - 1) / 2];
}

/* The means of bases [horizon, bases] by the softmax of their logits, [horizon]; `weights` [horizon * bases, filled up]. */
INLINE void blend(const float *logits, const float *bases, long H, long K, float *weights, float *means)
{
    for (long h = 0; h < H; h++) {
        float highest = logits[h * K];
        for (long k = 1; k < K; k++)
            highest = larger(highest, logits[h * K + k]);
        for (long k = 0; k < K; k++)
            weights[h * K + k] = logits[h * K + k] - highest;
    }
    for (long i = 0; i < H * K; i += LANES)
        *(Lanes *)(weights + i) = exponential(*(Lanes *)(weights + i));
    for (long h = 0; h < H; h++) {
        float sum = 0, total = 0;
        for (long k = 0; k < K; k++) {
            total += weights[h * K + k];
            sum += weights[h * K + k] * bases[h * K + k];
        }
        means[h] = sum / total;
    }
}

/* One window, prepared. Its arrays have room for eight numbers more than they hold. */
typedef struct {
    Scaling scaling;
    float *filled, *mask;   /* [reach] */
    float *features;        /* [features] */
    float *bases, *logits;  /* [horizon * bases] */
    float *median, *shift;  /* [horizon]: the prior's, and its correction in it */
    float *gaps;            /* [horizon * (quantiles - 1)] */
    float unit;             /* the noise of one step */
} Window;

INLINE void ask_prior(const Preparation *p, const float *facts, float unit, Window *w, float *room)
{
    const long H = p->horizon, K = p->bases, G = p->quantiles - 1, S = p->slots, third = fill_up(K + PRIOR_GAPS + 1, TILE);
    float *spread = room, *first = spread + H * K + LANES, *hidden = first + H * HIDDEN, *second = hidden + H * HIDDEN;
    float *out = second + H * HIDDEN, *shared = out + H * third, *gaps = shared + HIDDEN, *sorted = gaps + H * PRIOR_GAPS + LANES;
    for (long h = 0; h < H; h++) {
        const float centre = find_median(w->bases + h * K, K, sorted);
        for (long k = 0; k < K; k++)
            spread[h * K + k] = (w->bases[h * K + k] - centre) / unit;
    }
    for (long i = 0; i < H * K; i += LANES)
        *(Lanes *)(spread + i) = arsinh(*(Lanes *)(spread + i));
    multiply(facts, 0, p->shared, p->first_bias, 0, shared, 0, 1, WINDOW_FACTS + 3 * S, HIDDEN);
    for (long h = 0; h < H; h++)
        for (long i = 0; i < HIDDEN; i++)
            first[h * HIDDEN + i] = shared[i] + p->ahead[h * HIDDEN + i];
    multiply(spread, K, p->spread, first, HIDDEN, hidden, HIDDEN, H, K, HIDDEN);
    for (long i = 0; i < H * HIDDEN; i += LANES)
        *(Lanes *)(hidden + i) = gelu(*(Lanes *)(hidden + i));
    multiply(hidden, HIDDEN, p->second, p->second_bias, 0, second, HIDDEN, H, HIDDEN, HIDDEN);
    for (long i = 0; i < H * HIDDEN; i += LANES)
        *(Lanes *)(second + i) = gelu(*(Lanes *)(second + i));
    multiply(second, HIDDEN, p->third, p->third_bias, 0, out, third, H, HIDDEN, third);
    for (long h = 0; h < H; h++) {
        const float *row = out + h * third;
        memcpy(w->logits + h * K, row, (size_t)K * sizeof *row);
        memcpy(gaps + h * PRIOR_GAPS, row + K, PRIOR_GAPS * sizeof *row);
        w->shift[h] = row[K + PRIOR_GAPS] * unit;
    }
    for (long i = 0; i < H * PRIOR_GAPS; i += LANES)
        *(Lanes *)(gaps + i) = softplus_small(*(Lanes *)(gaps + i));
    blend(w->logits, w->bases, H, K, spread, w->median);
    const long fitted = p->fitting->seasons * p->fitting->kinds;
    for (long h = 0; h < H; h++) {
        const float centre = find_median(w->bases + h * K + K - fitted, fitted, sorted);
        const float shift = w->shift[h] + p->caution * (centre - (w->median[h] + w->shift[h]));
        w->shift[h] = shift;
        w->median[h] += shift;
        for (long g = 0; g < G; g++) {
            float sum = 0;
            for (long i = 0; i < PRIOR_GAPS; i++)
                sum += gaps[h * PRIOR_GAPS + i] * p->sharing[i * G + g];
            w->gaps[h * G + g] = p->widening * sum * unit;
        }
    }
}

INLINE void prepare_with_prior(const Preparation *p, Window *w, float *room)
{
    const long H = p->horizon, K = p->bases, S = p->slots, past = p->past;
    const long linear = K - p->fitting->seasons * p->fitting->kinds;
    float *before = room, *errors = before + fill_up(H * K, LANES), *past_errors = errors + K, *general = past_errors + K;
    float *facts = general + WINDOW_FACTS, *rest = facts + fill_up(WINDOW_FACTS + 3 * S, 2); /* doubles are to lie there */
    const float loc = (float)w->scaling.loc, scale = (float)w->scaling.scale, is_log = (float)w->scaling.is_log;
    forecast_linear(p, w->filled + past, w->bases, rest);
    forecast_linear(p, w->filled, before, rest);
    NAME(fit_bases)(p->fitting, 1, w->filled, w->mask, &loc, &scale, &is_log, before + linear, errors, rest);
    NAME(fit_bases)(p->fitting, 1, w->filled + past, w->mask + past, &loc, &scale, &is_log, w->bases + linear, errors, rest);
    float unit = INFINITY;
    for (long k = 0; k < K - linear; k++)
        unit = errors[k] < unit ? errors[k] : unit;
    unit = bound(unit, p->least_unit, 3);
    w->unit = unit;
    look_back(p, before, w->filled, w->mask, past_errors);
    measure(p, w->filled + past, w->mask + past, unit, &w->scaling, general);
    memcpy(facts, general, sizeof(float) * WINDOW_FACTS);
    memset(facts + WINDOW_FACTS, 0, sizeof(float) * (size_t)(3 * S));
    for (long k = 0; k < K; k++) {
        float *fact = facts + WINDOW_FACTS + p->slot[k];
        fact[0] = compare(past_errors[k], unit);
        fact[S] = k < linear ? 0 : compare(errors[k - linear], unit);
        fact[2 * S] = 1;
    }
    memcpy(w->features, general, sizeof(float) * WINDOW_FACTS);
    for (long k = 0; k < K; k++) {
        float sum = 0;
        for (long h = 0; h < H; h++)
            sum += w->bases[h * K + k];
        w->features[WINDOW_FACTS + k] = sum / (float)H;
        w->features[WINDOW_FACTS + K + k] = past_errors[k] < 0 ? 0 : logf(past_errors[k] / unit + 0.05f);
    }
    ask_prior(p, facts, unit, w, rest);
}

/* Where there was so much to learn from that no prior is needed: the mean of the linear bases, normal widths. */
INLINE void prepare_without_prior(const Preparation *p, Window *w, float *room)
{
    const long H = p->horizon, K = p->bases, G = p->quantiles - 1, L = p->context;
    const long lag = p->season < L ? p->season : 1;
    const float *window = w->filled + p->reach - L;
    float unit = 0;
    for (long t = lag; t < L; t++)
        unit += fabsf(window[t] - window[t - lag]);
    unit = L > 1 ? unit / (float)(L - lag) : fabsf(window[0]);
    unit = bound(unit, p->least_unit, 3);
    w->unit = unit;
    forecast_linear(p, w->filled + p->reach - p->history, w->bases, room);
    measure(p, w->filled + p->reach - p->history, w->mask + p->reach - p->history, unit, &w->scaling, w->features);
    memset(w->features + WINDOW_FACTS, 0, sizeof(float) * (size_t)K);
    for (long h = 0; h < H; h++) {
        float sum = 0;
        for (long k = 0; k < K; k++) {
            sum += w->bases[h * K + k];
            w->features[WINDOW_FACTS + k] += w->bases[h * K + k] / (float)H;
        }
        w->median[h] = sum / (float)K;
        w->shift[h] = 0;
        for (long g = 0; g < G; g++)
            w->gaps[h * G + g] = p->normal_gaps[g] * unit;
    }
    memset(w->logits, 0, sizeof(float) * (size_t)(H * K));
}

INLINE long count_window(const Preparation *p)
{
    const long H = p->horizon;
    return 2 * p->reach + p->features + 2 * H * p->bases + 2 * H + H * (p->quantiles - 1) + 8 * LANES;
}

INLINE long count_preparing(const Preparation *p)
{
    const long H = p->horizon, K = p->bases, third = fill_up(K + PRIOR_GAPS + 1, TILE);
    long room = 2 * p->history + 2 * p->context + p->reach / 4 + 2 * LANES;
    if (p->fitting)
        room += fill_up(H * K, LANES) + 2 * K + 2 * WINDOW_FACTS + 3 * p->slots + 2 + NAME(count_fitting_room)(p->fitting) + H * K + 3 * H * HIDDEN
                + H * third + HIDDEN + H * PRIOR_GAPS + K + 4 * LANES;
    return room + H * K;
}

/* `room` is for the window's arrays, `work` for what is forgotten afterwards; both lie at multiples of eight bytes. */
INLINE Window prepare(const Preparation *p, const double *history, float *room, float *work)
{
    const long H = p->horizon, K = p->bases;
    Window w;
    w.filled = room;
    w.mask = w.filled + p->reach + LANES;
    w.features = w.mask + p->reach + LANES;
    w.bases = w.features + p->features + LANES;
    w.logits = w.bases + H * K + LANES;
    w.median = w.logits + H * K + LANES;
    w.shift = w.median + H;
    w.gaps = w.shift + H + LANES;
    w.scaling = fit_scaling(p, history, (double *)work);
    fill(p, &w.scaling, history, w.filled, w.mask, (char *)work);
    (p->fitting ? prepare_with_prior : prepare_without_prior)(p, &w, work);
    return w;
}

long NAME(count_preparing_room)(const Preparation *windows)
{
    return fill_up(count_window(windows), LANES) + count_preparing(windows);
}

void NAME(prepare_windows)(const Preparation *windows, long rows, long length, const double *contexts, double *scalings, float *values,
                           float *mask, float *features, float *bases, float *logits, float *shift, float *gaps, float *units,
                           float *room)
{
    const Preparation *p = windows;
    const long L = p->context, F = p->features, H = p->horizon, K = p->bases, G = p->quantiles - 1;
    float *work = room + fill_up(count_window(p), LANES);
    for (long b = 0; b < rows; b++) {
        const Window w = prepare(p, contexts + (b + 1) * length - p->reach, room, work);
        const Scaling *s = &w.scaling;
        const double undoing[] = {s->level, s->is_log, s->loc, s->scale, s->low, s->high};
        memcpy(scalings + b * 6, undoing, sizeof undoing);
        memcpy(values + b * L, w.filled + p->reach - L, sizeof(float) * (size_t)L);
        memcpy(mask + b * L, w.mask + p->reach - L, sizeof(float) * (size_t)L);
        memcpy(features + b * F, w.features, sizeof(float) * (size_t)F);
        memcpy(bases + b * H * K, w.bases, sizeof(float) * (size_t)(H * K));
        memcpy(logits + b * H * K, w.logits, sizeof(float) * (size_t)(H * K));
        memcpy(shift + b * H, w.shift, sizeof(float) * (size_t)H);
        memcpy(gaps + b * H * G, w.gaps, sizeof(float) * (size_t)(H * G));
        units[b] = w.unit;
    }
}

/* ---- the nets: app/lstm/stack.py ---- */

/* inputs [steps, B, in] -> the states of an LSTM [steps, B, padded]; `gates` [steps, B, 4 * padded], `cells` [B, padded]. */
INLINE void run_layer(const Model *m, const Layer *layer, const float *inputs, long in, long steps, long B, float *gates,
                      float *cells, float *states)
{
    const long D = m->padded;
    multiply(inputs, in, layer->from_input, layer->bias, 0, gates, 4 * D, steps * B, in, 4 * D);
    for (long t = 0; t < steps; t++) {
        float *now = gates + t * B * 4 * D, *state = states + t * B * D;
        if (t)
            multiply(state - B * D, D, layer->from_state, now, 4 * D, now, 4 * D, B, m->hidden, 4 * D);
        for (long b = 0; b < B; b++)
            for (long i = 0; i < D; i += LANES) {
                const float *gate = now + b * 4 * D + i;
                const Lanes in_gate = logistic(*(const Lanes *)gate), forget = logistic(*(const Lanes *)(gate + D));
                const Lanes candidate = tangent(*(const Lanes *)(gate + 2 * D)), out_gate = logistic(*(const Lanes *)(gate + 3 * D));
                Lanes *cell = (Lanes *)(cells + b * D + i);
                const Lanes kept = t ? *cell : all(0);
                *cell = in_gate * candidate + forget * kept;
                *(Lanes *)(state + b * D + i) = out_gate * tangent(*cell);
            }
    }
}

/* quantiles [horizon, quantiles] += share * (median with the gaps around it). */
INLINE void spread_quantiles(const float *median, const float *gaps, long H, long Q, long middle, double share, double *quantiles)
{
    for (long h = 0; h < H; h++, quantiles += Q, gaps += Q - 1) {
        float edge = median[h];
        quantiles[middle] += share * edge;
        for (long q = middle - 1; q >= 0; q--)
            quantiles[q] += share * (edge -= gaps[q]);
        edge = median[h];
        for (long q = middle + 1; q < Q; q++)
            quantiles[q] += share * (edge += gaps[q - 1]);
    }
}

/* From one row of a net's output to its share of the quantiles; `room` [2 * horizon * bases + horizon * quantiles + ...]. */
INLINE void finish_net(const Model *m, const float *out, const Window *w, float *room, double *quantiles)
{
    const Preparation *p = m->windows;
    const long H = p->horizon, K = p->bases, Q = p->quantiles, G = Q - 1;
    const float *rest = out + H * K, *trust = rest + H * Q, widest = (float)m->widest;
    float *logits = room, *weights = logits + H * K + LANES, *gaps = weights + H * K + LANES, *median = gaps + H * G + LANES;
    for (long h = 0; h < H; h++)
        for (long k = 0; k < K; k++)
            logits[h * K + k] = w->logits[h * K + k] * (1 + trust[h]) + out[h * K + k];
    blend(logits, w->bases, H, K, weights, median);
    for (long h = 0; h < H; h++) {
        median[h] += w->shift[h] * (1 + trust[h]) + rest[h * Q];
        for (long g = 0; g < G; g++)
            gaps[h * G + g] = rest[h * Q + 1 + g] / widest;
    }
    for (long i = 0; i < H * G; i += LANES) {
        const Lanes stretch = exponential(widest * tangent(*(Lanes *)(gaps + i)));
        *(Lanes *)(gaps + i) = stretch * *(const Lanes *)(w->gaps + i);
    }
    spread_quantiles(median, gaps, H, Q, m->middle, 1.0 / (double)m->count, quantiles);
}

/* Where the arrays of a batch lie. */
typedef struct {
    double *heard;
    float *windows, *elders, *inputs, *known, *gates, *cells, *states[2], *head, *next, *outputs, *work;
    long window, elder, all;
} Places;

INLINE Places lay_out(const Model *m, float *room)
{
    const Preparation *p = m->windows;
    const long steps = (p->context + m->patch - 1) / m->patch, H = p->horizon, K = p->bases, Q = p->quantiles;
    Places at;
    float *free = room;
    at.window = fill_up(count_window(p), LANES);
    at.elder = m->elder ? fill_up(count_window(m->elder), LANES) : 0;
#define TAKE(name, count) (at.name = free, free += fill_up((count) + LANES, LANES))
    TAKE(windows, BATCH * at.window);
    TAKE(elders, at.elder);
    TAKE(inputs, steps * BATCH * 2 * m->patch);
    TAKE(known, BATCH * (p->context + p->features));
    TAKE(gates, steps * BATCH * 4 * m->padded);
    TAKE(cells, BATCH * m->padded);
    TAKE(states[0], steps * BATCH * m->padded);
    TAKE(states[1], steps * BATCH * m->padded);
    TAKE(head, BATCH * m->wide);
    TAKE(next, BATCH * m->wide);
    TAKE(outputs, BATCH * m->outputs);
    TAKE(work, most(most(count_preparing(p), m->elder ? count_preparing(m->elder) : 0), 2 * H * K + H * Q + H + 4 * LANES));
#undef TAKE
    at.heard = (double *)free;
    free += 2 * H * Q;
    at.all = free - room;
    return at;
}

long NAME(count_room)(const Model *model)
{
    return lay_out(model, (float *)0).all;
}

/* The nets' mean answer for B windows, each [horizon, quantiles], in units of the windows. */
INLINE void run_nets(const Model *m, const Window *windows, long B, const Places *at, double *answers)
{
    const Preparation *p = m->windows;
    const long L = p->context, F = p->features, steps = (L + m->patch - 1) / m->patch, lead = steps * m->patch - L;
    const long wide = m->wide, values = p->horizon * p->quantiles;
    memset(at->inputs, 0, sizeof(float) * (size_t)(steps * B * 2 * m->patch));
    for (long b = 0; b < B; b++) {
        const float *window = windows[b].filled + p->reach - L, *mask = windows[b].mask + p->reach - L;
        for (long t = 0; t < L; t++) {
            float *place = at->inputs + ((t + lead) / m->patch * B + b) * 2 * m->patch + (t + lead) % m->patch;
            place[0] = window[t];
            place[m->patch] = mask[t];
        }
        memcpy(at->known + b * (L + F), window, sizeof(float) * (size_t)L);
        memcpy(at->known + b * (L + F) + L, windows[b].features, sizeof(float) * (size_t)F);
    }
    for (long n = 0; n < m->count; n++) {
        const Net *net = m->nets + n;
        run_layer(m, net->layers, at->inputs, 2 * m->patch, steps, B, at->gates, at->cells, at->states[0]);
        for (long layer = 1; layer < m->layers; layer++)
            run_layer(m, net->layers + layer, at->states[(layer - 1) % 2], m->padded, steps, B, at->gates, at->cells,
                      at->states[layer % 2]);
        const float *last = at->states[(m->layers - 1) % 2] + (steps - 1) * B * m->padded;
        multiply(at->known, L + F, net->head_known, net->head_bias, 0, at->next, wide, B, L + F, wide);
        multiply(last, m->padded, net->head_state, at->next, wide, at->head, wide, B, m->hidden, wide);
        for (long i = 0; i < B * wide; i += LANES)
            *(Lanes *)(at->head + i) = gelu(*(Lanes *)(at->head + i));
        multiply(at->head, wide, net->middle, net->middle_bias, 0, at->next, wide, B, wide, wide);
        for (long i = 0; i < B * wide; i += LANES)
            *(Lanes *)(at->next + i) = gelu(*(Lanes *)(at->next + i));
        multiply(at->next, wide, net->out, net->out_bias, 0, at->outputs, m->outputs, B, wide, m->outputs);
        for (long b = 0; b < B; b++)
            finish_net(m, at->outputs + b * m->outputs, windows + b, at->work, answers + b * values);
    }
}

/* The prior's answer [horizon, quantiles] to one window, in the units of `w`. */
INLINE void hear_prior(const Model *m, const Window *w, const double *history, const Places *at, double *answer)
{
    const Preparation *p = m->windows;
    if (!m->elder) {
        spread_quantiles(w->median, w->gaps, p->horizon, p->quantiles, m->middle, 1.0, answer);
        return;
    }
    const Window own = prepare(m->elder, history - m->elder->reach, at->elders, at->work);
    spread_quantiles(own.median, own.gaps, p->horizon, p->quantiles, m->middle, 1.0, answer);
    for (long i = 0; i < p->horizon * p->quantiles; i++)
        answer[i] = scale(&w->scaling, undo(&own.scaling, answer[i]));
}

/* Gaps of every step [quantiles] times the stretches, from the median outwards. */
INLINE void stretch(const Model *m, double *quantiles, long Q)
{
    double edge = quantiles[m->middle], last = edge;
    for (long q = m->middle - 1; q >= 0; q--) {
        const double gap = last - quantiles[q];
        last = quantiles[q];
        quantiles[q] = edge -= gap * (double)m->stretches[q];
    }
    edge = last = quantiles[m->middle];
    for (long q = m->middle + 1; q < Q; q++) {
        const double gap = quantiles[q] - last;
        last = quantiles[q];
        quantiles[q] = edge += gap * (double)m->stretches[q - 1];
    }
}

void NAME(forecast)(const Model *model, long rows, long length, const double *contexts, double *quantiles, float *room)
{
    const Preparation *p = model->windows;
    const long H = p->horizon, Q = p->quantiles, values = H * Q;
    const Places at = lay_out(model, room);
    Window windows[BATCH];
    memset(quantiles, 0, sizeof(double) * (size_t)(rows * values));
    for (long from = 0; from < rows; from += BATCH) {
        const long B = least(BATCH, rows - from);
        const double *end = contexts + (from + 1) * length;
        double *answers = quantiles + from * values;
        for (long b = 0; b < B; b++)
            windows[b] = prepare(p, end + b * length - p->reach, at.windows + b * at.window, at.work);
        run_nets(model, windows, B, &at, answers);
        for (long b = 0; b < B; b++) {
            double *answer = answers + b * values;
            memset(at.heard, 0, sizeof(double) * (size_t)values);
            if (model->net_weight < 1)
                hear_prior(model, windows + b, end + b * length, &at, at.heard);
            for (long i = 0; i < values; i++)
                answer[i] = model->net_weight * answer[i] + (1 - model->net_weight) * at.heard[i];
            for (long h = 0; h < H; h++) {
                if (model->stretches)
                    stretch(model, answer + h * Q, Q);
                for (long q = 0; q < Q; q++)
                    answer[h * Q + q] = undo(&windows[b].scaling, answer[h * Q + q]);
            }
        }
    }
}
