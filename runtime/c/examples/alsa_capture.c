/* A call from a sound card: alsa_capture MODEL.edgeemo DEVICE [SECONDS]. DEVICE is ALSA's name ("default", "plughw:1,0");
 * ALSA's plug converts where the card has not the model's rate. */
#include <alsa/asoundlib.h>
#include <edgeemo.h>
#include <stdio.h>
#include <stdlib.h>

enum { PACKET = 160 };

/* The device at the model's rate, mono, 16 bit; NULL, and a line, where that cannot be had. */
static snd_pcm_t *opened(const char *device, unsigned rate) {
  snd_pcm_t *pcm;
  int error = snd_pcm_open(&pcm, device, SND_PCM_STREAM_CAPTURE, 0);
  if (error == 0) error = snd_pcm_set_params(pcm, SND_PCM_FORMAT_S16, SND_PCM_ACCESS_RW_INTERLEAVED, 1, rate, 1, 200000);
  if (error == 0) return pcm;
  fprintf(stderr, "error: %s: %s\n", device, snd_strerror(error));
  return NULL;
}

int main(int argc, char **argv) {
  edgeemo_model *model;
  edgeemo_engine *engine;
  edgeemo_model_info info;
  edgeemo_stream call;
  edgeemo_result result;
  int16_t samples[PACKET];
  size_t answered;
  EDGEEMO_INIT(info);
  EDGEEMO_INIT(result);
  if (argc < 3 || edgeemo_model_load(argv[1], NULL, &model) != EDGEEMO_OK || edgeemo_model_get_info(model, &info) != EDGEEMO_OK ||
      edgeemo_engine_create(model, NULL, &engine) != EDGEEMO_OK || edgeemo_stream_open(engine, &call) != EDGEEMO_OK) {
    fprintf(stderr, "error: %s\n", argc < 3 ? "alsa_capture MODEL.edgeemo DEVICE [SECONDS]" : edgeemo_last_error());
    return 1;
  }
  snd_pcm_t *pcm = opened(argv[2], (unsigned)info.sample_rate);
  if (pcm == NULL) return 1;
  const double seconds = argc > 3 ? atof(argv[3]) : 1e9;
  int64_t at = 0; /* samples since the start: what the card lost is a gap, not a jump in time */
  while ((double)at < seconds * info.sample_rate) {
    snd_pcm_sframes_t count = snd_pcm_readi(pcm, samples, PACKET);
    if (count < 0) {
      const int recovered = snd_pcm_recover(pcm, (int)count, 1);
      if (recovered < 0) return fprintf(stderr, "error: %s: %s\n", argv[2], snd_strerror(recovered)), 1;
      at += PACKET;
      continue;
    }
    if (edgeemo_push_s16(engine, call, samples, (size_t)count, at) != EDGEEMO_OK) break;
    at += count;
    while (edgeemo_step(engine, &result, 1, &answered) == EDGEEMO_OK && answered == 1) {
      printf("%6.2f s  %-9s %.3f\n", result.end_s, result.label < 0 ? "listening" : edgeemo_model_label(model, result.label),
             (double)result.smoothed[result.label < 0 ? 0 : result.label]);
      fflush(stdout);
    }
  }
  snd_pcm_close(pcm);
  edgeemo_engine_destroy(engine);
  edgeemo_model_release(model);
  return 0;
}
