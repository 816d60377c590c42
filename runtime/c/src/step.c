/* Steps: who is ready, in batches, through the compiled functions; and calls that move over to another model. */
#include "internal.h"

/* Whether slot `a` waits longer than `b`; of two alike the lower goes first. */
static bool ee_before(const edgeemo_engine *e, int32_t a, int32_t b) {
  return e->ready_since[a] < e->ready_since[b] || (e->ready_since[a] == e->ready_since[b] && a < b);
}

static void ee_sift(const edgeemo_engine *e, int32_t *order, int32_t at, int32_t count) {
  for (int32_t child = 2 * at + 1; child < count; at = child, child = 2 * at + 1) {
    if (child + 1 < count && ee_before(e, order[child], order[child + 1])) child++;
    if (!ee_before(e, order[at], order[child])) return;
    const int32_t swapped = order[at];
    order[at] = order[child];
    order[child] = swapped;
  }
}

/* Slots with a whole step waiting, longest waiting first, in e->order (a heap sort: nothing is allocated). */
static int32_t ee_ready(edgeemo_engine *e) {
  int32_t count = 0;
  bool sorted = true;
  for (int32_t slot = 0; slot < e->max_streams; slot++) {
    if (e->written[slot] - e->taken[slot] < e->step) continue;
    sorted = sorted && (count == 0 || ee_before(e, e->order[count - 1], slot));
    e->order[count++] = slot;
  }
  if (sorted) return count;
  for (int32_t i = count / 2 - 1; i >= 0; i--) ee_sift(e, e->order, i, count);
  for (int32_t last = count - 1; last > 0; last--) {
    const int32_t largest = e->order[0];
    e->order[0] = e->order[last];
    e->order[last] = largest;
    ee_sift(e, e->order, 0, last);
  }
  return count;
}

int32_t edgeemo_ready(const edgeemo_engine *e, double *since) {
  int32_t count = 0;
  double first = (double)INFINITY;
  if (since != NULL) *since = first;
  if (ee_check_thread(e) != EDGEEMO_OK) return 0;
  for (int32_t slot = 0; slot < e->max_streams; slot++) {
    if (e->written[slot] - e->taken[slot] < e->step) continue;
    count++;
    if (e->ready_since[slot] < first) first = e->ready_since[slot];
  }
  if (since != NULL) *since = first;
  return count;
}

/* Before a step: calls whose source began anew, or was silent for long, begin anew with it. */
static void ee_pass_breaks(edgeemo_engine *e, int32_t count) {
  for (int32_t i = 0; i < count; i++) {
    const int32_t slot = e->order[i];
    if (e->slots[slot].breaks == 0 || !ee_reached(e, slot)) continue;
    ee_forget_call(e, slot);
    e->slots[slot].begun = e->taken[slot];
  }
}

/* Which rows of the batch were silent for longer than the hangover. */
static int32_t ee_silent_rows(edgeemo_engine *e, int32_t n, bool quiet[EE_MAX_BATCH]) {
  int32_t found = 0;
  for (int32_t row = 0; row < n; row++) {
    const float *audio = e->audio + (int64_t)row * e->step;
    ee_slot *s = &e->slots[e->batch_slots[row]];
    float sum = 0;
    for (int64_t i = 0; i < e->step; i++) sum += audio[i] * audio[i];
    s->silent_steps = sum / (float)e->step < e->silence ? s->silent_steps + 1 : 0;
    quiet[row] = s->silent_steps > e->audio_rules.hangover_steps;
    found += quiet[row];
  }
  return found;
}

/* The network on those rows that are not silent; a silent one's answer is its average, all alike where it has none. */
static bool ee_run_loud(edgeemo_engine *e, ee_served *s, int32_t n, const bool quiet[EE_MAX_BATCH]) {
  const size_t step = (size_t)e->step, labels = (size_t)e->labels;
  int32_t loud = 0;
  bool good = true;
  for (int32_t row = 0; row < n; row++) {
    if (quiet[row]) {
      const bool begun = e->memory[(int64_t)e->batch_slots[row] * EE_MEMORY_COUNT + EE_MEMORY_STEPS] > 0;
      for (size_t i = 0; i < labels; i++)
        e->answers[(size_t)row * labels + i] = begun ? e->smoothed[(size_t)e->batch_slots[row] * labels + i] : 1.0f / (float)labels;
    } else {
      e->loud_slots[loud] = e->batch_slots[row];
      memcpy(e->loud_audio + (size_t)loud++ * step, e->audio + (size_t)row * step, step * sizeof *e->audio);
    }
  }
  e->stats.skipped_steps += (uint64_t)(n - loud);
  if (loud == 0) return true;
  void *const own[3] = {e->loud_slots, e->loud_audio, e->loud_answers}, *const usual[3] = {e->batch_slots, e->audio, e->answers};
  static const int32_t places[3] = {0, 1, 5};
  for (int i = 0; i < 3; i++) s->step.arguments[places[i]].tensor.data = own[i], ee_batch_of(&s->step, places[i], loud);
  good = ee_run(&s->step);
  for (int i = 0; i < 3; i++) s->step.arguments[places[i]].tensor.data = usual[i];
  for (int32_t row = 0, at = 0; row < n; row++)
    if (!quiet[row]) memcpy(e->answers + (size_t)row * labels, e->loud_answers + (size_t)at++ * labels, labels * sizeof *e->answers);
  return good;
}

/* Where a batch's answers go. */
typedef struct ee_output {
  char *results;
  size_t stride;
} ee_output;

static void ee_count_answer(edgeemo_model_stats *counts, const edgeemo_result *r, bool bad) {
  counts->changes += r->changed != 0;
  counts->jumps += r->jumped != 0;
  counts->low += r->low != 0 && r->decision != 0;
  counts->listening += r->label < 0;
  counts->decisions += r->decision != 0;
  counts->handoffs[r->handoff & 3] += r->handoff != 0;
  counts->errors += bad;
}

/* A batch's rows as results; `rows` says which result each is. */
static void ee_answer(edgeemo_engine *e, ee_served *s, int32_t n, const int32_t *rows, int32_t first, const ee_output *out) {
  const ee_manifest *m = &s->model->manifest;
  for (int32_t i = 0; i < n; i++) {
    const int64_t *numbers = e->numbers + i * EE_NUMBERS_COUNT;
    const unsigned char *flags = e->flags + i * EE_FLAGS_COUNT;
    const double *times = e->times + i * EE_TIMES_COUNT;
    const float *shares = e->shares + (int64_t)(first + i) * 3 * e->labels;
    const int32_t slot = e->batch_slots[i], label = (int32_t)numbers[EE_NUMBERS_LABEL];
    edgeemo_result r;
    memset(&r, 0, sizeof r);
    r.struct_size = (uint32_t)out->stride;
    r.stream = numbers[EE_NUMBERS_STREAM];
    r.label = label;
    r.handoff = (int32_t)numbers[EE_NUMBERS_HANDOFF];
    r.low = flags[EE_FLAGS_LOW];
    r.changed = flags[EE_FLAGS_CHANGED];
    r.jumped = flags[EE_FLAGS_JUMPED];
    r.decision = flags[EE_FLAGS_DECISION];
    r.label_count = e->labels;
    r.start_s = times[EE_TIMES_START_S];
    r.end_s = times[EE_TIMES_END_S];
    r.waited_s = times[EE_TIMES_SINCE]; /* until all are answered */
    r.probabilities = shares;
    r.smoothed = shares + e->labels;
    r.decided = shares + 2 * e->labels;
    r.model = s->model->version;
    if (e->intensity && m->intensity_label >= 0 && label == m->intensity_label && r.low == 0)
      r.intensity = s->states[(int64_t)slot * m->state_words + m->intensity_word] > 0 ? 2 : 1;
    ee_count_answer(&s->counts, &r, (numbers[EE_NUMBERS_ODD] & EE_BAD) != 0);
    if ((numbers[EE_NUMBERS_ODD] & EE_BAD) != 0)
      ee_say("stream %lld: model %s answered with what is no probability", (long long)r.stream, r.model);
    memcpy(out->results + (size_t)rows[i] * out->stride, &r, out->stride < sizeof r ? out->stride : sizeof r);
  }
}

static edgeemo_status ee_run_batch(edgeemo_engine *e, ee_served *s, int32_t n, const int32_t *rows, int32_t first, const ee_output *out) {
  bool quiet[EE_MAX_BATCH] = {false};
  ee_set_batch(e, s, n, first);
  e->intake.function = s->model->intake;
  e->decide.function = s->model->decide;
  bool good = ee_run(&e->intake);
  if (good) good = e->audio_rules.skip_silence != 0 && ee_silent_rows(e, n, quiet) > 0 ? ee_run_loud(e, s, n, quiet) : ee_run(&s->step);
  if (good) good = ee_run(&e->decide);
  if (!good) return ee_misfit(s->model->name);
  ee_answer(e, s, n, rows, first, out);
  return EDGEEMO_OK;
}

/* Answers of all: how long they waited, and who waits again since now. */
static void ee_settle_times(edgeemo_engine *e, int32_t count, const ee_output *out) {
  const double done = e->clock(e->clock_user);
  for (int32_t i = 0; i < count; i++) {
    const int32_t slot = e->order[i];
    double waited;
    char *place = out->results + (size_t)i * out->stride + offsetof(edgeemo_result, waited_s);
    memcpy(&waited, place, sizeof waited);
    waited = done - waited;
    memcpy(place, &waited, sizeof waited);
    e->slots[slot].served->counts.late += waited > e->budget_s;
    e->slots[slot].served->counts.steps++;
    if (e->written[slot] - e->taken[slot] >= e->step) e->ready_since[slot] = done;
  }
}

/* The audio in the rings of `count` slots through the live model, oldest step first: what their states are built from. */
static void ee_replay(edgeemo_engine *e, const int32_t *slots, int32_t count) {
  int64_t first[EE_CARRIED_PER_STEP], held[EE_CARRIED_PER_STEP], most = 0;
  for (int32_t i = 0; i < count; i++) {
    ee_clear_states(e->live, slots[i]);
    first[i] = ee_ring_recent(e, slots[i], &held[i]);
    if (held[i] / e->step > most) most = held[i] / e->step;
  }
  for (int64_t back = most; back > 0; back--) {
    int32_t n = 0;
    for (int32_t i = 0; i < count; i++) {
      if (held[i] < back * e->step) continue;
      float *audio = e->audio + (int64_t)n * e->step;
      const float mean = e->mean[slots[i]];
      ee_ring_copy(e, slots[i], first[i] + held[i] - back * e->step, e->step, audio);
      for (int64_t k = 0; k < e->step && fabsf(mean) > e->offset; k++) audio[k] -= mean;
      e->batch_slots[n++] = slots[i];
    }
    ee_set_batch(e, e->live, n, 0);
    if (!ee_run(&e->live->step)) ee_say("%s: a step of a replay failed (%s)", e->live->model->name, ee_said);
  }
}

/* Moves the next few calls over to the live model. */
static void ee_carry_some(edgeemo_engine *e) {
  int32_t some[EE_CARRIED_PER_STEP], count = 0;
  if (e->moving_count == 0) return;
  for (int32_t slot = 0; slot < e->max_streams && count < EE_CARRIED_PER_STEP; slot++)
    if (e->slots[slot].moving) some[count++] = slot;
  ee_replay(e, some, count);
  for (int32_t i = 0; i < count; i++) {
    e->slots[some[i]].moving = false;
    e->slots[some[i]].served = e->live;
  }
  e->moving_count -= count;
  ee_retire(e);
}

/* A step of e->order[0..count), in batches of one model each. */
static edgeemo_status ee_step_all(edgeemo_engine *e, int32_t count, const ee_output *out) {
  int32_t done = 0, rows[EE_MAX_BATCH];
  for (ee_served *s = e->served; s != NULL && done < count; s = s->next) {
    int32_t n = 0;
    for (int32_t i = 0; i <= count; i++) {
      if (n == EE_MAX_BATCH || (i == count && n > 0)) {
        const edgeemo_status status = ee_run_batch(e, s, n, rows, done, out);
        if (status != EDGEEMO_OK) return status;
        done += n;
        n = 0;
      }
      if (i == count || e->slots[e->order[i]].served != s) continue;
      rows[n] = i;
      e->batch_slots[n++] = e->order[i];
    }
  }
  return EDGEEMO_OK;
}

edgeemo_status edgeemo_step(edgeemo_engine *e, edgeemo_result *results, size_t capacity, size_t *answered) {
  edgeemo_status status = ee_check_thread(e);
  if (status != EDGEEMO_OK) return status;
  if (answered == NULL || (results == NULL && capacity > 0)) return ee_fail(EDGEEMO_INVALID, "edgeemo_step: results or answered is NULL");
  *answered = 0;
  const uint32_t stride = capacity > 0 ? results[0].struct_size : sizeof *results;
  if (stride < offsetof(edgeemo_result, probabilities) || stride % sizeof(double) != 0 || stride > 1 << 16)
    return ee_fail(EDGEEMO_INVALID, "results[0].struct_size is %u; use EDGEEMO_INIT", stride);
  const int32_t ready = ee_ready(e), count = (size_t)ready < capacity ? ready : (int32_t)capacity;
  const ee_output out = {(char *)results, stride};
  ee_carry_some(e);
  ee_pass_breaks(e, count);
  if (count == 0) return EDGEEMO_OK;
  status = ee_step_all(e, count, &out);
  if (status != EDGEEMO_OK) return status;
  ee_settle_times(e, count, &out);
  *answered = (size_t)count;
  return EDGEEMO_OK;
}

const char *edgeemo_handoff_reason(int32_t handoff) {
  return handoff >= 0 && handoff < (int32_t)EE_COUNT(ee_reasons) - 1 ? ee_reasons[handoff] : "";
}
