/* Damaged artifacts, and calls of the API in any order with any arguments: fuzz archive|api ARTIFACT SEED COUNT. Built with sanitizers
 * (tests/c/test_fuzz.py); a crash, a leak or undefined behaviour ends it. Prints how many were refused. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgeemo.h"

static uint64_t state;

static uint64_t draw(uint64_t below) { /* xorshift64* */
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return below == 0 ? 0 : (state * UINT64_C(2685821657736338717)) % below;
}

static unsigned char *contents(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) exit(2);
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  unsigned char *data = malloc(*size + 4096);
  if (data == NULL || fread(data, 1, *size, file) != *size) exit(2);
  fclose(file);
  return data;
}

/* Bytes changed, cut out or doubled; mostly where the structure is: the manifest, the code's head, the directory. */
static size_t damage(unsigned char *data, size_t size) {
  static const unsigned char odd[] = {0, 1, 0x7F, 0x80, 0xFF, '"', '{', '}', '[', ',', '9', '-', '\\', 'e'};
  for (uint64_t changes = 1 + draw(6); changes > 0; changes--) {
    const uint64_t where = draw(4);
    const size_t at = where == 0 ? (size_t)draw(size) : where == 1 && size > 400 ? size - 1 - (size_t)draw(400) : (size_t)draw(size < 14000 ? size : 14000);
    const size_t some = 1 + (size_t)draw(24);
    switch (draw(4)) {
      case 0: data[at] = odd[draw(sizeof odd)]; break;
      case 1: data[at] = (unsigned char)(data[at] ^ 1u << draw(8)); break;
      case 2:
        if (at + some < size) memmove(data + at, data + at + some, size - at - some), size -= some;
        break;
      default: memmove(data + at + some, data + at, size - at), size += some; break;
    }
    if (size < 64) break;
  }
  return size;
}

static int archives(const char *path, uint64_t count) {
  size_t size;
  unsigned char *whole = contents(path, &size);
  unsigned char *data = malloc(size + 4096);
  uint64_t refused = 0;
  if (data == NULL) return 2;
  for (uint64_t i = 0; i < count; i++) {
    edgeemo_model *model;
    edgeemo_engine *engine;
    memcpy(data, whole, size);
    const size_t length = damage(data, size);
    const bool loaded = edgeemo_model_load_memory(data, length, NULL, 0, NULL, &model) == EDGEEMO_OK;
    refused += !loaded;
    if (!loaded) continue;
    if (edgeemo_engine_create(model, NULL, &engine) == EDGEEMO_OK) edgeemo_engine_destroy(engine);
    edgeemo_model_release(model);
  }
  printf("%llu archives, %llu refused\n", (unsigned long long)count, (unsigned long long)refused);
  free(data);
  free(whole);
  return 0;
}

enum { STREAMS = 24, RESULTS = 8 };
static edgeemo_model *model;
static edgeemo_engine *engine;
static edgeemo_stream streams[STREAMS];
static double now;
static uint64_t failures;

static double read_clock(void *user) {
  static const double odd[] = {-3.3, (double)NAN, (double)INFINITY, -1e18};
  (void)user;
  return draw(500) == 0 ? odd[draw(4)] : now;
}

static void note(edgeemo_status status) {
  failures += status != EDGEEMO_OK;
  if (status != EDGEEMO_OK && edgeemo_last_error()[0] == 0) abort();
}

static void make_engine(void) {
  edgeemo_engine_options options;
  edgeemo_rules rules;
  edgeemo_audio_rules audio;
  EDGEEMO_INIT(options);
  EDGEEMO_INIT(rules);
  EDGEEMO_INIT(audio);
  edgeemo_rules_defaults(&rules, draw(2) == 0 ? NULL : "raw");
  edgeemo_audio_rules_defaults(&audio);
  if (draw(4) == 0) rules.window_steps = (int32_t)draw(200) - 50;
  if (draw(8) == 0) rules.alpha = draw(2) == 0 ? (double)NAN : (double)draw(3);
  audio.skip_silence = draw(3) == 0;
  audio.reset_at_gaps = draw(2) == 0;
  options.max_streams = draw(10) == 0 ? (int32_t)draw(20000) - 5000 : 1 + (int32_t)draw(8);
  options.backlog_hops = draw(10) == 0 ? (int32_t)draw(3000) - 1000 : 1 + (int32_t)draw(4);
  options.drop_oldest = draw(2) == 0;
  options.spread_phases = draw(2) == 0;
  options.rules = draw(3) == 0 ? NULL : &rules;
  options.audio = draw(3) == 0 ? NULL : &audio;
  options.clock = read_clock;
  if (draw(20) == 0) options.struct_size = (uint32_t)draw(200);
  if (options.max_streams > 200) options.max_streams = 200;
  if (options.backlog_hops > 50) options.backlog_hops = 50;
  edgeemo_engine_destroy(engine);
  engine = NULL;
  note(edgeemo_engine_create(model, &options, &engine));
}

static void push(edgeemo_stream stream) {
  static float samples[20000];
  static const int64_t times[] = {EDGEEMO_NO_CLOCK, 0, -1, INT64_MAX, INT64_MIN + 1, (int64_t)1 << 32, UINT32_MAX, 1280, (int64_t)1 << 62};
  static int64_t next;
  const size_t count = draw(8) == 0 ? (size_t)draw(20000) : (size_t)draw(4000);
  const int64_t at = draw(4) == 0 ? times[draw(sizeof times / sizeof *times)] : next + (int64_t)draw(3) * ((int64_t)draw(3000) - 1000);
  for (int i = 0; i < 40; i++) samples[draw(20000)] = draw(50) == 0 ? (draw(2) == 0 ? (float)NAN : 5.0f) : (float)draw(1000) / 1000.0f - 0.5f;
  note(edgeemo_push(engine, stream, (edgeemo_format)(draw(40) == 0 ? draw(9) : draw(4)), (const char *)samples + (draw(9) == 0), count / 2, at, draw(5) == 0 ? now : (double)NAN));
  if (at > INT64_MIN / 2 && at < INT64_MAX / 2) next = at + (int64_t)count;
}

static void step(void) {
  edgeemo_result results[RESULTS];
  size_t count = 77;
  EDGEEMO_INIT(results[0]);
  if (draw(30) == 0) results[0].struct_size = (uint32_t)draw(160);
  now += (double)draw(200) / 1000;
  if (results[0].struct_size <= sizeof *results) note(edgeemo_step(engine, draw(60) == 0 ? NULL : results, draw(RESULTS + 1), draw(60) == 0 ? NULL : &count));
}

static int calls(const char *path, uint64_t count) {
  static float recent[10000];
  static const char *const users[] = {NULL, "", "7", "caller-1704", "caller-1705", "x", "\xc5\xbc"};
  size_t some;
  if (edgeemo_model_load(path, NULL, &model) != EDGEEMO_OK) return fprintf(stderr, "%s\n", edgeemo_last_error()), 2;
  make_engine();
  for (uint64_t i = 0; i < count; i++) {
    edgeemo_stream *stream = &streams[draw(STREAMS)];
    const uint64_t what = draw(1000);
    if (draw(3000) == 0) *stream = (edgeemo_stream)draw(UINT64_MAX);
    if (what < 2) make_engine();
    else if (what < 550) push(*stream);
    else if (what < 620) step();
    else if (what < 700) note(edgeemo_stream_open(engine, stream));
    else if (what < 740) note(edgeemo_stream_open_for(engine, users[draw(sizeof users / sizeof *users)], stream));
    else if (what < 760) note(edgeemo_stream_close(engine, *stream));
    else if (what < 800) note(edgeemo_stream_finish(engine, *stream));
    else if (what < 850) note(edgeemo_stream_room(engine, *stream, &some));
    else if (what < 900) note(edgeemo_stream_waiting(engine, *stream, draw(9) == 0 ? NULL : &some));
    else if (what < 940) note(edgeemo_stream_recent(engine, *stream, recent, draw(10000), &some));
    else if (what < 945) note(edgeemo_engine_swap(engine, draw(9) == 0 ? NULL : model, (int32_t)draw(2)));
    else if (what < 950) note(edgeemo_engine_start_canary(engine, draw(9) == 0 ? NULL : model, (double)draw(12) / 10 - 0.1));
    else if (what < 955) note(edgeemo_engine_end_canary(engine, (int32_t)draw(2), (int32_t)draw(2)));
    else if (what < 965) {
      edgeemo_model_stats stats;
      EDGEEMO_INIT(stats);
      if (draw(9) == 0) stats.struct_size = (uint32_t)draw(sizeof stats);
      note(edgeemo_engine_get_model_stats(engine, (int32_t)draw(6) - 1, &stats));
    }
    else if (what < 980) (void)edgeemo_ready(engine, NULL);
    else {
      edgeemo_stats stats;
      EDGEEMO_INIT(stats);
      if (draw(9) == 0) stats.struct_size = (uint32_t)draw(sizeof stats);
      note(edgeemo_engine_get_stats(draw(9) == 0 ? NULL : engine, &stats));
    }
  }
  edgeemo_engine_destroy(engine);
  edgeemo_model_release(model);
  printf("%llu calls, %llu refused\n", (unsigned long long)count, (unsigned long long)failures);
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  state = strtoull(argv[3], NULL, 10) * UINT64_C(2654435769) + 1;
  const uint64_t count = strtoull(argv[4], NULL, 10);
  return strcmp(argv[1], "archive") == 0 ? archives(argv[2], count) : calls(argv[2], count);
}
