/* One call from raw audio on stdin (mono, 16 bit, at the model's rate): one_call MODEL.edgeemo < call.s16 */
#include <edgeemo.h>
#include <stdio.h>

int main(int argc, char **argv) {
  edgeemo_model *model;
  edgeemo_engine *engine;
  edgeemo_stream call;
  edgeemo_result result;
  int16_t samples[1280];
  size_t count, answered;
  EDGEEMO_INIT(result);
  if (argc != 2 || edgeemo_model_load(argv[1], NULL, &model) != EDGEEMO_OK ||
      edgeemo_engine_create(model, NULL, &engine) != EDGEEMO_OK || edgeemo_stream_open(engine, &call) != EDGEEMO_OK) {
    fprintf(stderr, "error: %s\n", argc == 2 ? edgeemo_last_error() : "one_call MODEL.edgeemo < call.s16");
    return 1;
  }
  do {
    count = fread(samples, sizeof samples[0], 1280, stdin);
    if (edgeemo_push_s16(engine, call, samples, count, EDGEEMO_NO_CLOCK) != EDGEEMO_OK) break;
    if (count < 1280) edgeemo_stream_finish(engine, call);
    while (edgeemo_step(engine, &result, 1, &answered) == EDGEEMO_OK && answered == 1)
      printf("%6.2f s  %-9s %.3f\n", result.end_s, result.label < 0 ? "listening" : edgeemo_model_label(model, result.label),
             (double)result.smoothed[result.label < 0 ? 0 : result.label]);
  } while (count == 1280);
  edgeemo_engine_destroy(engine);
  edgeemo_model_release(model);
  return 0;
}
