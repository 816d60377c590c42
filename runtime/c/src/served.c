/* A model with the memory its step needs: a row of states a slot. What a batch goes through is the engine's. */
#include "internal.h"

static size_t ee_states_bytes(const edgeemo_model *model, int32_t slots) {
  const int64_t words = model->manifest.state_words;
  return (size_t)slots * (size_t)(words > 1 ? words : 1) * sizeof(float);
}

static ee_served *ee_lay_served(const edgeemo_model *model, int32_t slots, ee_layout *l) {
  ee_served *served = ee_lay_plain(l, sizeof *served);
  ee_call call;
  ee_lay_call(l, &call, 6);
  double *speech = ee_lay(l, EE_SPEECH_COUNT * sizeof *speech);
  float *states = ee_lay(l, ee_states_bytes(model, slots));
  if (served == NULL) return NULL;
  served->step = call;
  served->states = states;
  served->speech = speech;
  return served;
}

/* The step's arguments: the engine's arrays, this model's states and weights. */
static void ee_bind_served(edgeemo_engine *e, ee_served *s, edgeemo_model *model) {
  const ee_manifest *m = &model->manifest;
  s->model = model;
  s->step.function = model->step;
  s->speech[EE_SPEECH_PLACE] = (double)m->speech_word;
  s->speech[EE_SPEECH_LEAST] = m->least_speech;
  ee_pass1(&s->step, e->batch_slots, EDGEEMO_INT32, EE_MAX_BATCH);
  ee_pass2(&s->step, e->audio, EDGEEMO_FLOAT32, EE_MAX_BATCH, e->step);
  ee_pass2(&s->step, s->states, EDGEEMO_FLOAT32, e->max_streams, m->state_words > 1 ? m->state_words : 1);
  ee_pass1(&s->step, (void *)(uintptr_t)model->weights, EDGEEMO_UINT8, (int64_t)model->weights_size);
  ee_pass1(&s->step, e->arena, EDGEEMO_UINT8, (int64_t)e->arena_bytes);
  ee_pass2(&s->step, e->answers, EDGEEMO_FLOAT32, EE_MAX_BATCH, e->labels);
}

static void ee_free_served(ee_served *s) {
  edgeemo_model *model = s->model;
  ee_unmap(s->mapped, s->mapped_size); /* `s` lies in it */
  edgeemo_model_release(model);
}

static void ee_batch_of(ee_call *call, int32_t argument, int64_t n) { call->arguments[argument].shape[0] = n; }

/* The next calls are of `n` slots, whose answers go to row `row` of the results. */
static void ee_set_batch(edgeemo_engine *e, ee_served *s, int32_t n, int32_t row) {
  static const int32_t intake[] = {0, 6, 7}, decide[] = {0, 1, 13, 14, 15, 16, 17}, step[] = {0, 1, 5};
  for (size_t i = 0; i < EE_COUNT(intake); i++) ee_batch_of(&e->intake, intake[i], n);
  for (size_t i = 0; i < EE_COUNT(decide); i++) ee_batch_of(&e->decide, decide[i], n);
  for (size_t i = 0; i < EE_COUNT(step); i++) ee_batch_of(&s->step, step[i], n);
  const int64_t words = s->model->manifest.state_words > 1 ? s->model->manifest.state_words : 1;
  e->decide.arguments[2].tensor.data = s->states;
  e->decide.arguments[2].shape[1] = e->decide.arguments[2].strides[0] = words;
  e->decide.arguments[3].tensor.data = s->speech;
  e->decide.arguments[16].tensor.data = e->shares + (int64_t)row * 3 * e->labels;
}

static void ee_clear_states(const ee_served *s, int32_t slot) {
  const size_t words = (size_t)s->model->manifest.state_words;
  memset(s->states + (size_t)slot * words, 0, words * sizeof *s->states);
}

/* A step of silence in the first `n` slots, all free, whose answers must be probabilities. */
static edgeemo_status ee_warm_served(edgeemo_engine *e, ee_served *s, int32_t n) {
  if (s->model->weights_size > (size_t)INT64_MAX / 2) return ee_misfit(s->model->name);
  memset(e->audio, 0, (size_t)n * (size_t)e->step * sizeof *e->audio);
  for (int32_t i = 0; i < n; i++) e->batch_slots[i] = i;
  ee_set_batch(e, s, n, 0);
  if (!ee_run(&s->step)) return ee_misfit(s->model->name);
  for (int32_t i = 0; i < n; i++) {
    double sum = 0;
    for (int32_t label = 0; label < e->labels; label++) sum += (double)e->answers[i * e->labels + label];
    if (!(fabs(sum - 1) <= EE_SUM_TOLERANCE))
      return ee_fail(EDGEEMO_BAD_CODE, "%s: answers silence with numbers that are no probabilities", s->model->name);
    ee_clear_states(s, i);
  }
  return EDGEEMO_OK;
}
