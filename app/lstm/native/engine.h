/* What the compiled code of app/lstm is given. The structs are those of app/lstm/compiled.py, steps.py and objective.py, field by field; their arrays belong to
   Python, are float32 and contiguous, and shapes stand beside them. Weights lie in tiles: [out / TILE][in][TILE], `out` filled up
   with zeros, so that a product reads them from end to end. */

#ifndef ENGRAM_ENGINE_H
#define ENGRAM_ENGINE_H

enum { ALPHAS = 8, HOLT = 36, MOST_STEPS = 128, WINDOW_FACTS = 10, HIDDEN = 128, PRIOR_GAPS = 10, TILE = 16 };

typedef struct {
    long length, horizon, seasons, kinds, width; /* width: bases in a row of `forecasts` and `errors` */
    const long *season_lengths;                  /* [seasons] */
    const float *alphas;                         /* [ALPHAS] */
    const float *holt;                           /* [3, HOLT]: of level, trend and damping */
    float fading, widest_logarithm, floor_share;
    long smoothed, first_slope, unjudged;
} Fitting;

/* How windows are prepared: app/lstm/inputs.py, bases.py and prior.py. */
typedef struct {
    const Fitting *fitting;                    /* NULL: linear bases alone, and no prior */
    long reach, past, history, context, horizon, quantiles, season, scaling_season, bases, features, slots;
    long takes_logarithms, has_several_seasons;
    const float *recent;                       /* [4, history]: last, level and two slopes */
    const float *steps;                        /* [2, horizon]: how far these go */
    long shapes;
    const long *shape_seasons;                 /* [shapes, 2]: season length and how many of them */
    long smoothings;
    const long *smoothed_seasons;              /* [smoothings] */
    const float *smoothed;                     /* [smoothings, 4, history] */
    const long *slot;                          /* [bases]: the prior's number for each */
    const float *spread, *shared, *first_bias; /* [bases, HIDDEN], [WINDOW_FACTS + 3 * slots, HIDDEN], [HIDDEN] */
    const float *ahead;                        /* [horizon, HIDDEN] */
    const float *second, *second_bias;         /* [HIDDEN, HIDDEN], [HIDDEN] */
    const float *third, *third_bias;           /* [HIDDEN, bases + PRIOR_GAPS + 1, filled up]: logits, gaps, shift */
    const float *sharing;                      /* [PRIOR_GAPS, quantiles - 1] */
    const float *normal_gaps;                  /* [quantiles - 1] */
    float caution, widening, least_unit;
} Preparation;

typedef struct {
    const float *from_input, *from_state, *bias; /* [in, 4 * padded], [hidden, 4 * padded], [4 * padded] */
} Layer;

typedef struct {
    const Layer *layers;                                      /* [layers] */
    const float *head_state, *head_known, *head_bias;         /* [hidden, wide], [context + features, wide], [wide] */
    const float *middle, *middle_bias;                        /* [wide, wide], [wide] */
    const float *out, *out_bias;                              /* [wide, outputs] */
} Net;

/* Everything of one version: app/lstm/ensemble.py. */
typedef struct {
    const Preparation *windows;
    const Preparation *elder; /* NULL: the prior is asked about the nets' own windows */
    const Net *nets;
    long count, patch, layers, hidden, padded, wide, outputs; /* wide and outputs multiples of TILE, padded of eight */
    long middle;              /* place of the median among the quantiles */
    double net_weight, widest;
    const float *stretches;   /* [quantiles - 1], or NULL */
} Model;

/* One LSTM layer over `rows` windows: app/lstm/cell.py. `padded` is `hidden` filled up to whole lanes of eight; gates lie i, f, g, o. */
typedef struct {
    long steps, rows, features, hidden, padded, activation; /* tanh, relu, sigmoid */
    long keeps_all, keeps_states;                           /* of every step, as its gradient needs; else of the last one alone */
    const float *inputs;                                    /* [steps, rows, features] */
    const float *from_input, *from_state, *bias;            /* [4 * hidden, features], [4 * hidden, hidden], [4 * hidden] */
    float *gates;                                           /* [steps or 1, rows, 4 * padded] */
    float *cells, *squashed;                                /* [steps or 1, rows, padded]: c and activation(c) */
    float *states;                                          /* [steps or 1, rows, padded]: h */
} Steps;

/* A batch of a training, and what the net's last layer made of it: app/lstm/network.py, losses.py. */
typedef struct {
    long rows, horizon, bases, quantiles, middle; /* middle: place of the median among the quantiles */
    float widest;
    const float *out;                             /* [rows, horizon * (bases + quantiles + 1)] */
    const float *forecasts, *logits;              /* [rows, horizon, bases] */
    const float *shift, *gaps;                    /* [rows, horizon], [rows, horizon, quantiles - 1] */
    const float *target, *observed;               /* [rows, horizon]; observed: what each counts, 0 where it was not */
    const float *levels;                          /* [quantiles] */
    float *by_out;                                /* like out: the loss's gradient by it is written here */
} Pinball;

/* Each function is compiled twice, with and without AVX2 and FMA (avx2.c, any.c), and bears the name of its kind. */
#define JOIN(name, kind) name##_##kind
#define EXPAND(name, kind) JOIN(name, kind)
#define NAME(name) EXPAND(name, KIND)

/* How many floats are needed as room by the functions below. */
long NAME(count_fitting_room)(const Fitting *plan);
long NAME(count_preparing_room)(const Preparation *windows);
long NAME(count_room)(const Model *model);
long NAME(count_step_room)(const Steps *layer);
long NAME(count_pinball_room)(const Pinball *batch);

/* window, mask [rows, length] without gaps; loc, scale, log [rows] -> forecasts [rows, horizon, width], of which the first
   seasons * kinds of each `width` are written, errors [rows, width] likewise. */
void NAME(fit_bases)(const Fitting *plan, long rows, const float *window, const float *mask, const float *loc, const float *scale,
                     const float *log_taken, float *forecasts, float *errors, float *room);

/* What a net learns from: contexts as below -> of each window what undoes its scaling [6] (level, is_log, loc, scale, low, high), values
   and mask [context], features [features], bases and logits [horizon, bases], shift [horizon], gaps [horizon, quantiles - 1],
   unit [1]. */
void NAME(prepare_windows)(const Preparation *windows, long rows, long length, const double *contexts, double *scalings, float *values,
                           float *mask, float *features, float *bases, float *logits, float *shift, float *gaps, float *units,
                           float *room);

/* contexts [rows, length], NaN = missing, the cutoff in the last column -> quantiles [rows, horizon, quantiles]. */
void NAME(forecast)(const Model *model, long rows, long length, const double *contexts, double *quantiles, float *room);

/* From h = c = 0 to the last step; writes what the struct has room for. */
void NAME(run_steps)(const Steps *layer, float *room);

/* What was kept, and the loss's gradient by every h [steps, rows, padded] -> by the gates before activation [steps, rows, 4 * padded]. */
void NAME(run_steps_back)(const Steps *layer, const float *by_states, float *by_gates, float *room);

/* The loss; its gradient is written where the struct says. */
double NAME(run_pinball)(const Pinball *batch, float *room);

#define INLINE static inline __attribute__((always_inline))
#define SIDE_BY_SIDE _Pragma("omp simd")

INLINE long least(long a, long b) { return a < b ? a : b; }
INLINE long most(long a, long b) { return a > b ? a : b; }
INLINE float larger(float a, float b) { return a > b ? a : b; }
INLINE float bound(float value, float low, float high) { return value < low ? low : value > high ? high : value; }

#endif
