/* Rings of audio, one a slot: what waits for its step, and behind it what was taken last. Positions count samples since the slot was
 * cleared and never wrap; a ring is a whole number of steps. As edgeemo_runtime/ring.py. */
#include "internal.h"

static float *ee_ring(const edgeemo_engine *e, int32_t slot) { return e->rings + (int64_t)slot * e->capacity; }

static int64_t ee_waiting(const edgeemo_engine *e, int32_t slot) { return e->written[slot] - e->taken[slot]; }

static int64_t ee_room(const edgeemo_engine *e, int32_t slot) { return (e->backlog + 1) * e->step - ee_waiting(e, slot); }

/* Appends all of `samples`, for which there is room. */
static void ee_ring_push(edgeemo_engine *e, int32_t slot, const ee_samples *samples) {
  float *ring = ee_ring(e, slot);
  int64_t at = e->written[slot] % e->capacity;
  for (int p = 0; p < 2; p++) {
    const ee_piece *piece = &samples->piece[p];
    for (size_t i = 0; i < piece->count; i++) {
      ring[at] = ee_piece_sample(piece, i);
      at = at + 1 == e->capacity ? 0 : at + 1;
    }
    e->written[slot] += (int64_t)piece->count;
  }
}

static void ee_ring_silence(edgeemo_engine *e, int32_t slot, int64_t count) {
  const ee_samples silence = ee_samples_of(EE_SILENCE, NULL, (size_t)count);
  ee_ring_push(e, slot, &silence);
}

/* Whether `count` samples from `position` on are in the ring. */
static bool ee_ring_holds(const edgeemo_engine *e, int32_t slot, int64_t position, int64_t count) {
  const int64_t oldest = e->written[slot] - e->capacity;
  return position >= (oldest > 0 ? oldest : 0) && position + count <= e->written[slot];
}

/* What lies from `position` on: the same as `samples`; nothing but silence. */
static void ee_ring_compare(const edgeemo_engine *e, int32_t slot, int64_t position, const ee_samples *samples, bool *same, bool *silent) {
  const float *ring = ee_ring(e, slot);
  const size_t count = ee_samples_count(samples);
  *same = *silent = true;
  for (size_t i = 0; i < count && (*same || *silent); i++) {
    const float heard = ring[(position + (int64_t)i) % e->capacity];
    *same = *same && heard == ee_sample(samples, i);
    *silent = *silent && heard == 0.0f;
  }
}

/* Writes over what lies from `position` on, but for what a step has taken already. */
static void ee_ring_patch(edgeemo_engine *e, int32_t slot, int64_t position, const ee_samples *samples) {
  float *ring = ee_ring(e, slot);
  const int64_t taken = e->taken[slot] > position ? e->taken[slot] - position : 0;
  for (int64_t i = taken; i < (int64_t)ee_samples_count(samples); i++)
    ring[(position + i) % e->capacity] = ee_sample(samples, (size_t)i);
}

/* The samples taken last, at most ring_samples of this call: the first's position, and how many. */
static int64_t ee_ring_recent(const edgeemo_engine *e, int32_t slot, int64_t *count) {
  const int64_t oldest = e->taken[slot] - e->ring_samples;
  const int64_t first = e->slots[slot].begun > oldest ? e->slots[slot].begun : oldest;
  *count = e->taken[slot] - first;
  return first;
}

static void ee_ring_copy(const edgeemo_engine *e, int32_t slot, int64_t position, int64_t count, float *out) {
  const float *ring = ee_ring(e, slot);
  const int64_t at = position % e->capacity, first = count < e->capacity - at ? count : e->capacity - at;
  memcpy(out, ring + at, (size_t)first * sizeof *out);
  memcpy(out + first, ring, (size_t)(count - first) * sizeof *out);
}
