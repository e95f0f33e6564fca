/* The steps of one LSTM layer, and back through them: app/lstm/cell.py, which says what is computed and holds both to the same numbers.

   Hidden states are filled up with zeros to whole lanes. There weights and biases are zero, so that states and gradients stay zero.
*/

#include "lanes.h"

#include <string.h>

enum { TANH, RELU, SIGMOID };

INLINE Lanes activate(long activation, Lanes x)
{
    if (activation == TANH)
        return tangent(x);
    if (activation == RELU)
        return pick(x > 0.0f, x, all(0));
    return logistic(x);
}

/* The derivative by what `activate` gave. */
INLINE Lanes slope(long activation, Lanes y)
{
    if (activation == TANH)
        return 1.0f - y * y;
    if (activation == RELU)
        return pick(y > 0.0f, all(1), all(0));
    return y * (1.0f - y);
}

INLINE float *lay(float **room, long count)
{
    float *const laid = *room;
    *room += count;
    return laid;
}

INLINE float *clear(float *numbers, long count)
{
    memset(numbers, 0, sizeof *numbers * (size_t)count);
    return numbers;
}

/* weights [4 * hidden, in] as tiles of [in, 4 * padded]. */
INLINE void lay_gates(const float *weights, long hidden, long padded, long in, float *tiles)
{
    clear(tiles, 4 * padded * in);
    for (long gate = 0; gate < 4; gate++)
        for (long j = 0; j < hidden; j++, weights += in) {
            const long o = gate * padded + j;
            float *const tile = tiles + o / TILE * TILE * in + o % TILE;
            for (long i = 0; i < in; i++)
                tile[i * TILE] = weights[i];
        }
}

/* weights [4 * hidden, in] as tiles of [4 * padded, in filled up to TILE]. */
INLINE void lay_back(const float *weights, long hidden, long padded, long in, float *tiles)
{
    clear(tiles, 4 * padded * fill_up(in, TILE));
    for (long gate = 0; gate < 4; gate++)
        for (long j = 0; j < hidden; j++, weights += in)
            for (long i = 0; i < in; i++)
                tiles[(i / TILE * 4 * padded + gate * padded + j) * TILE + i % TILE] = weights[i];
}

/* gates [rows, 4 * padded] before activation -> after; c and activation(c) and h of this step, [rows, padded]. */
INLINE void open_gates(long activation, long rows, long padded, float *gates, const float *before, float *cells, float *squashed,
                       float *states)
{
    for (long r = 0; r < rows; r++, gates += 4 * padded)
        for (long j = 0; j < padded; j += LANES) {
            const long at = r * padded + j;
            Lanes *const i = (Lanes *)(gates + j), *const f = (Lanes *)(gates + padded + j);
            Lanes *const g = (Lanes *)(gates + 2 * padded + j), *const o = (Lanes *)(gates + 3 * padded + j);
            *i = logistic(*i), *f = logistic(*f), *g = activate(activation, *g), *o = logistic(*o);
            const Lanes cell = *i * *g + *f * *(const Lanes *)(before + at);
            *(Lanes *)(cells + at) = cell;
            const Lanes y = activate(activation, cell);
            *(Lanes *)(squashed + at) = y;
            *(Lanes *)(states + at) = *o * y;
        }
}

/* by_state and by_cell [rows, padded], what later steps say of h and c: of this step's c -> of the one before. The gates' own,
   before activation, come into by_gates [rows, 4 * padded]. */
INLINE void close_gates(long activation, long rows, long padded, const float *gates, const float *before, const float *squashed,
                        const float *by_state, float *by_cell, float *by_gates)
{
    for (long r = 0; r < rows; r++, gates += 4 * padded, by_gates += 4 * padded)
        for (long j = 0; j < padded; j += LANES) {
            const long at = r * padded + j;
            const Lanes i = *(const Lanes *)(gates + j), f = *(const Lanes *)(gates + padded + j);
            const Lanes g = *(const Lanes *)(gates + 2 * padded + j), o = *(const Lanes *)(gates + 3 * padded + j);
            const Lanes y = *(const Lanes *)(squashed + at), dh = *(const Lanes *)(by_state + at);
            const Lanes dc = *(const Lanes *)(by_cell + at) + dh * o * slope(activation, y);
            *(Lanes *)(by_gates + j) = dc * g * i * (1.0f - i);
            *(Lanes *)(by_gates + padded + j) = dc * *(const Lanes *)(before + at) * f * (1.0f - f);
            *(Lanes *)(by_gates + 2 * padded + j) = dc * i * slope(activation, g);
            *(Lanes *)(by_gates + 3 * padded + j) = dh * y * o * (1.0f - o);
            *(Lanes *)(by_cell + at) = dc * f;
        }
}

long NAME(count_step_room)(const Steps *s)
{
    const long wide = 4 * s->padded;
    return wide * (fill_up(most(s->features, s->padded), TILE) + s->padded + 1) + 3 * s->rows * s->padded;
}

/* One function each for every activation, so that no loop asks which it is. */
INLINE void step_forward(long activation, const Steps *s, float *room)
{
    const long wide = 4 * s->padded, rows = s->rows, kept = s->keeps_all ? rows : 0;
    float *const from_input = lay(&room, wide * s->features), *const from_state = lay(&room, wide * s->hidden);
    float *const bias = lay(&room, wide);
    clear(bias, wide);
    for (long gate = 0; gate < 4; gate++)
        memcpy(bias + gate * s->padded, s->bias + gate * s->hidden, sizeof(float) * (size_t)s->hidden);
    lay_gates(s->from_input, s->hidden, s->padded, s->features, from_input);
    lay_gates(s->from_state, s->hidden, s->padded, s->hidden, from_state);
    const float *cell = clear(lay(&room, rows * s->padded), rows * s->padded), *state = NULL;
    for (long t = 0; t < s->steps; t++) {
        float *const gates = s->gates + t * kept * wide, *const cells = s->cells + t * kept * s->padded;
        float *const states = s->states + (s->keeps_states ? t * rows * s->padded : 0);
        multiply(s->inputs + t * rows * s->features, s->features, from_input, bias, 0, gates, wide, rows, s->features, wide);
        if (state)
            multiply(state, s->padded, from_state, gates, wide, gates, wide, rows, s->hidden, wide);
        open_gates(activation, rows, s->padded, gates, cell, cells, s->squashed + t * kept * s->padded, states);
        cell = cells, state = states;
    }
}

INLINE void step_back(long activation, const Steps *s, const float *by_states, float *by_gates, float *room)
{
    const long wide = 4 * s->padded, all_of_a_step = s->rows * s->padded;
    float *const from_state = lay(&room, wide * fill_up(s->padded, TILE));
    float *const by_state = lay(&room, all_of_a_step), *const by_cell = clear(lay(&room, all_of_a_step), all_of_a_step);
    const float *const nothing = clear(lay(&room, all_of_a_step), all_of_a_step);
    lay_back(s->from_state, s->hidden, s->padded, s->hidden, from_state);
    for (long t = s->steps - 1; t >= 0; t--) {
        const float *const upstream = by_states + t * all_of_a_step;
        float *const by = by_gates + t * s->rows * wide;
        if (t + 1 < s->steps)
            multiply(by + s->rows * wide, wide, from_state, upstream, s->padded, by_state, s->padded, s->rows, wide, s->padded);
        close_gates(activation, s->rows, s->padded, s->gates + t * s->rows * wide, t ? s->cells + (t - 1) * all_of_a_step : nothing,
                    s->squashed + t * all_of_a_step, t + 1 < s->steps ? by_state : upstream, by_cell, by);
    }
}

void NAME(run_steps)(const Steps *s, float *room)
{
    if (s->activation == TANH)
        step_forward(TANH, s, room);
    else if (s->activation == RELU)
        step_forward(RELU, s, room);
    else
        step_forward(SIGMOID, s, room);
}

void NAME(run_steps_back)(const Steps *s, const float *by_states, float *by_gates, float *room)
{
    if (s->activation == TANH)
        step_back(TANH, s, by_states, by_gates, room);
    else if (s->activation == RELU)
        step_back(RELU, s, by_states, by_gates, room);
    else
        step_back(SIGMOID, s, by_states, by_gates, room);
}
