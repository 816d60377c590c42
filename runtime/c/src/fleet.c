/* Which model serves which call: hot swap, canary, and counts by model. Usually one serves all; after a swap the old one stays until
 * its last call has ended or moved over; during a canary two serve side by side. */
#include "internal.h"

/* By the last two digits of an id that ends in digits, of its CRC-32 otherwise: the same for every call of a user
 * (edgeemo_runtime/fleet.py). */
static bool ee_in_canary(const char *user, double share) {
  const size_t length = strlen(user), first = length < 2 ? 0 : length - 2;
  uint32_t number = 0;
  bool digits = length > 0;
  for (size_t i = first; i < length; i++) {
    digits = digits && user[i] >= '0' && user[i] <= '9';
    number = number * 10 + (uint32_t)(unsigned char)user[i] - '0';
  }
  if (!digits) number = ee_crc32(0, user, length) % 100;
  return (double)number < 100 * share;
}

/* Adds a model's counts to those of all. */
static void ee_add_counts(edgeemo_stats *all, const edgeemo_model_stats *one) {
  all->steps += one->steps;
  all->listening += one->listening;
  all->decisions += one->decisions;
  all->changes += one->changes;
  all->jumps += one->jumps;
  all->low += one->low;
  all->errors += one->errors;
  all->late += one->late;
  for (int i = 0; i < 4; i++) all->handoffs[i] += one->handoffs[i];
}

/* Lets go of models that serve no call and will get none. */
static void ee_retire(edgeemo_engine *e) {
  if (e->served == e->live && e->live->next == NULL) return;
  for (ee_served **place = &e->served; *place != NULL;) {
    ee_served *s = *place;
    bool needed = s == e->live || s == e->canary;
    for (int32_t slot = 0; slot < e->max_streams && !needed; slot++) needed = e->slots[slot].in_use && e->slots[slot].served == s;
    if (needed) {
      place = &s->next;
    } else {
      *place = s->next;
      ee_say("model %s serves no call any more", s->model->version);
      ee_add_counts(&e->stats, &s->counts);
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

/* `model` with memory of its own and warm, last of e->served: what a swap and a canary begin with. */
static edgeemo_status ee_take_in(edgeemo_engine *e, edgeemo_model *model, ee_served **out) {
  edgeemo_status status = ee_check_fit(e, model);
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
  *last = *out = s;
  return EDGEEMO_OK;
}

/* The calls that are to move over to the live model: none, or all that are not on it (`even_on_it`: those as well). */
static void ee_set_moving(edgeemo_engine *e, bool replay, bool even_on_it) {
  e->moving_count = 0;
  for (int32_t slot = 0; slot < e->max_streams; slot++) {
    e->slots[slot].moving = replay && e->slots[slot].in_use && (even_on_it || e->slots[slot].served != e->live);
    e->moving_count += e->slots[slot].moving;
  }
}

edgeemo_status edgeemo_engine_swap(edgeemo_engine *e, edgeemo_model *model, int32_t replay) {
  ee_served *s;
  edgeemo_status status = ee_check_thread(e);
  if (status != EDGEEMO_OK) return status;
  if (model == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_engine_swap: the model is NULL");
  status = ee_take_in(e, model, &s);
  if (status != EDGEEMO_OK) return status;
  e->canary = NULL;
  e->live = s;
  ee_set_moving(e, replay != 0, true);
  ee_say("model %s serves new calls, %d move over", model->version, e->moving_count);
  ee_retire(e);
  return EDGEEMO_OK;
}

edgeemo_status edgeemo_engine_start_canary(edgeemo_engine *e, edgeemo_model *model, double share) {
  ee_served *s;
  edgeemo_status status = ee_check_thread(e);
  if (status != EDGEEMO_OK) return status;
  if (model == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_engine_start_canary: the model is NULL");
  if (!(share > 0 && share < 1)) return ee_fail(EDGEEMO_INVALID, "a canary's share of the users must lie between 0 and 1, not be %g", share);
  if (e->canary != NULL) return ee_fail(EDGEEMO_INVALID, "a canary is running; end it first");
  status = ee_take_in(e, model, &s);
  if (status != EDGEEMO_OK) return status;
  e->canary = s;
  e->canary_share = share;
  ee_say("model %s serves new calls of %g of the users", model->version, share);
  ee_retire(e);
  return EDGEEMO_OK;
}

edgeemo_status edgeemo_engine_end_canary(edgeemo_engine *e, int32_t promote, int32_t replay) {
  const edgeemo_status status = ee_check_thread(e);
  if (status != EDGEEMO_OK) return status;
  if (e->canary == NULL) return ee_fail(EDGEEMO_INVALID, "no canary is running");
  if (promote != 0) e->live = e->canary;
  e->canary = NULL;
  ee_set_moving(e, replay != 0, false);
  ee_say("the canary has ended: model %s serves new calls, %d move over", e->live->model->version, e->moving_count);
  ee_retire(e);
  return EDGEEMO_OK;
}

edgeemo_status edgeemo_engine_get_stats(const edgeemo_engine *e, edgeemo_stats *out) {
  const edgeemo_status status = ee_check_thread(e);
  if (status != EDGEEMO_OK) return status;
  if (out == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_engine_get_stats: out is NULL");
  edgeemo_stats stats = e->stats;
  stats.struct_size = sizeof stats;
  stats.open_streams = e->open;
  stats.moving = e->moving_count;
  stats.models = 0;
  for (const ee_served *s = e->served; s != NULL; s = s->next) {
    stats.models++;
    ee_add_counts(&stats, &s->counts);
  }
  return ee_give(out, &stats, sizeof stats, sizeof stats, "stats");
}

edgeemo_status edgeemo_engine_get_model_stats(const edgeemo_engine *e, int32_t index, edgeemo_model_stats *out) {
  const edgeemo_status status = ee_check_thread(e);
  if (status != EDGEEMO_OK) return status;
  if (out == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_engine_get_model_stats: out is NULL");
  const ee_served *s = index < 0 ? NULL : e->served;
  for (int32_t i = 0; i < index && s != NULL; i++) s = s->next;
  if (s == NULL) return ee_fail(EDGEEMO_INVALID, "no model of number %d serves; edgeemo_stats.models says how many do", index);
  edgeemo_model_stats stats = s->counts;
  stats.struct_size = sizeof stats;
  stats.role = s == e->live ? EDGEEMO_LIVE : s == e->canary ? EDGEEMO_CANARY : EDGEEMO_LEAVING;
  stats.model = s->model->version;
  for (int32_t slot = 0; slot < e->max_streams; slot++) stats.open_streams += e->slots[slot].in_use && e->slots[slot].served == s;
  return ee_give(out, &stats, sizeof stats, sizeof stats, "stats");
}
