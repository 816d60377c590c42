/* A call from any GStreamer source: gst_appsink MODEL.edgeemo "filesrc location=call.wav ! decodebin". The program adds conversion
 * to the model's rate and an appsink, whose buffers it pushes from its own thread: no callback, no second thread in the library. */
#include <edgeemo.h>
#include <gst/app/gstappsink.h>
#include <gst/gst.h>
#include <math.h>
#include <stdio.h>

static edgeemo_model *model;
static edgeemo_engine *engine;
static edgeemo_stream call;

/* Answers all steps that are ready. */
static void answer(void) {
  edgeemo_result result;
  size_t answered;
  EDGEEMO_INIT(result);
  while (edgeemo_step(engine, &result, 1, &answered) == EDGEEMO_OK && answered == 1)
    printf("%6.2f s  %-9s %.3f\n", result.end_s, result.label < 0 ? "listening" : edgeemo_model_label(model, result.label),
           (double)result.smoothed[result.label < 0 ? 0 : result.label]);
}

/* A buffer of any length, in parts that the backlog has room for. */
static gboolean push(GstSample *sample) {
  GstMapInfo map;
  GstBuffer *buffer = gst_sample_get_buffer(sample);
  if (buffer == NULL || !gst_buffer_map(buffer, &map, GST_MAP_READ)) return FALSE;
  gboolean good = TRUE;
  for (size_t at = 0, count = map.size / 2; at < count && good;) {
    size_t room = 0;
    good = edgeemo_stream_room(engine, call, &room) == EDGEEMO_OK && room > 0;
    const size_t part = count - at < room ? count - at : room;
    good = good && edgeemo_push(engine, call, EDGEEMO_S16, map.data + 2 * at, part, EDGEEMO_NO_CLOCK, (double)NAN) == EDGEEMO_OK;
    at += part;
    answer();
  }
  gst_buffer_unmap(buffer, &map);
  return good;
}

/* "SOURCE ! convert ! appsink", playing; NULL, and a line, where that does not run. */
static GstElement *started(const char *source, int rate) {
  GError *error = NULL;
  char *text = g_strdup_printf("%s ! audioconvert ! audioresample ! audio/x-raw,format=%s,rate=%d,channels=1 ! appsink name=sink sync=false "
                               "max-buffers=16", source, G_BYTE_ORDER == G_LITTLE_ENDIAN ? "S16LE" : "S16BE", rate);
  GstElement *pipeline = gst_parse_launch(text, &error);
  g_free(text);
  if (error != NULL) {
    fprintf(stderr, "error: %s\n", error->message);
    g_clear_error(&error);
    return NULL;
  }
  gst_element_set_state(pipeline, GST_STATE_PLAYING);
  return pipeline;
}

/* 1 where the pipeline ended by an error, which is printed. */
static int ended(GstElement *pipeline) {
  GstBus *bus = gst_element_get_bus(pipeline);
  GstMessage *message = gst_bus_pop_filtered(bus, GST_MESSAGE_ERROR);
  gst_object_unref(bus);
  if (message == NULL) return 0;
  GError *error = NULL;
  gst_message_parse_error(message, &error, NULL);
  fprintf(stderr, "error: %s\n", error->message);
  g_clear_error(&error);
  gst_message_unref(message);
  return 1;
}

int main(int argc, char **argv) {
  edgeemo_model_info info;
  GstSample *sample;
  EDGEEMO_INIT(info);
  gst_init(&argc, &argv);
  if (argc != 3 || edgeemo_model_load(argv[1], NULL, &model) != EDGEEMO_OK || edgeemo_model_get_info(model, &info) != EDGEEMO_OK ||
      edgeemo_engine_create(model, NULL, &engine) != EDGEEMO_OK || edgeemo_stream_open(engine, &call) != EDGEEMO_OK) {
    fprintf(stderr, "error: %s\n", argc != 3 ? "gst_appsink MODEL.edgeemo PIPELINE" : edgeemo_last_error());
    return 1;
  }
  GstElement *pipeline = started(argv[2], info.sample_rate);
  if (pipeline == NULL) return 1;
  GstElement *sink = gst_bin_get_by_name(GST_BIN(pipeline), "sink");
  int code = ended(pipeline);
  while (code == 0 && !gst_app_sink_is_eos(GST_APP_SINK(sink))) {
    sample = gst_app_sink_try_pull_sample(GST_APP_SINK(sink), GST_SECOND / 5);
    if (sample == NULL) {
      code = ended(pipeline); /* a source that fails ends without an end */
      continue;
    }
    if (!push(sample)) code = fprintf(stderr, "error: %s\n", edgeemo_last_error()) > 0;
    gst_sample_unref(sample);
  }
  if (code == 0 && edgeemo_stream_finish(engine, call) == EDGEEMO_OK) answer();
  gst_element_set_state(pipeline, GST_STATE_NULL);
  gst_object_unref(sink);
  gst_object_unref(pipeline);
  edgeemo_engine_destroy(engine);
  edgeemo_model_release(model);
  return code;
}
