/* Where audio belongs by its source's own count of samples: 32 bits that wrap, begin anywhere, and begin anew. As
 * edgeemo_runtime/source_clock.py, whose tests hold both to the same. */
#include "internal.h"

static ee_break *ee_breaks(const edgeemo_engine *e, int32_t slot) {
  return e->breaks + (int64_t)slot * (e->backlog + EE_SPARE_BREAKS);
}

static int64_t ee_rest_of_step(const edgeemo_engine *e, int32_t slot) {
  const int64_t over = e->written[slot] % e->step;
  return over == 0 ? 0 : e->step - over;
}

/* A count as it is kept: a longer one than any source has keeps its last 32 bits only. */
static int64_t ee_as_count(int64_t at) {
  return at < EE_MAX_COUNT && at > -EE_MAX_COUNT ? at : (int64_t)((uint64_t)at & UINT32_MAX);
}

static void ee_clock_clear(edgeemo_engine *e, int32_t slot) {
  ee_slot *s = &e->slots[slot];
  e->begun_at[slot] = s->origin = s->since = 0;
  s->credit = EE_CREDIT_STEPS * e->step;
  s->known = s->strange = false;
  s->breaks = 0;
}

/* The call begins anew with the packet, at the next whole step, up to which there is silence; beyond its credit, which is what new
 * beginnings may cost in steps, what it began of a step is dropped instead. */
static void ee_anew(const edgeemo_engine *e, int32_t slot, ee_placement *p, int64_t count) {
  const int64_t written = e->written[slot], silence = ee_rest_of_step(e, slot);
  p->has_break = true;
  if (silence <= e->slots[slot].credit) {
    p->silence = silence;
    p->at_break = (ee_break){written + silence, count - (written + silence), true};
    return;
  }
  const int64_t position = written - written % e->step;
  p->dropped_samples = (uint64_t)(written - position);
  p->at_break = (ee_break){position, count - position, true};
  p->has_rewind = true;
  p->rewind = position;
}

static void ee_after_gap(const edgeemo_engine *e, int32_t slot, ee_placement *p, int64_t count, int64_t missing) {
  const int64_t size = (int64_t)ee_samples_count(&p->samples);
  p->gaps = 1;
  if (e->audio_rules.reset_at_gaps != 0 || missing > e->max_fill) {
    p->resets = 1;
    ee_anew(e, slot, p, count);
    return;
  }
  const int64_t room = ee_room(e, slot) - size;
  if (missing <= room) {
    p->silence = missing;
    p->filled_samples = (uint64_t)missing;
    return;
  }
  /* As much silence as there is room for, up to the end of a step; the clock jumps over the rest. */
  const int64_t rest = ee_rest_of_step(e, slot), more = room > rest ? (room - rest) / e->step * e->step : 0;
  const int64_t silence = rest + more, position = e->written[slot] + silence;
  p->silence = silence;
  p->has_break = true;
  p->at_break = (ee_break){position, count - position, false};
  p->filled_samples = (uint64_t)silence;
  p->skipped_samples = missing > silence ? (uint64_t)(missing - silence) : 0;
}

/* Remembers a late packet that fits nowhere: the last of its samples, as many as could ever be put into the ring. */
static void ee_keep_strange(edgeemo_engine *e, int32_t slot, const ee_samples *samples, int64_t count) {
  ee_slot *s = &e->slots[slot];
  const int64_t room = (e->backlog + 1) * e->step, size = (int64_t)ee_samples_count(samples), kept = size < room ? size : room;
  float *out = e->strange + (int64_t)slot * room;
  s->strange = true;
  s->strange_end = (uint32_t)(uint64_t)(count + size);
  s->strange_count = size;
  for (int64_t i = 0; i < kept; i++) out[i] = ee_sample(samples, (size_t)(size - kept + i));
}

/* Audio of before what was heard last: sent twice, late, or of a source that counts anew. */
static void ee_late(edgeemo_engine *e, int32_t slot, ee_placement *p, int64_t count, int64_t behind) {
  ee_slot *s = &e->slots[slot];
  const int64_t size = (int64_t)ee_samples_count(&p->samples), old_size = size < behind ? size : behind;
  const int64_t position = e->written[slot] - behind, room = (e->backlog + 1) * e->step;
  const ee_samples all = p->samples;
  ee_samples old = all;
  bool same = false, silent = false;
  ee_samples_keep(&old, (size_t)old_size);
  ee_samples_cut(&p->samples, (size_t)old_size);
  if (position >= s->since && ee_ring_holds(e, slot, position, old_size)) ee_ring_compare(e, slot, position, &old, &same, &silent);
  if (same) {
    p->duplicate_samples = (uint64_t)old_size;
    return;
  }
  p->late_samples = (uint64_t)old_size;
  if (silent) { /* its place was filled with silence */
    ee_ring_patch(e, slot, position, &old);
    return;
  }
  const bool goes_on = s->strange && s->strange_end == (uint32_t)(uint64_t)count;
  if (!goes_on) {
    ee_keep_strange(e, slot, &all, count);
    return;
  }
  /* Two packets in a row that are neither what was heard there nor missing there: another source. */
  const int64_t kept = s->strange_count < room ? s->strange_count : room;
  s->strange = false;
  p->late_samples = 0;
  p->restarts = 1;
  p->samples.lost = (size_t)(s->strange_count - kept);
  p->samples.piece[0] = (ee_piece){EDGEEMO_F32, e->strange + (int64_t)slot * room, (size_t)kept};
  p->samples.piece[1] = all.piece[1];
  ee_anew(e, slot, p, count - s->strange_count);
}

/* Where a packet, whose first sample is number `at` of the source, goes. Changes nothing but late audio's own place. */
static void ee_place_packet(edgeemo_engine *e, int32_t slot, ee_placement *p, int64_t at) {
  ee_slot *s = &e->slots[slot];
  const int64_t count = ee_as_count(at);
  if (!s->known) return;
  const int64_t expected = s->origin + e->written[slot];
  const int64_t ahead = (int32_t)(uint32_t)((uint64_t)count - (uint64_t)expected);
  if (ahead < 0) {
    ee_late(e, slot, p, count, -ahead);
    return;
  }
  s->strange = false;
  if (ahead > 0) ee_after_gap(e, slot, p, count, ahead);
}

/* One more break. Where there is no room, those that were passed become one: they are passed together with the next step. */
static void ee_add_break(edgeemo_engine *e, int32_t slot, ee_break made) {
  ee_slot *s = &e->slots[slot];
  ee_break *list = ee_breaks(e, slot);
  if (s->breaks == e->backlog + EE_SPARE_BREAKS) {
    int32_t passed = 0;
    bool anew = false;
    for (; passed < s->breaks - 1 && list[passed].position <= e->taken[slot]; passed++) anew = anew || list[passed].anew;
    if (passed < 2) passed = 2; /* cannot be: those that were not passed are fewer than the backlog's steps */
    list[passed - 1].anew = anew || list[passed - 1].anew;
    memmove(list, list + passed - 1, (size_t)(s->breaks - passed + 1) * sizeof *list);
    s->breaks -= passed - 1;
  }
  list[s->breaks++] = made;
}

/* Puts what was placed into the ring, which has the room. */
static void ee_put(edgeemo_engine *e, int32_t slot, const ee_placement *p, int64_t at) {
  ee_slot *s = &e->slots[slot];
  const int64_t limit = EE_CREDIT_STEPS * e->step, credit = s->credit + (int64_t)ee_samples_count(&p->samples) / EE_CREDIT_SHARE;
  if (p->has_rewind) {
    e->written[slot] = p->rewind;
    if (s->breaks > 0 && ee_breaks(e, slot)[s->breaks - 1].position == p->rewind) s->breaks--;
  }
  if (p->silence > 0) ee_ring_silence(e, slot, p->silence);
  s->credit = credit < limit ? credit : limit;
  if (p->has_break) {
    s->credit -= p->silence;
    ee_add_break(e, slot, p->at_break);
    s->origin = p->at_break.origin;
    s->since = p->at_break.position;
    s->strange = false;
  } else if (at != EDGEEMO_NO_CLOCK && !s->known) {
    e->begun_at[slot] = s->origin = ee_as_count(at) - e->written[slot];
    s->known = true;
  }
  ee_ring_push(e, slot, &p->samples);
}

/* So many samples were left out before what is pushed next. */
static void ee_clock_skip(edgeemo_engine *e, int32_t slot, int64_t samples) {
  e->slots[slot].origin += samples;
  if (e->slots[slot].breaks == 0) e->begun_at[slot] += samples;
}

/* Passes the breaks that the next step begins at or behind. True if the call begins anew with one. */
static bool ee_reached(edgeemo_engine *e, int32_t slot) {
  ee_slot *s = &e->slots[slot];
  ee_break *list = ee_breaks(e, slot);
  int32_t passed = 0;
  bool anew = false;
  for (; passed < s->breaks && list[passed].position <= e->taken[slot]; passed++) {
    e->begun_at[slot] = list[passed].origin;
    anew = anew || list[passed].anew;
  }
  s->breaks -= passed;
  memmove(list, list + passed, (size_t)s->breaks * sizeof *list);
  return anew;
}
