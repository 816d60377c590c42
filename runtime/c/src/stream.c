/* Streams: slots opened, closed, and fed with audio. */
#include "internal.h"

/* What an engine knows of a call but for the models' states: rules' memory, running mean. */
static void ee_forget_rules(edgeemo_engine *e, int32_t slot) {
  int64_t *memory = e->memory + (int64_t)slot * EE_MEMORY_COUNT;
  memset(e->smoothed + (int64_t)slot * e->labels, 0, (size_t)e->labels * sizeof *e->smoothed);
  memset(e->seen + (int64_t)slot * (e->labels + 1), 0, (size_t)(e->labels + 1) * sizeof *e->seen);
  memset(memory, 0, EE_MEMORY_COUNT * sizeof *memory);
  memory[EE_MEMORY_ANSWER] = memory[EE_MEMORY_LABEL] = -1;
  for (int32_t i = 0; i < e->window_steps; i++) e->window[(int64_t)slot * e->window_steps + i] = e->labels;
  e->mean[slot] = 0;
  e->slots[slot].silent_steps = 0;
}

/* What was learned from a slot's audio. */
static void ee_forget_call(edgeemo_engine *e, int32_t slot) {
  for (const ee_served *s = e->served; s != NULL; s = s->next) ee_clear_states(s, slot);
  ee_forget_rules(e, slot);
}

/* Everything of a slot but the models' states and the ring's samples, which nobody reads that are beyond what was written. */
static void ee_forget_own(edgeemo_engine *e, int32_t slot) {
  ee_forget_rules(e, slot);
  e->written[slot] = e->taken[slot] = e->slots[slot].begun = 0;
  ee_clock_clear(e, slot);
  e->ready_since[slot] = (double)INFINITY;
}

static void ee_forget(edgeemo_engine *e, int32_t slot) {
  ee_forget_call(e, slot);
  memset(ee_ring(e, slot), 0, (size_t)e->capacity * sizeof *e->rings);
  ee_forget_own(e, slot);
}

static edgeemo_status ee_check_thread(const edgeemo_engine *e) {
  if (e == NULL) return ee_fail(EDGEEMO_INVALID, "the engine is NULL");
  if (e->thread != &ee_this_thread)
    return ee_fail(EDGEEMO_WRONG_THREAD, "an engine belongs to the thread that made it; make one engine per thread, or "
                                         "edgeemo_engine_attach");
  return EDGEEMO_OK;
}

/* A stream's number has its slot in the last 16 bits and which one it is of the engine's before. */
static edgeemo_status ee_slot_of(const edgeemo_engine *e, edgeemo_stream stream, int32_t *slot) {
  const edgeemo_status status = ee_check_thread(e);
  if (status != EDGEEMO_OK) return status;
  *slot = (int32_t)(stream & 0xFFFF);
  if (stream < 0 || *slot >= e->max_streams || e->ids[*slot] != stream)
    return ee_fail(EDGEEMO_CLOSED, "stream %lld is closed, or none of this engine; open another", (long long)stream);
  return EDGEEMO_OK;
}

/* A stream that begins with silence, so that its steps end where the fewest others' do (edgeemo_runtime/schedule.py). */
static void ee_lead_in(edgeemo_engine *e, int32_t slot) {
  int32_t counts[EE_PHASES] = {0}, lead = 0;
  for (int32_t i = 0; i < e->max_streams; i++)
    if (e->slots[i].phase >= 0) counts[e->slots[i].phase]++;
  double phase = fmod(e->clock(e->clock_user), e->step_s) / e->step_s;
  if (!(phase >= 0)) phase = phase < 0 ? phase + 1 : 0; /* a clock may be below zero, or broken */
  const int32_t part = (int32_t)(phase * EE_PHASES);
  for (int32_t i = 1; i < EE_PHASES; i++)
    if (counts[(part - i + EE_PHASES) % EE_PHASES] < counts[(part - lead + EE_PHASES) % EE_PHASES]) lead = i;
  e->slots[slot].phase = (part - lead + EE_PHASES) % EE_PHASES;
  const int64_t samples = lead * e->step / EE_PHASES;
  ee_ring_silence(e, slot, samples);
  e->begun_at[slot] = e->slots[slot].origin = -samples;
}

edgeemo_status edgeemo_stream_open(edgeemo_engine *e, edgeemo_stream *out) { return edgeemo_stream_open_for(e, NULL, out); }

edgeemo_status edgeemo_stream_open_for(edgeemo_engine *e, const char *user, edgeemo_stream *out) {
  const edgeemo_status status = ee_check_thread(e);
  if (status != EDGEEMO_OK) return status;
  if (out == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_stream_open: out is NULL");
  *out = EDGEEMO_NO_STREAM;
  if (e->open == e->max_streams) {
    e->stats.refused++;
    return ee_fail(EDGEEMO_OVERLOAD, "all %d streams are in use; close one, or make the engine with more", e->max_streams);
  }
  const int32_t slot = e->free_slots[e->max_streams - 1 - e->open++];
  *out = e->ids[slot] = e->next_id++ << 16 | slot;
  e->stats.opened++;
  e->slots[slot].in_use = true;
  e->slots[slot].served = e->canary != NULL && ee_in_canary(user == NULL ? "" : user, e->canary_share) ? e->canary : e->live;
  if (e->spread_phases) ee_lead_in(e, slot);
  return EDGEEMO_OK;
}

edgeemo_status edgeemo_stream_close(edgeemo_engine *e, edgeemo_stream stream) {
  int32_t slot;
  const edgeemo_status status = ee_slot_of(e, stream, &slot);
  if (status != EDGEEMO_OK) return status;
  ee_forget(e, slot);
  e->slots[slot].in_use = false;
  if (e->slots[slot].moving) e->slots[slot].moving = false, e->moving_count--;
  e->slots[slot].served = NULL;
  e->slots[slot].phase = -1;
  e->ids[slot] = -1;
  e->free_slots[e->max_streams - e->open--] = slot;
  ee_retire(e);
  return EDGEEMO_OK;
}

/* Makes room for a packet that has none, by dropping the oldest steps, or says that there is none. */
static edgeemo_status ee_make_room(edgeemo_engine *e, int32_t slot, ee_placement *p) {
  const int64_t room = ee_room(e, slot), length = p->silence + (int64_t)ee_samples_count(&p->samples);
  if (length <= room) return EDGEEMO_OK;
  if (!e->drop_oldest)
    return ee_fail(EDGEEMO_OVERLOAD, "stream %lld: %lld samples do not fit, %lld do; step oftener, push less at once, or make the engine "
                                     "with drop_oldest", (long long)e->ids[slot], (long long)length, (long long)room);
  const int64_t excess = (length - room + e->step - 1) / e->step, whole = ee_waiting(e, slot) / e->step;
  const int64_t dropped = excess < whole ? excess : whole;
  e->taken[slot] += dropped * e->step;
  e->stats.dropped_hops += (uint64_t)excess;
  if (excess > dropped) { /* what is pushed is alone too long */
    const int64_t ahead = (excess - dropped) * e->step;
    ee_samples_cut(&p->samples, (size_t)ahead);
    if (p->has_break)
      p->at_break.origin += ahead;
    else
      ee_clock_skip(e, slot, ahead);
  }
  return EDGEEMO_OK;
}

static void ee_count_placement(edgeemo_stats *stats, const ee_placement *p) {
  stats->gaps += p->gaps;
  stats->filled_samples += p->filled_samples;
  stats->skipped_samples += p->skipped_samples;
  stats->resets += p->resets;
  stats->restarts += p->restarts;
  stats->duplicate_samples += p->duplicate_samples;
  stats->late_samples += p->late_samples;
  stats->dropped_samples += p->dropped_samples;
}

static edgeemo_status ee_push(edgeemo_engine *e, int32_t slot, const ee_samples *samples, int64_t at, double came) {
  ee_placement p;
  memset(&p, 0, sizeof p);
  p.samples = *samples;
  if (at != EDGEEMO_NO_CLOCK) ee_place_packet(e, slot, &p, at);
  const edgeemo_status status = ee_make_room(e, slot, &p);
  if (status != EDGEEMO_OK) return status;
  ee_put(e, slot, &p, at);
  ee_count_placement(&e->stats, &p);
  if (isinf(e->ready_since[slot]) && ee_waiting(e, slot) >= e->step) e->ready_since[slot] = isnan(came) ? e->clock(e->clock_user) : came;
  return EDGEEMO_OK;
}

edgeemo_status edgeemo_push(edgeemo_engine *e, edgeemo_stream stream, edgeemo_format format, const void *samples, size_t count, int64_t at,
                            double came) {
  int32_t slot;
  size_t which;
  const edgeemo_status status = ee_slot_of(e, stream, &slot);
  if (status != EDGEEMO_OK) return status;
  if ((int)format < EDGEEMO_S16 || (int)format > EDGEEMO_ALAW) return ee_fail(EDGEEMO_INVALID, "there is no format %d", (int)format);
  if (samples == NULL && count > 0) return ee_fail(EDGEEMO_INVALID, "edgeemo_push: samples is NULL");
  if (count > (size_t)1 << 40) return ee_fail(EDGEEMO_INVALID, "edgeemo_push: %zu samples at once", count);
  if (!isnan(came) && !(came >= -EE_MAX_TIME_S && came <= EE_MAX_TIME_S))
    return ee_fail(EDGEEMO_INVALID, "stream %lld: came is a time on the engine's clock, not %g", (long long)stream, came);
  if (format == EDGEEMO_F32 && !ee_all_finite(samples, count, &which))
    return ee_fail(EDGEEMO_INVALID, "stream %lld: sample %zu is NaN or infinite", (long long)stream, which);
  const ee_samples all = ee_samples_of((int32_t)format, samples, count);
  return count == 0 ? EDGEEMO_OK : ee_push(e, slot, &all, at, came);
}

edgeemo_status edgeemo_push_s16(edgeemo_engine *e, edgeemo_stream stream, const int16_t *samples, size_t count, int64_t at) {
  return edgeemo_push(e, stream, EDGEEMO_S16, samples, count, at, (double)NAN);
}

edgeemo_status edgeemo_push_f32(edgeemo_engine *e, edgeemo_stream stream, const float *samples, size_t count, int64_t at) {
  return edgeemo_push(e, stream, EDGEEMO_F32, samples, count, at, (double)NAN);
}

edgeemo_status edgeemo_push_ulaw(edgeemo_engine *e, edgeemo_stream stream, const uint8_t *samples, size_t count, int64_t at) {
  return edgeemo_push(e, stream, EDGEEMO_ULAW, samples, count, at, (double)NAN);
}

edgeemo_status edgeemo_push_alaw(edgeemo_engine *e, edgeemo_stream stream, const uint8_t *samples, size_t count, int64_t at) {
  return edgeemo_push(e, stream, EDGEEMO_ALAW, samples, count, at, (double)NAN);
}

edgeemo_status edgeemo_stream_finish(edgeemo_engine *e, edgeemo_stream stream) {
  int32_t slot;
  const edgeemo_status status = ee_slot_of(e, stream, &slot);
  if (status != EDGEEMO_OK) return status;
  const int64_t over = ee_waiting(e, slot) % e->step;
  const ee_samples silence = ee_samples_of(EE_SILENCE, NULL, (size_t)(e->step - over));
  return over == 0 ? EDGEEMO_OK : ee_push(e, slot, &silence, EDGEEMO_NO_CLOCK, (double)NAN);
}

edgeemo_status edgeemo_stream_room(const edgeemo_engine *e, edgeemo_stream stream, size_t *out) {
  int32_t slot;
  const edgeemo_status status = ee_slot_of(e, stream, &slot);
  if (status != EDGEEMO_OK) return status;
  if (out == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_stream_room: out is NULL");
  *out = (size_t)ee_room(e, slot);
  return EDGEEMO_OK;
}

edgeemo_status edgeemo_stream_waiting(const edgeemo_engine *e, edgeemo_stream stream, size_t *out) {
  int32_t slot;
  const edgeemo_status status = ee_slot_of(e, stream, &slot);
  if (status != EDGEEMO_OK) return status;
  if (out == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_stream_waiting: out is NULL");
  *out = (size_t)ee_waiting(e, slot);
  return EDGEEMO_OK;
}

edgeemo_status edgeemo_stream_recent(const edgeemo_engine *e, edgeemo_stream stream, float *out, size_t capacity, size_t *count) {
  int32_t slot;
  int64_t held;
  const edgeemo_status status = ee_slot_of(e, stream, &slot);
  if (status != EDGEEMO_OK) return status;
  if (count == NULL || (out == NULL && capacity > 0)) return ee_fail(EDGEEMO_INVALID, "edgeemo_stream_recent: out or count is NULL");
  const int64_t first = ee_ring_recent(e, slot, &held), wanted = capacity < (size_t)held ? (int64_t)capacity : held;
  if (wanted > 0) ee_ring_copy(e, slot, first + held - wanted, wanted, out);
  *count = (size_t)wanted;
  return EDGEEMO_OK;
}
