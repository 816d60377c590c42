/* Samples of any format on their way into a ring, converted as they are copied, so that a packet of any length needs no room. */
#include "internal.h"

/* Numbers at any address: a packet's payload begins where it begins. */
static int16_t ee_int16_at(const void *data, size_t i) {
  int16_t x;
  memcpy(&x, (const char *)data + i * sizeof x, sizeof x);
  return x;
}

static float ee_float_at(const void *data, size_t i) {
  float x;
  memcpy(&x, (const char *)data + i * sizeof x, sizeof x);
  return x;
}

static float ee_piece_sample(const ee_piece *piece, size_t i) {
  switch (piece->format) {
    case EDGEEMO_S16: return (float)ee_int16_at(piece->data, i) / 32768.0f;
    case EDGEEMO_ULAW: return (float)ee_ulaw[((const uint8_t *)piece->data)[i]] / 32768.0f;
    case EDGEEMO_ALAW: return (float)ee_alaw[((const uint8_t *)piece->data)[i]] / 32768.0f;
    case EDGEEMO_F32: {
      const float x = ee_float_at(piece->data, i);
      return x < -1.0f ? -1.0f : x > 1.0f ? 1.0f : x;
    }
    default: return 0.0f;
  }
}

static size_t ee_samples_count(const ee_samples *s) { return s->lost + s->piece[0].count + s->piece[1].count; }

/* Sample `i`, which must not be one of the lost. */
static float ee_sample(const ee_samples *s, size_t i) {
  i -= s->lost;
  return i < s->piece[0].count ? ee_piece_sample(&s->piece[0], i) : ee_piece_sample(&s->piece[1], i - s->piece[0].count);
}

static void ee_piece_cut(ee_piece *piece, size_t count) {
  static const size_t sizes[] = {sizeof(int16_t), sizeof(float), 1, 1};
  if (piece->data != NULL && piece->format != EE_SILENCE) piece->data = (const char *)piece->data + count * sizes[piece->format];
  piece->count -= count;
}

/* Leaves out the first `count`. */
static void ee_samples_cut(ee_samples *s, size_t count) {
  const size_t lost = count < s->lost ? count : s->lost;
  s->lost -= lost;
  count -= lost;
  for (int i = 0; i < 2; i++) {
    const size_t part = count < s->piece[i].count ? count : s->piece[i].count;
    ee_piece_cut(&s->piece[i], part);
    count -= part;
  }
}

/* Keeps the first `count`. */
static void ee_samples_keep(ee_samples *s, size_t count) {
  const size_t first = count < s->piece[0].count ? count : s->piece[0].count;
  s->piece[0].count = first;
  if (count - first < s->piece[1].count) s->piece[1].count = count - first;
}

static ee_samples ee_samples_of(int32_t format, const void *data, size_t count) {
  return (ee_samples){0, {{EE_SILENCE, NULL, 0}, {format, data, count}}};
}

/* Whether every float is finite; else which is not. */
static bool ee_all_finite(const void *samples, size_t count, size_t *which) {
  for (size_t i = 0; i < count; i++) {
    const float x = ee_float_at(samples, i);
    if (!(x - x == 0.0f)) return *which = i, false;
  }
  return true;
}
