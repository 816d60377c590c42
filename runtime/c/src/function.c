/* Models that are no streams: arrays in, arrays out. */
#include "internal.h"

struct edgeemo_function {
  edgeemo_model *model;
  int32_t max_batch;
  size_t mapped_size;
  void **inputs, **outputs;
  ee_call step;
};

/* Everything a function needs from `l` on. */
static void ee_lay_function(const edgeemo_model *model, ee_layout *l, edgeemo_function *f, int32_t **slots, float **states, void **arena) {
  const ee_manifest *m = &model->manifest;
  const size_t batch = (size_t)f->max_batch;
  f->inputs = ee_lay_plain(l, (m->input_count + 1u) * sizeof *f->inputs);
  f->outputs = ee_lay_plain(l, (m->output_count + 1u) * sizeof *f->outputs);
  ee_lay_call(l, &f->step, m->input_count + m->output_count + 4);
  l->used += EE_MARGIN;
  *slots = ee_lay(l, batch * sizeof **slots);
  *states = ee_lay(l, (size_t)(m->state_words > 1 ? m->state_words : 1) * sizeof **states);
  *arena = ee_lay(l, ee_arena_bytes(model));
  for (uint32_t i = 0; i < m->input_count + m->output_count; i++) {
    void *made = ee_lay(l, batch * (size_t)m->tensors[i].bytes);
    if (l->base == NULL) continue;
    if (i < m->input_count) f->inputs[i] = made;
    else f->outputs[i - m->input_count] = made;
  }
}

static void ee_pass_item(ee_call *call, void *data, const ee_tensor_spec *spec, int32_t batch) {
  int64_t shape[EDGEEMO_MAX_DIMS + 1] = {batch};
  memcpy(shape + 1, spec->shape, sizeof spec->shape);
  ee_pass(call, data, spec->dtype, spec->dims + 1, shape);
}

static edgeemo_status ee_function_step(edgeemo_function *f, int32_t batch) {
  const ee_manifest *m = &f->model->manifest;
  ee_batch_of(&f->step, 0, batch);
  for (uint32_t i = 0; i < m->input_count; i++) ee_batch_of(&f->step, (int32_t)(1 + i), batch);
  for (uint32_t i = 0; i < m->output_count; i++) ee_batch_of(&f->step, (int32_t)(4 + m->input_count + i), batch);
  return ee_run(&f->step) ? EDGEEMO_OK : ee_misfit(f->model->name);
}

edgeemo_status edgeemo_function_create(edgeemo_model *model, int32_t max_batch, edgeemo_function **out) {
  edgeemo_function sizes;
  ee_layout l = {NULL, ee_round(sizeof sizes, EE_ALIGNMENT)};
  int32_t *slots;
  float *states;
  void *arena;
  if (model == NULL || out == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_function_create: model or out is NULL");
  *out = NULL;
  const ee_manifest *m = &model->manifest;
  if (m->is_stream) return ee_fail(EDGEEMO_UNFIT, "%s: streams audio; use edgeemo_engine", model->name);
  if (max_batch < 1 || max_batch > EE_MAX_BATCH)
    return ee_fail(EDGEEMO_INVALID, "max_batch must be 1 to %d, not %d", EE_MAX_BATCH, max_batch);
  memset(&sizes, 0, sizeof sizes);
  sizes.max_batch = max_batch;
  ee_lay_function(model, &l, &sizes, &slots, &states, &arena);
  unsigned char *memory = ee_map(l.used);
  if (memory == NULL) return ee_fail(EDGEEMO_NO_MEMORY, "%s: %zu MB are not to be had", model->name, l.used >> 20);
  edgeemo_function *f = (edgeemo_function *)(void *)memory;
  f->model = model;
  f->max_batch = max_batch;
  f->mapped_size = l.used;
  l = (ee_layout){memory, ee_round(sizeof *f, EE_ALIGNMENT)};
  ee_lay_function(model, &l, f, &slots, &states, &arena);
  f->step.function = model->step;
  ee_pass1(&f->step, slots, EDGEEMO_INT32, max_batch);
  for (uint32_t i = 0; i < m->input_count; i++) ee_pass_item(&f->step, f->inputs[i], &m->tensors[i], max_batch);
  ee_pass2(&f->step, states, EDGEEMO_FLOAT32, 1, m->state_words > 1 ? m->state_words : 1);
  ee_pass1(&f->step, (void *)(uintptr_t)model->weights, EDGEEMO_UINT8, (int64_t)model->weights_size);
  ee_pass1(&f->step, arena, EDGEEMO_UINT8, (int64_t)ee_arena_bytes(model));
  for (uint32_t i = 0; i < m->output_count; i++) ee_pass_item(&f->step, f->outputs[i], &m->tensors[m->input_count + i], max_batch);
  edgeemo_model_retain(model);
  const edgeemo_status status = ee_function_step(f, 1); /* all code must take what the manifest says */
  if (status == EDGEEMO_OK)
    *out = f;
  else
    edgeemo_function_destroy(f);
  return status;
}

edgeemo_status edgeemo_function_run(edgeemo_function *f, int32_t batch, const void *const *inputs, void *const *outputs) {
  if (f == NULL || outputs == NULL || (inputs == NULL && f->model->manifest.input_count > 0))
    return ee_fail(EDGEEMO_INVALID, "edgeemo_function_run: an argument is NULL");
  const ee_manifest *m = &f->model->manifest;
  if (batch < 1 || batch > f->max_batch) return ee_fail(EDGEEMO_INVALID, "the batch must be 1 to %d, not %d", f->max_batch, batch);
  for (uint32_t i = 0; i < m->input_count + m->output_count; i++)
    if ((i < m->input_count ? inputs[i] : outputs[i - m->input_count]) == NULL)
      return ee_fail(EDGEEMO_INVALID, "edgeemo_function_run: %s is NULL", m->tensors[i].name);
  for (uint32_t i = 0; i < m->input_count; i++) memcpy(f->inputs[i], inputs[i], (size_t)batch * (size_t)m->tensors[i].bytes);
  const edgeemo_status status = ee_function_step(f, batch);
  if (status != EDGEEMO_OK) return status;
  for (uint32_t i = 0; i < m->output_count; i++)
    memcpy(outputs[i], f->outputs[i], (size_t)batch * (size_t)m->tensors[m->input_count + i].bytes);
  return EDGEEMO_OK;
}

void edgeemo_function_destroy(edgeemo_function *f) {
  if (f == NULL) return;
  edgeemo_model *model = f->model;
  ee_unmap(f, f->mapped_size);
  edgeemo_model_release(model);
}
