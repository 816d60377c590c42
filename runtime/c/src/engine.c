/* Engines: options, memory, and the slots of streams. */
#include <stdio.h>
#include <time.h>

#include "internal.h"

static __thread char ee_this_thread; /* its address tells threads apart */

static double ee_monotonic(void *user) {
  struct timespec now;
  (void)user;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

edgeemo_status edgeemo_rules_defaults(edgeemo_rules *rules, const char *preset) {
  if (rules == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_rules_defaults: rules is NULL");
  for (size_t i = 0; i < EE_COUNT(ee_presets); i++)
    if (strcmp(preset == NULL ? ee_presets[0].name : preset, ee_presets[i].name) == 0)
      return ee_give(rules, &ee_presets[i].rules, sizeof *rules, sizeof *rules, "rules");
  return ee_fail(EDGEEMO_INVALID, "there is no preset %s; there are call-centre, in-car, raw", preset);
}

edgeemo_status edgeemo_audio_rules_defaults(edgeemo_audio_rules *rules) {
  if (rules == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_audio_rules_defaults: rules is NULL");
  return ee_give(rules, &ee_audio_rules, sizeof *rules, sizeof *rules, "audio rules");
}

/* An engine's options, complete and checked. */
typedef struct ee_options {
  edgeemo_engine_options engine;
  edgeemo_rules rules;
  edgeemo_audio_rules audio;
} ee_options;

static edgeemo_status ee_check_rules(const edgeemo_rules *r, const edgeemo_audio_rules *a) {
  const struct {
    bool good;
    const char *rule;
  } checks[] = {{r->alpha > 0 && r->alpha <= 1, "alpha must lie in (0, 1]"},
                {r->window_steps >= 1 && r->window_steps <= 100, "window_steps must be 1 to 100"},
                {r->disagreement > 0 && r->disagreement <= 1, "disagreement must lie in (0, 1]"},
                {r->min_confidence >= 0 && r->min_confidence <= 1, "min_confidence must lie in [0, 1]"},
                {r->settle_decisions >= 1, "settle_decisions must be at least 1"},
                {r->jump_s >= 0, "jump_s must not be negative"},
                {r->decision_s == 0 || (r->decision_s >= 0.01 && r->decision_s <= 3600), "decision_s must be 0 or lie in 0.01..3600"},
                {r->handoff_decisions >= 1, "handoff_decisions must be at least 1"},
                {a->max_fill_s >= 0 && a->max_fill_s <= 3600, "max_fill_s must lie in 0..3600"},
                {a->max_offset > 0 && a->max_offset <= 1, "max_offset must lie in (0, 1]"},
                {a->silence_dbfs <= 0, "silence_dbfs must be at most 0"},
                {a->hangover_steps >= 1, "hangover_steps must be at least 1"}};
  for (size_t i = 0; i < EE_COUNT(checks); i++)
    if (!checks[i].good) return ee_fail(EDGEEMO_INVALID, "%s", checks[i].rule);
  return EDGEEMO_OK;
}

static int32_t ee_neutral(const ee_manifest *m) {
  for (uint32_t i = 0; i < m->label_count; i++)
    if (strcmp(m->labels[i], EE_NEUTRAL) == 0) return (int32_t)i;
  return -1;
}

static edgeemo_status ee_check_options(const edgeemo_model *model, const edgeemo_engine_options *given, ee_options *o) {
  edgeemo_status status = EDGEEMO_OK;
  if (model == NULL) return ee_fail(EDGEEMO_INVALID, "the model is NULL");
  EDGEEMO_INIT(o->engine);
  if (given != NULL) status = ee_take(&o->engine, sizeof o->engine, given, sizeof o->engine, "options");
  if (status != EDGEEMO_OK) return status;
  o->rules = ee_presets[0].rules;
  o->audio = ee_audio_rules;
  if (o->engine.rules != NULL) status = ee_take(&o->rules, sizeof o->rules, o->engine.rules, sizeof o->rules, "options.rules");
  if (status == EDGEEMO_OK && o->engine.audio != NULL)
    status = ee_take(&o->audio, sizeof o->audio, o->engine.audio, sizeof o->audio, "options.audio");
  if (status == EDGEEMO_OK) status = ee_check_rules(&o->rules, &o->audio);
  if (status != EDGEEMO_OK) return status;
  if (o->engine.max_streams == 0) o->engine.max_streams = 64;
  if (o->engine.backlog_hops == 0) o->engine.backlog_hops = EE_BACKLOG_HOPS;
  if (!(o->engine.budget_s >= 0)) return ee_fail(EDGEEMO_INVALID, "budget_s must be seconds, 0 for %g, not %g", EE_BUDGET_S, o->engine.budget_s);
  if (o->engine.budget_s <= 0) o->engine.budget_s = EE_BUDGET_S;
  if (o->engine.clock == NULL) o->engine.clock = ee_monotonic;
  if (o->engine.max_streams < 1 || o->engine.max_streams > EE_MAX_STREAMS || o->engine.backlog_hops < 1 ||
      o->engine.backlog_hops > EE_MAX_BACKLOG_HOPS)
    return ee_fail(EDGEEMO_INVALID, "max_streams must be 1 to %d and backlog_hops 1 to %d, not %d and %d", EE_MAX_STREAMS,
                   EE_MAX_BACKLOG_HOPS, o->engine.max_streams, o->engine.backlog_hops);
  if (!model->manifest.is_stream)
    return ee_fail(EDGEEMO_UNFIT, "%s: has no stream contract, so audio cannot be streamed through it; use edgeemo_function", model->name);
  if (model->manifest.intake == NULL)
    return ee_fail(EDGEEMO_UNFIT, "%s: has no functions around its step that this library knows; compile it again", model->name);
  if (o->rules.confidence != 0 && ee_neutral(&model->manifest) < 0)
    return ee_fail(EDGEEMO_INVALID, "%s: the confidence rule answers neutral, which is none of its labels; switch it off", model->name);
  return EDGEEMO_OK;
}

static void ee_lay_slots(edgeemo_engine *e, ee_layout *l) {
  const size_t n = (size_t)e->max_streams, step = (size_t)e->step, labels = (size_t)e->labels;
  e->slots = ee_lay_plain(l, n * sizeof *e->slots);
  e->free_slots = ee_lay_plain(l, n * sizeof *e->free_slots);
  e->order = ee_lay_plain(l, n * sizeof *e->order);
  e->breaks = ee_lay_plain(l, n * (size_t)(e->backlog + EE_SPARE_BREAKS) * sizeof *e->breaks);
  e->strange = ee_lay_plain(l, n * (size_t)(e->backlog + 1) * step * sizeof *e->strange);
  e->rings = ee_lay(l, n * (size_t)e->capacity * sizeof *e->rings);
  e->mean = ee_lay(l, n * sizeof *e->mean);
  e->smoothed = ee_lay(l, n * labels * sizeof *e->smoothed);
  e->taken = ee_lay(l, n * sizeof *e->taken);
  e->written = ee_lay(l, n * sizeof *e->written);
  e->begun_at = ee_lay(l, n * sizeof *e->begun_at);
  e->window = ee_lay(l, n * (size_t)e->window_steps * sizeof *e->window);
  e->seen = ee_lay(l, n * (labels + 1) * sizeof *e->seen);
  e->memory = ee_lay(l, n * EE_MEMORY_COUNT * sizeof *e->memory);
  e->ids = ee_lay(l, n * sizeof *e->ids);
  e->ready_since = ee_lay(l, n * sizeof *e->ready_since);
  e->rules = ee_lay(l, EE_RULES_COUNT * sizeof *e->rules);
  e->limits = ee_lay(l, 2 * sizeof *e->limits);
}

static void ee_lay_batch(edgeemo_engine *e, ee_layout *l) {
  const size_t n = EE_MAX_BATCH, step = (size_t)e->step, labels = (size_t)e->labels;
  e->batch_slots = ee_lay(l, n * sizeof *e->batch_slots);
  e->loud_slots = ee_lay(l, n * sizeof *e->loud_slots);
  e->audio = ee_lay(l, n * step * sizeof *e->audio);
  e->answers = ee_lay(l, n * labels * sizeof *e->answers);
  e->loud_audio = ee_lay(l, n * step * sizeof *e->loud_audio);
  e->loud_answers = ee_lay(l, n * labels * sizeof *e->loud_answers);
  e->shares = ee_lay(l, ((size_t)e->max_streams + n) * 3 * labels * sizeof *e->shares);
  e->start = ee_lay(l, n * sizeof *e->start);
  e->times = ee_lay(l, n * EE_TIMES_COUNT * sizeof *e->times);
  e->numbers = ee_lay(l, n * EE_NUMBERS_COUNT * sizeof *e->numbers);
  e->flags = ee_lay(l, n * EE_FLAGS_COUNT);
  e->arena = ee_lay(l, e->arena_bytes);
  ee_lay_call(l, &e->intake, 8);
  ee_lay_call(l, &e->decide, 18);
}

static size_t ee_arena_bytes(const edgeemo_model *model) {
  const int64_t each = model->manifest.arena_bytes;
  return EE_MAX_BATCH * (size_t)(each > EE_ALIGNMENT ? each : EE_ALIGNMENT);
}

/* Sizes of an engine by its options, and all of its memory from `l` on; with l->base NULL only l->used is of use. Returns where its
 * first model lies. */
static ee_served *ee_lay_engine(const edgeemo_model *model, const ee_options *o, ee_layout *l, edgeemo_engine *e) {
  const ee_manifest *m = &model->manifest;
  e->max_streams = o->engine.max_streams;
  e->backlog = o->engine.backlog_hops;
  e->labels = (int32_t)m->label_count;
  e->step = m->samples_per_step;
  e->ring_samples = m->ring_samples;
  e->capacity = (e->backlog + 1 + (m->ring_samples + e->step - 1) / e->step) * e->step;
  e->window_steps = o->rules.window_steps;
  e->arena_bytes = ee_arena_bytes(model);
  l->used += EE_MARGIN;
  ee_lay_slots(e, l);
  ee_lay_batch(e, l);
  return ee_lay_served(model, e->max_streams, l);
}

size_t edgeemo_engine_memory(const edgeemo_model *model, const edgeemo_engine_options *given) {
  ee_options o;
  edgeemo_engine sizes;
  ee_layout l = {NULL, EE_ALIGNMENT + ee_round(sizeof(edgeemo_engine), EE_ALIGNMENT)};
  if (ee_check_options(model, given, &o) != EDGEEMO_OK) return 0;
  memset(&sizes, 0, sizeof sizes);
  ee_lay_engine(model, &o, &l, &sizes);
  return l.used;
}

static void ee_pass_around(edgeemo_engine *e) {
  const int64_t n = e->max_streams, batch = EE_MAX_BATCH, labels = e->labels;
  const int64_t shares[3] = {batch, 3, labels};
  ee_call *c = &e->intake;
  ee_pass1(c, e->batch_slots, EDGEEMO_INT32, batch);
  ee_pass1(c, e->taken, EDGEEMO_INT64, n);
  ee_pass2(c, e->rings, EDGEEMO_FLOAT32, n, e->capacity);
  ee_pass1(c, e->mean, EDGEEMO_FLOAT32, n);
  ee_pass1(c, e->begun_at, EDGEEMO_INT64, n);
  ee_pass1(c, e->limits, EDGEEMO_FLOAT64, 2);
  ee_pass2(c, e->audio, EDGEEMO_FLOAT32, batch, e->step);
  ee_pass1(c, e->start, EDGEEMO_FLOAT64, batch);
  c = &e->decide;
  ee_pass1(c, e->batch_slots, EDGEEMO_INT32, batch);
  ee_pass2(c, e->answers, EDGEEMO_FLOAT32, batch, labels);
  ee_pass2(c, e->served->states, EDGEEMO_FLOAT32, n, 1); /* of the model that is run: ee_set_batch */
  ee_pass1(c, e->served->speech, EDGEEMO_FLOAT64, EE_SPEECH_COUNT);
  ee_pass1(c, e->rules, EDGEEMO_FLOAT64, EE_RULES_COUNT);
  ee_pass2(c, e->smoothed, EDGEEMO_FLOAT32, n, labels);
  ee_pass2(c, e->window, EDGEEMO_INT64, n, e->window_steps);
  ee_pass2(c, e->seen, EDGEEMO_INT64, n, labels + 1);
  ee_pass2(c, e->memory, EDGEEMO_INT64, n, EE_MEMORY_COUNT);
  ee_pass1(c, e->ids, EDGEEMO_INT64, n);
  ee_pass1(c, e->taken, EDGEEMO_INT64, n);
  ee_pass1(c, e->written, EDGEEMO_INT64, n);
  ee_pass1(c, e->ready_since, EDGEEMO_FLOAT64, n);
  ee_pass1(c, e->start, EDGEEMO_FLOAT64, batch);
  ee_pass2(c, e->numbers, EDGEEMO_INT64, batch, EE_NUMBERS_COUNT);
  ee_pass2(c, e->flags, EDGEEMO_UINT8, batch, EE_FLAGS_COUNT);
  ee_pass(c, e->shares, EDGEEMO_FLOAT32, 3, shares);
  ee_pass2(c, e->times, EDGEEMO_FLOAT64, batch, EE_TIMES_COUNT);
}

static void ee_fill_rules(edgeemo_engine *e, const edgeemo_rules *r, int32_t neutral) {
  memcpy(e->rules, ee_rules_defaults, sizeof ee_rules_defaults);
  e->rules[EE_RULES_ALPHA] = r->alpha;
  e->rules[EE_RULES_CONSISTENCY] = r->consistency != 0;
  e->rules[EE_RULES_DISAGREEMENT] = r->disagreement;
  e->rules[EE_RULES_CONFIDENCE] = r->confidence != 0;
  e->rules[EE_RULES_MIN_CONFIDENCE] = r->min_confidence;
  e->rules[EE_RULES_NEUTRAL] = neutral;
  e->rules[EE_RULES_SETTLE] = r->settle != 0;
  e->rules[EE_RULES_SETTLE_DECISIONS] = r->settle_decisions;
  e->rules[EE_RULES_HANDOFF] = r->handoff != 0;
  e->rules[EE_RULES_HANDOFF_DECISIONS] = r->handoff_decisions;
  e->rules[EE_RULES_DECISION_S] = r->decision_s;
  e->rules[EE_RULES_JUMP_S] = r->jump_s;
  e->rules[EE_RULES_STEP_S] = e->step_s;
  e->rules[EE_RULES_STEP] = (double)e->step;
}

static void ee_fill_engine(edgeemo_engine *e, const edgeemo_model *model, const ee_options *o) {
  const ee_manifest *m = &model->manifest;
  const edgeemo_rules *r = &o->rules;
  e->thread = &ee_this_thread;
  e->drop_oldest = o->engine.drop_oldest != 0;
  e->spread_phases = o->engine.spread_phases != 0;
  e->intensity = r->intensity != 0;
  e->audio_rules = o->audio;
  e->silence = (float)pow(10.0, o->audio.silence_dbfs / 10.0);
  e->offset = (float)o->audio.max_offset;
  e->sample_rate = (double)m->sample_rate;
  e->step_s = (double)e->step / e->sample_rate;
  e->max_fill = (int64_t)(o->audio.max_fill_s * e->sample_rate);
  e->budget_s = o->engine.budget_s;
  e->clock = o->engine.clock;
  e->clock_user = o->engine.clock_user;
  ee_fill_rules(e, r, ee_neutral(m));
  e->limits[0] = o->audio.max_offset;
  e->limits[1] = e->sample_rate;
  for (int32_t slot = 0; slot < e->max_streams; slot++) {
    e->ids[slot] = -1;
    e->slots[slot].phase = -1;
    e->free_slots[slot] = e->max_streams - 1 - slot;
    ee_forget_own(e, slot);
  }
}

/* The first step of each function, on silence: all code must take what the manifest says. */
static edgeemo_status ee_warm_engine(edgeemo_engine *e) {
  edgeemo_status status = ee_warm_served(e, e->live, 1);
  if (status != EDGEEMO_OK) return status;
  e->batch_slots[0] = 0;
  ee_set_batch(e, e->live, 1, 0);
  e->intake.function = e->live->model->intake;
  e->decide.function = e->live->model->decide;
  if (!ee_run(&e->intake) || !ee_run(&e->decide)) status = ee_misfit(e->live->model->name);
  ee_forget(e, 0);
  return status;
}

static edgeemo_status ee_create(edgeemo_model *model, const ee_options *o, void *memory, size_t size, bool own, edgeemo_engine **out) {
  const uintptr_t start = ((uintptr_t)memory + EE_ALIGNMENT - 1) / EE_ALIGNMENT * EE_ALIGNMENT;
  edgeemo_engine *e = (edgeemo_engine *)start;
  ee_layout l = {(unsigned char *)start, ee_round(sizeof *e, EE_ALIGNMENT)};
  if (!own) memset(memory, 0, size);
  ee_served *served = ee_lay_engine(model, o, &l, e);
  e->mapped = own ? memory : NULL;
  e->mapped_size = size;
  e->live = e->served = served;
  ee_bind_served(e, served, model);
  edgeemo_model_retain(model);
  ee_fill_engine(e, model, o);
  ee_pass_around(e);
  const edgeemo_status status = ee_warm_engine(e);
  if (status == EDGEEMO_OK)
    *out = e;
  else
    edgeemo_engine_destroy(e);
  return status;
}

edgeemo_status edgeemo_engine_create(edgeemo_model *model, const edgeemo_engine_options *given, edgeemo_engine **out) {
  ee_options o;
  if (out == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_engine_create: out is NULL");
  *out = NULL;
  const edgeemo_status status = ee_check_options(model, given, &o);
  if (status != EDGEEMO_OK) return status;
  const size_t size = edgeemo_engine_memory(model, given);
  void *memory = ee_map(size);
  if (memory == NULL)
    return ee_fail(EDGEEMO_NO_MEMORY, "%s: %d streams need %zu MB, which are not to be had", model->name, o.engine.max_streams, size >> 20);
  return ee_create(model, &o, memory, size, true, out);
}

edgeemo_status edgeemo_engine_create_in(edgeemo_model *model, const edgeemo_engine_options *given, void *memory, size_t size,
                                        edgeemo_engine **out) {
  ee_options o;
  if (out == NULL || memory == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_engine_create_in: memory or out is NULL");
  *out = NULL;
  const edgeemo_status status = ee_check_options(model, given, &o);
  if (status != EDGEEMO_OK) return status;
  const size_t needed = edgeemo_engine_memory(model, given);
  if (size < needed) return ee_fail(EDGEEMO_INVALID, "an engine of these options needs %zu bytes, not %zu", needed, size);
  return ee_create(model, &o, memory, needed, false, out);
}

void edgeemo_engine_destroy(edgeemo_engine *e) {
  if (e == NULL) return;
  while (e->served != NULL) {
    ee_served *next = e->served->next;
    ee_free_served(e->served);
    e->served = next;
  }
  e->thread = NULL; /* where the memory is the caller's, a call that comes too late is an error */
  ee_unmap(e->mapped, e->mapped_size);
}

edgeemo_status edgeemo_engine_attach(edgeemo_engine *e) {
  if (e == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_engine_attach: the engine is NULL");
  e->thread = &ee_this_thread;
  return EDGEEMO_OK;
}
