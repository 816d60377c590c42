#define _POSIX_C_SOURCE 200809L
/* 80 calls at once on one core: many_calls MODEL.edgeemo CALL.s16... Each file is played by as many calls as it takes to be 80. */
#include <edgeemo.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { CALLS = 80, PACKET = 160 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
  static edgeemo_result results[CALLS];
  static int16_t samples[PACKET];
  edgeemo_model *model;
  edgeemo_engine *engine;
  edgeemo_engine_options options;
  edgeemo_stream streams[CALLS];
  FILE *files[CALLS];
  size_t answered, steps = 0, handoffs = 0, playing = CALLS;
  EDGEEMO_INIT(options);
  EDGEEMO_INIT(results[0]);
  options.max_streams = CALLS;
  if (argc < 3 || edgeemo_model_load(argv[1], NULL, &model) != EDGEEMO_OK ||
      edgeemo_engine_create(model, &options, &engine) != EDGEEMO_OK) {
    fprintf(stderr, "error: %s\n", argc < 3 ? "many_calls MODEL.edgeemo CALL.s16..." : edgeemo_last_error());
    return 1;
  }
  for (int i = 0; i < CALLS; i++) {
    files[i] = fopen(argv[2 + i % (argc - 2)], "rb");
    if (files[i] == NULL || edgeemo_stream_open(engine, &streams[i]) != EDGEEMO_OK) return perror(argv[2 + i % (argc - 2)]), 1;
  }
  const double begun = now();
  for (int64_t at = 0; playing > 0; at += PACKET) { /* as packets of 20 ms come, each with its RTP timestamp */
    for (int i = 0; i < CALLS; i++) {
      const size_t count = files[i] == NULL ? 0 : fread(samples, sizeof samples[0], PACKET, files[i]);
      if (files[i] == NULL) continue;
      edgeemo_push_s16(engine, streams[i], samples, count, at);
      if (count == PACKET) continue;
      edgeemo_stream_finish(engine, streams[i]);
      fclose(files[i]);
      files[i] = NULL;
      playing--;
    }
    do {
      if (edgeemo_step(engine, results, CALLS, &answered) != EDGEEMO_OK) return fprintf(stderr, "error: %s\n", edgeemo_last_error()), 1;
      for (size_t i = 0; i < answered; i++) handoffs += results[i].handoff != 0;
      steps += answered;
    } while (answered > 0);
  }
  printf("%zu steps of %d calls in %.2f s, %zu handoffs\n", steps, CALLS, now() - begun, handoffs);
  edgeemo_engine_destroy(engine);
  edgeemo_model_release(model);
  return 0;
}
