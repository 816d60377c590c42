/* Costs of libedgeemo. c_cost ARTIFACT: processor times (the least of many) and resident memory of 80 calls, as JSON.
 * c_cost ARTIFACT step|engine STREAMS STEPS WARM_UP: STEPS batched steps between the marks that a72cost looks for: the compiled step
 * alone, or edgeemo_step around it. Built with runtime/c/src in the include path: it runs the compiled step by the library's insides. */
#include "edgeemo.c"

#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { CALLS = 80, BATCH = 8, ROUNDS = 20, MARK = 0x7A72 };

static edgeemo_model *model;
static edgeemo_engine *engine;
static edgeemo_stream streams[CALLS];
static edgeemo_result results[CALLS];

static double spent(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool make(const char *path, int32_t calls) {
  edgeemo_engine_options options;
  EDGEEMO_INIT(options);
  EDGEEMO_INIT(results[0]);
  options.max_streams = calls;
  if (edgeemo_model_load(path, NULL, &model) != EDGEEMO_OK || edgeemo_engine_create(model, &options, &engine) != EDGEEMO_OK) return false;
  for (int i = 0; i < calls; i++) edgeemo_stream_open(engine, &streams[i]);
  return true;
}

/* A step of audio for every call. */
static void push(int32_t calls) {
  static int16_t samples[1 << 16];
  const size_t count = (size_t)engine->step;
  for (size_t i = 0; i < count; i++) samples[i] = (int16_t)(i * 7919 % 4000 - 2000);
  for (int i = 0; i < calls; i++) edgeemo_push_s16(engine, streams[i], samples, count, EDGEEMO_NO_CLOCK);
}

/* VmHWM, not getrusage: what that gives may be the process's that started this one. */
static double most_resident_mb(void) {
  char line[256];
  long kib = 0;
  FILE *status = fopen("/proc/self/status", "r");
  while (status != NULL && fgets(line, sizeof line, status) != NULL)
    if (sscanf(line, "VmHWM: %ld", &kib) == 1) break;
  if (status != NULL) fclose(status);
  return (double)kib / 1024;
}

static int measure(void) {
  size_t answered;
  double whole = 1, bare = 1;
  push(BATCH);
  edgeemo_step(engine, results, BATCH, &answered);
  const double ready = spent();
  for (int round = 0; round < ROUNDS; round++) {
    push(CALLS);
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
  printf("{\"ready_ms\": %.2f, \"step_ms\": %.4f, \"compiled_ms\": %.4f, \"resident_mb\": %.1f}\n", 1e3 * ready, 1e3 * whole, 1e3 * bare,
         most_resident_mb());
  return 0;
}

static int marked(bool whole, int32_t calls, int steps, int warm_up) {
  size_t answered;
  for (int i = 0; i < warm_up; i++) push(calls), edgeemo_step(engine, results, CALLS, &answered);
  for (int i = 0; i < steps; i++) push(calls);
  syscall(MARK, 1, 0);
  for (int i = 0; i < steps; i++) {
    if (whole) edgeemo_step(engine, results, CALLS, &answered);
    else ee_run(&engine->live->step);
  }
  syscall(MARK, 2, 0);
  return 0;
}

int main(int argc, char **argv) {
  const int32_t calls = argc == 6 ? atoi(argv[3]) : CALLS;
  if ((argc != 2 && argc != 6) || calls < 1 || calls > BATCH * 2 * (argc == 6) + CALLS * (argc == 2) || !make(argv[1], calls))
    return fprintf(stderr, "error: %s\n", engine == NULL ? edgeemo_last_error() : "c_cost ARTIFACT [step|engine STREAMS STEPS WARM_UP]"), 1;
  const int code = argc == 2 ? measure() : marked(strcmp(argv[2], "engine") == 0, calls, atoi(argv[4]), atoi(argv[5]));
  edgeemo_engine_destroy(engine);
  edgeemo_model_release(model);
  return code;
}
