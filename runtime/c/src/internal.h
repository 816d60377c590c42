/* What the parts of libedgeemo share. The library is one translation unit (edgeemo.c), so that nothing but its API has a name. */
#ifndef EDGEEMO_INTERNAL_H
#define EDGEEMO_INTERNAL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* syscall() for memfd_create, which glibc has since 2.27 only; MAP_ANONYMOUS */
#endif
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "edgeemo.h"
#include "tables.h"

#define EE_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Status (status.c) */
static edgeemo_status ee_fail(edgeemo_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void ee_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Bytes read or taken from the system (memory.c) */
typedef struct ee_bytes {
  unsigned char *data;
  size_t size;
} ee_bytes;

/* JSON (json.c): tokens in document order; a container's children follow it. */
typedef enum ee_kind { EE_NULL, EE_FALSE, EE_TRUE, EE_INTEGER, EE_REAL, EE_TEXT, EE_ARRAY, EE_OBJECT } ee_kind;

typedef struct ee_token {
  ee_kind kind;
  uint32_t count; /* of an array's or object's items */
  uint32_t next;  /* the token behind this one and all its children */
  uint32_t begin; /* of its text in the document */
  uint32_t size;  /* of a text, decoded, in bytes */
  int64_t integer;
  double number; /* of an integer or real */
  bool huge; /* an integer that no int64_t holds */
  char *text; /* decoded and ended by 0, in place */
} ee_token;

typedef struct ee_json {
  char *text;
  size_t size;
  size_t at;
  ee_token *tokens; /* NULL while they are counted */
  uint32_t room;
  uint32_t used;
  const char *problem;
} ee_json;

/* A manifest that was checked (manifest.c). Its texts lie in the model's copy of manifest.json. */
typedef struct ee_tensor_spec {
  const char *name;
  int32_t dtype;
  int32_t dims;
  int64_t shape[EDGEEMO_MAX_DIMS];
  int64_t bytes; /* of an item */
} ee_tensor_spec;

typedef struct ee_manifest {
  const char *created, *target_name, *machine, *cpu;
  const char **needs;
  uint32_t needs_count;
  const char *function;
  const char *intake, *decide; /* NULL where there are none, or of other columns */
  int64_t state_words, arena_bytes;
  ee_tensor_spec *tensors; /* inputs, then outputs */
  uint32_t input_count, output_count;
  bool is_stream;
  int64_t sample_rate, samples_per_step, ring_samples;
  const char **labels;
  uint32_t label_count;
  int32_t intensity_label; /* -1: none */
  const char *intensity_names[2];
  int64_t intensity_word;
  int64_t speech_word; /* -1: it does not count */
  double least_speech;
  const char *library_hash, *weights_hash;
} ee_manifest;

/* Compiled code (code.c): a shared object of an artifact, mapped. */
typedef struct ee_code {
  unsigned char *base;
  size_t span;
  const unsigned char *symbols, *names; /* Elf64_Sym[], and their text */
  size_t symbol_count, names_size;
} ee_code;

/* TVM's FFI (call.c): apache-tvm-ffi's c_api.h and DLPack's dlpack.h, as far as a call with tensors needs them. */
typedef struct ee_dltensor {
  void *data;
  int32_t device_type, device_id; /* 1, 0: this processor */
  int32_t dims;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} ee_dltensor;

typedef struct ee_any {
  int32_t type_index;
  uint32_t zero;
  union {
    int64_t integer;
  double number; /* of an integer or real */
    void *pointer;
  } value;
} ee_any;

typedef int (*ee_packed)(void *handle, const ee_any *args, int32_t count, ee_any *result);

typedef struct ee_argument {
  ee_dltensor tensor;
  int64_t shape[EDGEEMO_MAX_DIMS + 1], strides[EDGEEMO_MAX_DIMS + 1];
} ee_argument;

/* A call that is made again and again on the same memory: only the batch changes. */
typedef struct ee_call {
  ee_packed function;
  int32_t count;
  ee_argument *arguments;
  ee_any *values;
} ee_call;

struct edgeemo_model {
  int32_t owners; /* atomic */
  ee_manifest manifest;
  ee_token *tokens;
  char *manifest_text;     /* what texts of the manifest point into */
  ee_bytes archive;        /* all bytes of the file; empty for a linked model */
  const unsigned char *weights;
  size_t weights_size;
  ee_code code;
  ee_packed step, intake, decide;
  char version[32];
  char name[256]; /* the path, for messages */
};

/* An engine's memory, or its size where base is NULL (memory.c). */
typedef struct ee_layout {
  unsigned char *base;
  size_t used;
} ee_layout;

/* Audio on its way into a ring (samples.c): what was kept of a packet before, then the caller's samples. */
enum { EE_SILENCE = 100 };

typedef struct ee_piece {
  int32_t format; /* edgeemo_format, or EE_SILENCE */
  const void *data;
  size_t count;
} ee_piece;

typedef struct ee_samples {
  size_t lost; /* samples in front that nobody kept, since they will be cut off */
  ee_piece piece[2];
} ee_samples;

/* A place in a ring from which on the source counts anew (clock.c). */
typedef struct ee_break {
  int64_t position, origin;
  bool anew;
} ee_break;

typedef struct ee_placement {
  ee_samples samples;
  int64_t silence;
  bool has_break, has_rewind;
  ee_break at_break;
  int64_t rewind;
  uint64_t gaps, filled_samples, skipped_samples, resets, restarts, duplicate_samples, late_samples, dropped_samples;
} ee_placement;

/* Per slot (clock.c, stream.c) */
typedef struct ee_slot {
  int64_t origin, since, credit; /* of the source's clock */
  int64_t begun;                 /* where the call began (anew) in the ring */
  int64_t silent_steps;
  uint32_t strange_end; /* a late packet that fits nowhere: where it ends, and how long it was */
  int64_t strange_count;
  int32_t breaks;
  int32_t phase; /* -1: not spread */
  bool known, strange, in_use, moving;
  struct ee_served *served;
} ee_slot;

/* A model with the memory its step needs (served.c) */
typedef struct ee_served {
  struct ee_served *next;
  edgeemo_model *model;
  float *states;
  double *speech; /* which word of a state row counts steps of speech, and how many a label takes */
  ee_call step;
  edgeemo_model_stats counts; /* since it serves */
  void *mapped; /* its own memory, where it is not the engine's */
  size_t mapped_size;
} ee_served;

struct edgeemo_engine {
  const void *thread;
  void *mapped; /* NULL: the caller's memory */
  size_t mapped_size;
  int32_t max_streams, backlog, labels, history_steps;
  bool drop_oldest, spread_phases, intensity;
  edgeemo_audio_rules audio_rules;
  float silence; /* mean square */
  float offset;  /* max_offset */
  int64_t max_fill;
  int32_t window_steps;
  double step_s, sample_rate, budget_s;
  edgeemo_clock clock;
  void *clock_user;
  int64_t step, ring_samples, capacity; /* samples */
  int64_t next_id;
  ee_served *live, *served; /* for new streams; all, the oldest first */
  ee_served *canary;        /* for new streams of some users; NULL: none */
  double canary_share;
  int32_t moving_count, open;
  edgeemo_stats stats; /* what models counted is in it once they serve no more */
  ee_slot *slots;
  int32_t *free_slots, *order;
  ee_break *breaks; /* [max_streams][backlog + BREAKS] */
  float *strange;   /* [max_streams][(backlog + 1) * step] */
  /* What compiled code reads and writes, by slot */
  float *rings, *mean, *smoothed;
  int64_t *taken, *written, *begun_at, *window, *seen, *memory, *ids;
  double *ready_since, *rules, *limits;
  /* and by row of a batch */
  int32_t *batch_slots, *loud_slots;
  float *audio, *answers, *loud_audio, *loud_answers, *shares;
  double *start, *times;
  int64_t *numbers;
  unsigned char *flags, *arena;
  size_t arena_bytes;
  ee_call intake, decide;
};

#define EE_SPARE_BREAKS 4

#endif
