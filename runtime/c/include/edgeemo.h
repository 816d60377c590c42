/* edgeemo.h: emotion of many telephone calls on one core, from C (C99 or later, Linux).
 *
 *     edgeemo_model *model;
 *     edgeemo_engine *engine;
 *     edgeemo_stream call;
 *     edgeemo_model_load("emotion-host.edgeemo", NULL, &model);
 *     edgeemo_engine_create(model, NULL, &engine);
 *     edgeemo_stream_open(engine, &call);
 *     edgeemo_push_s16(engine, call, samples, count, EDGEEMO_NO_CLOCK);
 *     edgeemo_step(engine, results, capacity, &answered);
 *
 * A model is read-only and may be shared by engines of several threads. An engine serves many streams (calls) and belongs to one
 * thread. Nothing is allocated after edgeemo_engine_create but by edgeemo_engine_swap; no thread is started; nothing is printed.
 *
 * Every struct begins with its size: EDGEEMO_INIT(it) clears it and sets that. Fields are only ever added at the end, and an
 * option that is 0 means the default (rules are filled by edgeemo_rules_defaults and edgeemo_audio_rules_defaults instead).
 * Enumerators keep their numbers. Handles are opaque; one that was destroyed or released must not be used. The callbacks for time
 * and log lines must not call the library.
 */
#ifndef EDGEEMO_H
#define EDGEEMO_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__) && !defined(EDGEEMO_API)
#define EDGEEMO_API __attribute__((visibility("default")))
#elif !defined(EDGEEMO_API)
#define EDGEEMO_API
#endif

/* The version of this header. Programs built with a header of one ABI version run with every library of the same. */
#define EDGEEMO_VERSION "0.1.0"
#define EDGEEMO_ABI_VERSION 0

/* Clears a struct of this header and sets its struct_size. */
#define EDGEEMO_INIT(it) edgeemo_clear(&(it), sizeof(it))

/* ---- Status -------------------------------------------------------------------------------------------------------------- */

/* What every function that may fail returns. edgeemo_last_error() has the sentence for whoever reads logs. */
typedef enum edgeemo_status {
  EDGEEMO_OK = 0,
  EDGEEMO_INVALID = 1,   /* an argument, or an option, is out of range */
  EDGEEMO_NO_FILE = 2,   /* the file is missing or cannot be read */
  EDGEEMO_DAMAGED = 3,   /* not an artifact, cut off, altered, or its manifest is not sound */
  EDGEEMO_UNFIT = 4,     /* sound, but not for this: another machine, a newer schema, no stream, another rate than that which runs */
  EDGEEMO_UNTRUSTED = 5, /* not signed by a key that is trusted, or others may write it */
  EDGEEMO_OVERLOAD = 6,  /* no room: for another stream, or for more audio of one that is not stepped */
  EDGEEMO_CLOSED = 7,    /* the stream was closed */
  EDGEEMO_NO_MEMORY = 8,
  EDGEEMO_BAD_CODE = 9,     /* the compiled code does not load, refuses its arguments or answers nonsense */
  EDGEEMO_WRONG_THREAD = 10 /* an engine belongs to the thread that made it, or that called edgeemo_engine_attach last */
} edgeemo_status;

/* What the last call on this thread that failed has to say, one printable line; "" where none has. Valid until the next one. */
EDGEEMO_API const char *edgeemo_last_error(void);

/* "EDGEEMO_OVERLOAD" and so on; "?" for a number that is none. */
EDGEEMO_API const char *edgeemo_status_name(edgeemo_status status);

/* EDGEEMO_VERSION of the library. */
EDGEEMO_API const char *edgeemo_version(void);

/* EDGEEMO_ABI_VERSION of the library: a program may compare it with its header's. */
EDGEEMO_API uint32_t edgeemo_abi_version(void);

/* Clears `size` bytes at `it` and writes `size` to its first four: what EDGEEMO_INIT does. */
EDGEEMO_API void edgeemo_clear(void *it, size_t size);

/* Takes a line of the library's: a model was loaded, swapped or let go of, an answer was no probability. */
typedef void (*edgeemo_log)(void *user, const char *line);

/* Lines go to `log` from now on, from whatever thread they come; NULL (as at first): nowhere. Call it before others do. */
EDGEEMO_API void edgeemo_set_log(edgeemo_log log, void *user);

/* ---- Models -------------------------------------------------------------------------------------------------------------- */

/* An artifact in memory, checked. Read-only: engines of several threads may share it. */
typedef struct edgeemo_model edgeemo_model;

typedef struct edgeemo_load_options {
  uint32_t struct_size;
  uint32_t allow_writable; /* 1: take files that others than root and this user may write */
  const char *const *keys; /* minisign public keys (the line of a .pub file that begins with RW); where there are any, one must have signed it */
  size_t key_count;
} edgeemo_load_options;

typedef struct edgeemo_model_info {
  uint32_t struct_size;
  int32_t is_stream;        /* 1: calls go through edgeemo_engine; 0: arrays go through edgeemo_function */
  int32_t sample_rate;      /* Hz; 0 where it is no stream, and so below */
  int32_t samples_per_step; /* samples (160 ms of the committed models) */
  int32_t ring_samples;     /* the audio that a call takes along to another model */
  int32_t label_count;
  int32_t input_count, output_count; /* tensors of the compiled step */
  const char *version; /* of all its bytes: date and hash. These strings live as long as the model */
  const char *target;  /* the target file it was compiled for */
  int64_t weight_bytes;
  int64_t state_bytes; /* of a stream */
  int64_t arena_bytes; /* scratch of a stream in a batch */
} edgeemo_model_info;

typedef enum edgeemo_dtype {
  EDGEEMO_FLOAT16 = 0, EDGEEMO_FLOAT32 = 1, EDGEEMO_FLOAT64 = 2, EDGEEMO_INT8 = 3,
  EDGEEMO_INT16 = 4, EDGEEMO_INT32 = 5, EDGEEMO_INT64 = 6, EDGEEMO_UINT8 = 7,
  EDGEEMO_UINT16 = 8, EDGEEMO_UINT32 = 9, EDGEEMO_UINT64 = 10, EDGEEMO_BOOL = 11
} edgeemo_dtype;

#define EDGEEMO_MAX_DIMS 16

/* An input or output of one item of a batch. */
typedef struct edgeemo_tensor {
  uint32_t struct_size;
  int32_t dtype; /* edgeemo_dtype */
  const char *name;
  int64_t size; /* bytes of one item */
  int32_t dims; /* without the batch */
  int32_t reserved;
  int64_t shape[EDGEEMO_MAX_DIMS];
} edgeemo_tensor;

/* Loads an artifact: a .edgeemo file, or the folder that `edgeemo-run install` unpacked one to. Its signature, where one is asked
 * for, is PATH.minisig next to a file and artifact.minisig in a folder. All of it is read
 * into this process's memory and checked before any of its code runs; the file may then change or go. `options` may be NULL. */
EDGEEMO_API edgeemo_status edgeemo_model_load(const char *path, const edgeemo_load_options *options, edgeemo_model **out);

/* The same of `size` bytes in memory, which are copied; `signature` (may be NULL) is the text of its .minisig. */
EDGEEMO_API edgeemo_status edgeemo_model_load_memory(const void *data, size_t size, const char *signature, size_t signature_size,
                                                     const edgeemo_load_options *options, edgeemo_model **out);

/* What `edgeemo compile --format static` makes of a model: its code and weights are part of the program. */
typedef struct edgeemo_linked_model {
  uint32_t struct_size, manifest_size;
  const char *manifest;
  const void *weights;
  uint64_t weights_size;
  int (*step)(void);   /* by TVM's FFI calling convention: the library calls them with their own arguments */
  int (*intake)(void); /* NULL where it is no stream, as the next */
  int (*decide)(void);
} edgeemo_linked_model;

/* A model that is linked into this program, such as edgeemo_model_emotion of a generated header. Nothing is copied. */
EDGEEMO_API edgeemo_status edgeemo_model_linked(const edgeemo_linked_model *linked, edgeemo_model **out);

/* One more owner: it takes one more edgeemo_model_release. Engines and functions own theirs by themselves. Any thread. */
EDGEEMO_API void edgeemo_model_retain(edgeemo_model *model);

/* Lets go of a model (NULL: nothing); it is freed with the last of its owners. */
EDGEEMO_API void edgeemo_model_release(edgeemo_model *model);

/* Facts of a model. */
EDGEEMO_API edgeemo_status edgeemo_model_get_info(const edgeemo_model *model, edgeemo_model_info *out);

/* The name of label `index`; NULL where there is none. Lives as long as the model. */
EDGEEMO_API const char *edgeemo_model_label(const edgeemo_model *model, int32_t index);

/* What edgeemo_result.intensity means: 1 and 2 are the weaker and the stronger kind of one label (annoyed, furious). "" for 0;
 * NULL where the model has none. */
EDGEEMO_API const char *edgeemo_model_intensity(const edgeemo_model *model, int32_t intensity);

/* An input (`output` 0) or output (1) of the compiled step. */
EDGEEMO_API edgeemo_status edgeemo_model_get_tensor(const edgeemo_model *model, int32_t output, int32_t index, edgeemo_tensor *out);

/* ---- Rules --------------------------------------------------------------------------------------------------------------- */

/* From probabilities per step to what is said of a call. edgeemo_rules_defaults fills them; then change what is to be other. */
typedef struct edgeemo_rules {
  uint32_t struct_size;
  int32_t consistency; /* 0 or 1: a label that most of the window is not counts half */
  int32_t confidence;  /* 0 or 1: below min_confidence the answer is neutral */
  int32_t settle;      /* 0 or 1: another label is said after settle_decisions in a row, each decision_s apart */
  int32_t handoff;     /* 0 or 1: tell when a call should go to a person */
  int32_t intensity;   /* 0 or 1: tell the second level of a confident label, where the model has one */
  int32_t window_steps, settle_decisions;
  int32_t handoff_decisions; /* so many low or jumping ones, and none between them that is sure of the same as the one before */
  int32_t reserved;
  double alpha;        /* weight of the newest step in the moving average; 1 is no smoothing */
  double disagreement; /* share of the window */
  double min_confidence;
  double jump_s; /* a label given up sooner than this was a jump */
  double decision_s; /* seconds of speech without a sure step until neutral, and between decisions for the same label; 0: every step decides */
} edgeemo_rules;

/* What is done to audio. edgeemo_audio_rules_defaults fills them. */
typedef struct edgeemo_audio_rules {
  uint32_t struct_size;
  int32_t reset_at_gaps;  /* 0: missing audio becomes silence; 1: the call begins anew */
  int32_t skip_silence;   /* 1: steps that are silent for long do not go through the network */
  int32_t hangover_steps; /* silent steps that still do */
  double max_fill_s;  /* longer gaps begin the call anew either way */
  double max_offset;  /* a running mean beyond this is taken out; 1 leaves it in */
  double silence_dbfs;    /* RMS of a step, below which it is silent */
} edgeemo_audio_rules;

/* Fills `rules` (EDGEEMO_INIT first) by a preset: "call-centre" (also for NULL), "in-car" or "raw". */
EDGEEMO_API edgeemo_status edgeemo_rules_defaults(edgeemo_rules *rules, const char *preset);

EDGEEMO_API edgeemo_status edgeemo_audio_rules_defaults(edgeemo_audio_rules *rules);

/* ---- Engines ------------------------------------------------------------------------------------------------------------- */

/* A model and room for many streams. */
typedef struct edgeemo_engine edgeemo_engine;

/* A stream (call): a number that is never used twice in an engine's life, so that a closed one is an error and never another. */
typedef int64_t edgeemo_stream;
#define EDGEEMO_NO_STREAM ((edgeemo_stream)-1)

/* Seconds; never goes back. */
typedef double (*edgeemo_clock)(void *user);

typedef struct edgeemo_engine_options {
  uint32_t struct_size;
  int32_t max_streams;               /* 1 to 10000 [64] */
  int32_t backlog_hops;              /* whole steps that may wait in a stream, 1 to 1000 [4] */
  int32_t drop_oldest;               /* 1: audio beyond the backlog pushes out the oldest steps; 0: it is refused */
  int32_t spread_phases;             /* 1: streams begin with silence of less than a step, so that not all are ready at once */
  int32_t reserved;
  double budget_s;                   /* answers later than this after their last sample are counted as late [0.02] */
  const edgeemo_rules *rules;        /* NULL: the defaults; read by edgeemo_engine_create only */
  const edgeemo_audio_rules *audio;  /* the same */
  edgeemo_clock clock;               /* NULL: CLOCK_MONOTONIC */
  void *clock_user;
} edgeemo_engine_options;

/* An engine of `model`; all memory is taken, and one step of silence run, here. `options` may be NULL. */
EDGEEMO_API edgeemo_status edgeemo_engine_create(edgeemo_model *model, const edgeemo_engine_options *options, edgeemo_engine **out);

/* The bytes that edgeemo_engine_create_in needs; 0 for options or a model that no engine is made of. Up to 2 MB of them are
 * guards between arrays that nothing is written to. */
EDGEEMO_API size_t edgeemo_engine_memory(const edgeemo_model *model, const edgeemo_engine_options *options);

/* As edgeemo_engine_create, in `size` bytes of the caller's at `memory`, which stay the caller's and must outlive the engine. */
EDGEEMO_API edgeemo_status edgeemo_engine_create_in(edgeemo_model *model, const edgeemo_engine_options *options, void *memory,
                                                    size_t size, edgeemo_engine **out);

/* Ends an engine and its streams (NULL: nothing). */
EDGEEMO_API void edgeemo_engine_destroy(edgeemo_engine *engine);

/* The calling thread has the engine from now on. The one before must have ended its last call. */
EDGEEMO_API edgeemo_status edgeemo_engine_attach(edgeemo_engine *engine);

/* New streams get `model` from now on. `replay` 1: running ones move over, a few with every edgeemo_step, by the audio in their
 * rings; 0: they end on the model they have. Smoothing is kept either way. Takes memory for the new model's states; changes
 * nothing if it fails: the model must have the same rate, step, ring and labels. */
EDGEEMO_API edgeemo_status edgeemo_engine_swap(edgeemo_engine *engine, edgeemo_model *model, int32_t replay);

/* A canary: new streams of a `share` of the users (between 0 and 1), by the last two digits of edgeemo_stream_open_for's `user`,
 * get `model`; the others get the one that serves now. Memory and refusals are those of edgeemo_engine_swap. */
EDGEEMO_API edgeemo_status edgeemo_engine_start_canary(edgeemo_engine *engine, edgeemo_model *model, double share);

/* Ends the canary: it gets all new streams (`promote` 1) or none (0). Running ones move over as edgeemo_engine_swap says for
 * `replay`. A swap ends a canary, too. */
EDGEEMO_API edgeemo_status edgeemo_engine_end_canary(edgeemo_engine *engine, int32_t promote, int32_t replay);

typedef struct edgeemo_stats {
  uint32_t struct_size;
  int32_t open_streams;
  int32_t models; /* that serve now: 1 but for a while after a swap */
  int32_t moving; /* streams that are still to move over */
  uint64_t steps;
  uint64_t listening; /* steps before there was a label */
  uint64_t decisions;
  uint64_t changes, jumps; /* another label was said than the step before; soon after the last change */
  uint64_t low;          /* decisions below the least confidence */
  uint64_t errors;       /* answers that were no probabilities, taken for "all alike" */
  uint64_t late;         /* beyond budget_s */
  uint64_t handoffs[4];  /* by edgeemo_result.handoff; [0] is not used */
  uint64_t opened, refused;
  uint64_t dropped_hops;                                 /* beyond the backlog */
  uint64_t gaps, filled_samples, skipped_samples;        /* missing audio: made silence, or left out */
  uint64_t resets, restarts;                             /* calls begun anew: after a long gap; by a source that counts anew */
  uint64_t duplicate_samples, late_samples, dropped_samples; /* the last of a source that began anew twice within a step */
  uint64_t skipped_steps;   /* silent ones */
} edgeemo_stats;

/* What was counted since the engine was made. */
EDGEEMO_API edgeemo_status edgeemo_engine_get_stats(const edgeemo_engine *engine, edgeemo_stats *out);

/* Role of a model in an engine: it serves the calls that it has, gets new streams, or gets those of a share of the users. */
typedef enum edgeemo_role { EDGEEMO_LEAVING = 0, EDGEEMO_LIVE = 1, EDGEEMO_CANARY = 2 } edgeemo_role;

/* The part of edgeemo_stats that is a model's own, counted since it serves: what tells whether a canary does worse. */
typedef struct edgeemo_model_stats {
  uint32_t struct_size;
  int32_t role; /* edgeemo_role */
  int32_t open_streams;
  int32_t reserved;
  const char *model; /* its version; until it serves no more */
  uint64_t steps, listening, decisions, changes, jumps, low, errors, late;
  uint64_t handoffs[4]; /* by edgeemo_result.handoff; [0] is not used */
} edgeemo_model_stats;

/* The same of model `index` of those that serve, from 0 to edgeemo_stats.models - 1, the oldest first. */
EDGEEMO_API edgeemo_status edgeemo_engine_get_model_stats(const edgeemo_engine *engine, int32_t index, edgeemo_model_stats *out);

/* ---- Streams and audio --------------------------------------------------------------------------------------------------- */

/* A new stream. EDGEEMO_OVERLOAD where max_streams are open. */
EDGEEMO_API edgeemo_status edgeemo_stream_open(edgeemo_engine *engine, edgeemo_stream *out);

/* The same with whose call it is, for a canary: an id, UTF-8; NULL is "". */
EDGEEMO_API edgeemo_status edgeemo_stream_open_for(edgeemo_engine *engine, const char *user, edgeemo_stream *out);

/* Ends a stream; all that was known of it is cleared before another gets its place. */
EDGEEMO_API edgeemo_status edgeemo_stream_close(edgeemo_engine *engine, edgeemo_stream stream);

typedef enum edgeemo_format {
  EDGEEMO_S16 = 0,  /* int16_t, this machine's byte order */
  EDGEEMO_F32 = 1,  /* float in [-1, 1]; beyond is clipped, NaN and infinite refused */
  EDGEEMO_ULAW = 2, /* ITU-T G.711 mu-law, a byte a sample */
  EDGEEMO_ALAW = 3  /* ITU-T G.711 A-law */
} edgeemo_format;

/* For `at`: the source has no clock, audio is taken as it comes. */
#define EDGEEMO_NO_CLOCK INT64_MIN

/* Adds `count` mono samples at the model's rate. `at` is the number of the first in the source's own count, as an RTP timestamp
 * is: 32 bits that may begin anywhere, wrap, and begin anew; or a longer count. What was sent twice is left out, what comes late
 * is put in its place while that waits, what is missing is filled or begins the call anew (edgeemo_audio_rules). EDGEEMO_OVERLOAD
 * where more would wait than backlog_hops, unless drop_oldest. */
EDGEEMO_API edgeemo_status edgeemo_push_s16(edgeemo_engine *engine, edgeemo_stream stream, const int16_t *samples, size_t count, int64_t at);
EDGEEMO_API edgeemo_status edgeemo_push_f32(edgeemo_engine *engine, edgeemo_stream stream, const float *samples, size_t count, int64_t at);
EDGEEMO_API edgeemo_status edgeemo_push_ulaw(edgeemo_engine *engine, edgeemo_stream stream, const uint8_t *samples, size_t count, int64_t at);
EDGEEMO_API edgeemo_status edgeemo_push_alaw(edgeemo_engine *engine, edgeemo_stream stream, const uint8_t *samples, size_t count, int64_t at);

/* The same of any format, at any address. `came`: when the last sample came, in seconds of the engine's clock; latencies count from it. NaN: now. */
EDGEEMO_API edgeemo_status edgeemo_push(edgeemo_engine *engine, edgeemo_stream stream, edgeemo_format format, const void *samples,
                                        size_t count, int64_t at, double came);

/* No more audio: fills what is left up to a whole step with silence, so that the next edgeemo_step answers for it. */
EDGEEMO_API edgeemo_status edgeemo_stream_finish(edgeemo_engine *engine, edgeemo_stream stream);

/* Samples that may be pushed before the backlog is full. */
EDGEEMO_API edgeemo_status edgeemo_stream_room(const edgeemo_engine *engine, edgeemo_stream stream, size_t *out);

/* Samples that no step has taken yet. */
EDGEEMO_API edgeemo_status edgeemo_stream_waiting(const edgeemo_engine *engine, edgeemo_stream stream, size_t *out);

/* The last samples that the network has heard, at most ring_samples: the newest `capacity` of them. */
EDGEEMO_API edgeemo_status edgeemo_stream_recent(const edgeemo_engine *engine, edgeemo_stream stream, float *out, size_t capacity, size_t *count);

/* ---- Steps --------------------------------------------------------------------------------------------------------------- */

/* A stream's answer to one step. */
typedef struct edgeemo_result {
  uint32_t struct_size;
  int32_t label;     /* index, after all rules; edgeemo_model_label names it. -1: none yet, the call is listened to */
  int32_t intensity; /* 0: none; 1, 2: the weaker, the stronger kind (edgeemo_model_intensity) */
  int32_t handoff;   /* 0, or why the call should go to a person, in the one step that says so: 1 low confidence, 2 jumping, 3 both */
  int32_t low;       /* 1: the last decision was below the least confidence */
  int32_t changed;   /* 1: another label is said than the step before */
  int32_t jumped;    /* 1: the same, soon after the last change */
  int32_t decision;  /* 1: this step is a decision: a sure answer that is another, or the same decision_s of speech later, or a low one */
  int32_t label_count;
  int32_t reserved;
  edgeemo_stream stream;
  double start_s, end_s;      /* of the step's audio, in seconds of the source's count */
  double waited_s;            /* from the last sample of the step to its answer */
  const float *probabilities; /* [label_count] of this step. These arrays are the engine's, until its next edgeemo_step */
  const float *smoothed;      /* [label_count] the moving average */
  const float *decided;       /* [label_count] after the consistency rule */
  const char *model;          /* version of the model that answered; as long as the arrays */
} edgeemo_result;

/* How many streams have a whole step waiting; `since` (may be NULL) when the one that waits longest was ready, in seconds of the
 * engine's clock. 0 without an engine. */
EDGEEMO_API int32_t edgeemo_ready(const edgeemo_engine *engine, double *since);

/* Runs a step of each stream that is ready, at most `capacity`, longest waiting first, in batches of up to 16. `results` has
 * room for `capacity`; the first one's struct_size must be set (EDGEEMO_INIT), the others' are set with them. `answered` is how
 * many were written; call again until it is less than `capacity`. */
EDGEEMO_API edgeemo_status edgeemo_step(edgeemo_engine *engine, edgeemo_result *results, size_t capacity, size_t *answered);

/* "", "low confidence", "jumping", "low confidence and jumping". */
EDGEEMO_API const char *edgeemo_handoff_reason(int32_t handoff);

/* ---- Models that are no streams ------------------------------------------------------------------------------------------- */

/* A compiled graph of arrays: a row per item of a batch. One thread at a time. */
typedef struct edgeemo_function edgeemo_function;

/* A function of `model`, which must be no stream, for batches of up to `max_batch` (1 to 16) items. */
EDGEEMO_API edgeemo_status edgeemo_function_create(edgeemo_model *model, int32_t max_batch, edgeemo_function **out);

/* Runs `batch` items. inputs[i] and outputs[i] are arrays of batch items in the order and of the dtypes and shapes that
 * edgeemo_model_get_tensor tells, C order, at any address. */
EDGEEMO_API edgeemo_status edgeemo_function_run(edgeemo_function *function, int32_t batch, const void *const *inputs, void *const *outputs);

EDGEEMO_API void edgeemo_function_destroy(edgeemo_function *function);

#ifdef __cplusplus
}
#endif
#endif
