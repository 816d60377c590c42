/* What libedgeemo costs: cost ARTIFACT. Processor times, the least of many; resident memory at the end. 80 calls are served. */
#include "../../runtime/c/src/edgeemo.c"

#include <sys/resource.h>

static double spent(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
  enum { CALLS = 80, BATCH = 8, ROUNDS = 200 };
  static edgeemo_result results[CALLS];
  static int16_t samples[1280];
  edgeemo_model *model;
  edgeemo_engine *engine;
  edgeemo_engine_options options;
  edgeemo_stream streams[CALLS];
  size_t answered;
  double whole = 1, bare = 1;
  EDGEEMO_INIT(options);
  EDGEEMO_INIT(results[0]);
  options.max_streams = CALLS;
  for (int i = 0; i < 1280; i++) samples[i] = (int16_t)(i * 7919 % 4000 - 2000);
  if (argc != 2 || edgeemo_model_load(argv[1], NULL, &model) != EDGEEMO_OK || edgeemo_engine_create(model, &options, &engine) != EDGEEMO_OK)
    return printf("error: %s\n", edgeemo_last_error()), 1;
  for (int i = 0; i < CALLS; i++) edgeemo_stream_open(engine, &streams[i]);
  const double ready = spent();
  for (int round = 0; round < ROUNDS; round++) {
    for (int i = 0; i < CALLS; i++) edgeemo_push_s16(engine, streams[i], samples, 1280, EDGEEMO_NO_CLOCK);
    for (int i = 0; i < CALLS; i += BATCH) {
      const double begun = spent();
      edgeemo_step(engine, results, BATCH, &answered);
      const double stepped = spent();
      ee_run(&engine->live->step);
      const double ran = spent();
      if (answered == BATCH && stepped - begun < whole) whole = stepped - begun;
      if (ran - stepped < bare) bare = ran - stepped;
    }
  }
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  printf("ready after %.1f ms of processor time; step of %d: %.4f ms, of which compiled step %.4f ms (x %.4f); resident at most %.1f MB\n",
         1e3 * ready, BATCH, 1e3 * whole, 1e3 * bare, whole / bare, (double)usage.ru_maxrss / 1024);
  edgeemo_engine_destroy(engine);
  edgeemo_model_release(model);
  return 0;
}
