/* Which model serves which call: hot swap. Usually one serves all; after a swap the old one stays until its last call has ended or
 * moved over. */
#include "internal.h"

/* Lets go of models that serve no call and will get none. */
static void ee_retire(edgeemo_engine *e) {
  if (e->served == e->live && e->live->next == NULL) return;
  for (ee_served **place = &e->served; *place != NULL;) {
    ee_served *s = *place;
    bool needed = s == e->live;
    for (int32_t slot = 0; slot < e->max_streams && !needed; slot++) needed = e->slots[slot].in_use && e->slots[slot].served == s;
    if (needed) {
      place = &s->next;
    } else {
      *place = s->next;
      ee_say("model %s serves no call any more", s->model->version);
      ee_free_served(s);
    }
  }
}

/* Whether calls of this engine may go over to `model`. */
static edgeemo_status ee_check_fit(const edgeemo_engine *e, const edgeemo_model *model) {
  const ee_manifest *new = &model->manifest, *old = &e->live->model->manifest;
  if (!new->is_stream) return ee_fail(EDGEEMO_UNFIT, "%s: has no stream contract", model->name);
  if (new->intake == NULL)
    return ee_fail(EDGEEMO_UNFIT, "%s: has no functions around its step that this library knows; compile it again", model->name);
  const char *other = new->sample_rate != old->sample_rate ? "sample rate"
                      : new->samples_per_step != old->samples_per_step ? "samples per step"
                      : new->ring_samples != old->ring_samples ? "ring"
                      : new->label_count != old->label_count ? "number of labels"
                                                             : NULL;
  for (uint32_t i = 0; other == NULL && i < new->label_count; i++)
    if (strcmp(new->labels[i], old->labels[i]) != 0) other = "labels";
  if (other == NULL) return EDGEEMO_OK;
  return ee_fail(EDGEEMO_UNFIT, "%s: its %s is not that of the running model; make another engine with it", model->name, other);
}

edgeemo_status edgeemo_engine_swap(edgeemo_engine *e, edgeemo_model *model, int32_t replay) {
  edgeemo_status status = ee_check_thread(e);
  if (status != EDGEEMO_OK) return status;
  if (model == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_engine_swap: the model is NULL");
  status = ee_check_fit(e, model);
  if (status != EDGEEMO_OK) return status;
  const size_t arena = ee_arena_bytes(model);
  ee_layout sizes = {NULL, EE_MARGIN};
  ee_lay_served(model, e->max_streams, &sizes);
  const size_t arena_at = ee_round(sizes.used, EE_ALIGNMENT), size = arena_at + arena + EE_MARGIN;
  unsigned char *memory = ee_map(size);
  if (memory == NULL) return ee_fail(EDGEEMO_NO_MEMORY, "%s: %d streams do not fit this machine's memory", model->name, e->max_streams);
  ee_layout l = {memory, EE_MARGIN};
  ee_served *s = ee_lay_served(model, e->max_streams, &l);
  s->mapped = memory;
  s->mapped_size = size;
  ee_bind_served(e, s, model);
  if (arena > e->arena_bytes) { /* a larger scratch than the engine has is the model's own */
    s->step.arguments[4].tensor.data = memory + arena_at;
    s->step.arguments[4].shape[0] = (int64_t)arena;
  }
  edgeemo_model_retain(model);
  status = ee_warm_served(e, s, e->max_streams < EE_MAX_BATCH ? e->max_streams : EE_MAX_BATCH);
  if (status != EDGEEMO_OK) {
    ee_free_served(s);
    return status;
  }
  ee_served **last = &e->served;
  while (*last != NULL) last = &(*last)->next;
  *last = e->live = s;
  e->moving_count = 0;
  for (int32_t slot = 0; slot < e->max_streams; slot++) {
    e->slots[slot].moving = replay != 0 && e->slots[slot].in_use;
    e->moving_count += e->slots[slot].moving;
  }
  ee_say("model %s serves new calls, %d move over", model->version, e->moving_count);
  ee_retire(e);
  return EDGEEMO_OK;
}

edgeemo_status edgeemo_engine_get_stats(const edgeemo_engine *e, edgeemo_stats *out) {
  if (e == NULL || out == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_engine_get_stats: engine or out is NULL");
  edgeemo_stats stats = e->stats;
  stats.struct_size = sizeof stats;
  stats.open_streams = e->open;
  stats.moving = e->moving_count;
  stats.models = 0;
  for (const ee_served *s = e->served; s != NULL; s = s->next) stats.models++;
  return ee_give(out, &stats, sizeof stats, sizeof stats, "stats");
}
