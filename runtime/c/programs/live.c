/* One executable for a board: raw audio on stdin, or of many calls over a Unix socket; answers as JSON lines.
 *
 *     emotion < call.s16                       one call; a line on stdout for every step
 *     emotion --socket /run/emotion.sock       each connection is a call: raw audio in, its lines back
 *
 * Nothing is resampled or parsed: audio is mono, at the model's rate (`emotion --info`), in --format.
 * With EDGEEMO_MODEL the model of that name is part of the program; --model FILE takes another. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "edgeemo.h"

#ifdef EDGEEMO_MODEL
extern const edgeemo_linked_model EDGEEMO_MODEL;
#endif

enum { LINE = 1 << 15, BLOCK = 1 << 12, MAX_CALLS = 1024 };

typedef struct call {
  int handle; /* -1: none */
  edgeemo_stream stream;
  unsigned char rest[4]; /* bytes of a sample that is not whole */
  size_t rest_size;
  unsigned long number;
  size_t tail_size; /* of a line that its reader has taken in part only */
  char tail[LINE];
} call;

static edgeemo_model *model;
static edgeemo_engine *engine;
static edgeemo_model_info info;
static edgeemo_format format = EDGEEMO_S16;
static call calls[MAX_CALLS];
static size_t max_calls = 80;
static volatile sig_atomic_t ending;

static void end(int signal_number) {
  (void)signal_number;
  ending = 1;
}

static int failed(const char *what) {
  fprintf(stderr, "error: %s\n", what);
  return 1;
}

static size_t sample_size(void) { return format == EDGEEMO_S16 ? 2 : format == EDGEEMO_F32 ? 4 : 1; }

static int put_json_text(char *out, size_t room, const char *text) {
  size_t used = 0;
  for (; *text != 0 && used + 7 < room; text++) {
    const unsigned char c = (unsigned char)*text;
    if (c == '"' || c == '\\') out[used++] = '\\';
    out[used++] = (char)c; /* names of a manifest are printable */
  }
  out[used] = 0;
  return (int)used;
}

static size_t put_shares(char *out, size_t room, const char *name, const float *shares) {
  size_t used = (size_t)snprintf(out, room, ", \"%s\": {", name);
  for (int32_t i = 0; i < info.label_count && used + 128 < room; i++) {
    used += (size_t)snprintf(out + used, room - used, "%s\"", i > 0 ? ", " : "");
    used += (size_t)put_json_text(out + used, room - used - 24, edgeemo_model_label(model, i));
    used += (size_t)snprintf(out + used, room - used, "\": %.6f", (double)shares[i]);
  }
  return used + (size_t)snprintf(out + used, room - used, "}");
}

/* One answer as a line, as `edgeemo-run run --json` writes it. */
static size_t put_line(char *out, size_t room, const edgeemo_result *r, const char *name) {
  size_t used = (size_t)snprintf(out, room, "{\"call\": \"%s\", \"start_s\": %.6f, \"end_s\": %.6f, \"label\": ", name, r->start_s, r->end_s);
  if (r->label < 0) {
    used += (size_t)snprintf(out + used, room - used, "null"); /* the call is listened to */
  } else {
    used += (size_t)snprintf(out + used, room - used, "\"");
    used += (size_t)put_json_text(out + used, 512, edgeemo_model_label(model, r->label));
    used += (size_t)snprintf(out + used, room - used, "\"");
  }
  if (r->intensity > 0) {
    used += (size_t)snprintf(out + used, room - used, ", \"intensity\": \"");
    used += (size_t)put_json_text(out + used, 512, edgeemo_model_intensity(model, r->intensity));
    used += (size_t)snprintf(out + used, room - used, "\"");
  }
  used += put_shares(out + used, room - used - 256, "probabilities", r->probabilities);
  used += put_shares(out + used, room - used - 256, "smoothed", r->smoothed);
  used += (size_t)snprintf(out + used, room - used, ", \"model\": \"%s\"", r->model);
  if (r->handoff > 0) used += (size_t)snprintf(out + used, room - used, ", \"handoff\": \"%s\"", edgeemo_handoff_reason(r->handoff));
  return used + (size_t)snprintf(out + used, room - used, "}\n");
}

static call *call_of(edgeemo_stream stream) {
  for (size_t i = 0; i < max_calls; i++)
    if (calls[i].handle >= 0 && calls[i].stream == stream) return &calls[i];
  return NULL;
}

/* Sends what is left of the last line. */
static bool flush_tail(call *c) {
  if (c->tail_size == 0) return true;
  const ssize_t sent = send(c->handle, c->tail, c->tail_size, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent <= 0) return false;
  c->tail_size -= (size_t)sent;
  memmove(c->tail, c->tail + sent, c->tail_size);
  return c->tail_size == 0;
}

/* A whole line or none of it: a slow reader gets the rest of one before the next. */
static void send_line(call *c, const char *line, size_t size) {
  if (!flush_tail(c)) return;
  const ssize_t sent = send(c->handle, line, size, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent <= 0 || (size_t)sent == size) return;
  c->tail_size = size - (size_t)sent;
  memcpy(c->tail, line + sent, c->tail_size);
}

/* Answers whoever is ready, all steps that wait. A reader that has left, or is slow, loses lines; the others' calls go on. */
static int answer(void) {
  static edgeemo_result results[16];
  static char line[LINE];
  size_t count;
  EDGEEMO_INIT(results[0]);
  do {
    if (edgeemo_step(engine, results, 16, &count) != EDGEEMO_OK) return failed(edgeemo_last_error());
    for (size_t i = 0; i < count; i++) {
      call *c = call_of(results[i].stream);
      char name[32] = "-";
      if (c == NULL) continue;
      if (c->handle != STDIN_FILENO) snprintf(name, sizeof name, "%lu", c->number);
      const size_t size = put_line(line, sizeof line, &results[i], name);
      if (c->handle != STDIN_FILENO)
        send_line(c, line, size);
      else if (fwrite(line, 1, size, stdout) != size || fflush(stdout) != 0)
        return failed("stdout: cannot be written");
    }
  } while (count > 0);
  return 0;
}

/* Pushes what was read of a call. */
static edgeemo_status push(call *c, unsigned char *data, size_t size) {
  static union {
    unsigned char bytes[BLOCK + 8];
    float aligned;
  } whole;
  memcpy(whole.bytes, c->rest, c->rest_size);
  memcpy(whole.bytes + c->rest_size, data, size);
  size += c->rest_size;
  const size_t count = size / sample_size();
  c->rest_size = size % sample_size();
  memcpy(c->rest, whole.bytes + size - c->rest_size, c->rest_size);
  return edgeemo_push(engine, c->stream, format, whole.bytes, count, EDGEEMO_NO_CLOCK, (double)(0.0f / 0.0f));
}

static int serve_stdin(void) {
  unsigned char data[BLOCK];
  call *c = &calls[0];
  ssize_t size;
  if (edgeemo_stream_open(engine, &c->stream) != EDGEEMO_OK) return failed(edgeemo_last_error());
  c->handle = STDIN_FILENO;
  while (!ending && (size = read(STDIN_FILENO, data, sizeof data)) != 0) {
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return failed("stdin: cannot be read");
    for (size_t at = 0; at < (size_t)size;) { /* never more than a step at once, so that all of it fits */
      size_t room = 0;
      edgeemo_stream_room(engine, c->stream, &room);
      size_t part = (size_t)size - at, most = room * sample_size();
      if (part > most) part = most;
      if (push(c, data + at, part) != EDGEEMO_OK) return failed(edgeemo_last_error());
      at += part;
      if (answer() != 0) return 1;
    }
  }
  edgeemo_stream_finish(engine, c->stream);
  return answer();
}

static void close_call(call *c) {
  flush_tail(c);
  edgeemo_stream_close(engine, c->stream);
  close(c->handle);
  c->handle = -1;
}

/* Tells a client why its call ends. */
static void refuse(int handle, const char *why) {
  char text[600], line[700];
  put_json_text(text, sizeof text, why);
  const int size = snprintf(line, sizeof line, "{\"error\": \"%s\"}\n", text);
  (void)!send(handle, line, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void accept_call(int listening) {
  static unsigned long number;
  const int handle = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (handle < 0) return; /* it went away again; there are descriptors for all calls (enough_descriptors) */
  edgeemo_stream stream;
  if (edgeemo_stream_open(engine, &stream) != EDGEEMO_OK) {
    refuse(handle, edgeemo_last_error());
    close(handle);
    return;
  }
  size_t i = 0; /* as many calls as the engine has streams: one is free */
  while (calls[i].handle >= 0) i++;
  calls[i].handle = handle;
  calls[i].stream = stream;
  calls[i].rest_size = calls[i].tail_size = 0;
  calls[i].number = ++number;
}

static int read_call(call *c) {
  unsigned char data[BLOCK];
  const ssize_t size = recv(c->handle, data, sizeof data, MSG_DONTWAIT);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  if (size > 0 && push(c, data, (size_t)size) == EDGEEMO_OK) return answer(); /* before more is read: none is dropped */
  if (size > 0 && flush_tail(c)) refuse(c->handle, edgeemo_last_error());
  if (size == 0) {
    edgeemo_stream_finish(engine, c->stream);
    if (answer() != 0) return 1;
  }
  close_call(c);
  return 0;
}

/* A socket for every call, and a few files. */
static bool enough_descriptors(void) {
  struct rlimit limit;
  const rlim_t needed = (rlim_t)max_calls + 16;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= needed) return true;
  limit.rlim_cur = limit.rlim_max < needed ? limit.rlim_max : needed;
  return setrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur >= needed;
}

/* The socket at `path`; what a process left there that was killed goes, one that somebody serves stays. */
static int listen_at(const char *path) {
  struct sockaddr_un address;
  struct stat old;
  memset(&address, 0, sizeof address);
  address.sun_family = AF_UNIX;
  if (strlen(path) >= sizeof address.sun_path) return failed("--socket: the path is too long; 107 bytes is the most that Linux takes"), -1;
  strcpy(address.sun_path, path);
  const int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const int asking = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const struct sockaddr *at = (const struct sockaddr *)(const void *)&address;
  if (lstat(path, &old) == 0 && S_ISSOCK(old.st_mode)) {
    if (connect(asking, at, sizeof address) == 0 || errno == EAGAIN)
      return fprintf(stderr, "error: %s: another process serves it; end that, or give another path\n", path), -1;
    unlink(path);
  }
  close(asking);
  if (listening >= 0 && bind(listening, at, sizeof address) == 0 && listen(listening, 64) == 0) return listening;
  fprintf(stderr, "error: %s: %s\n", path, strerror(errno));
  return -1;
}

static int serve_socket(const char *path, const sigset_t *awake) {
  static struct pollfd polled[MAX_CALLS + 1];
  if (!enough_descriptors()) return failed("--calls: more than this process may open files (ulimit -n); raise that, or serve fewer");
  const int listening = listen_at(path);
  if (listening < 0) return 1;
  while (!ending) {
    polled[0] = (struct pollfd){listening, POLLIN, 0};
    for (size_t i = 0; i < max_calls; i++) polled[i + 1] = (struct pollfd){calls[i].handle, POLLIN, 0};
    if (ppoll(polled, (nfds_t)max_calls + 1, NULL, awake) < 0) continue; /* signals come here and nowhere else */
    if (polled[0].revents != 0) accept_call(listening);
    for (size_t i = 0; i < max_calls; i++)
      if (polled[i + 1].revents != 0 && calls[i].handle == polled[i + 1].fd && read_call(&calls[i]) != 0) return 1;
    if (answer() != 0) return 1;
  }
  unlink(path);
  return 0;
}

static int usage(void) {
  fprintf(stderr, "usage: emotion [--model FILE] [--socket PATH] [--format s16|f32|ulaw|alaw] [--calls N] [--rules PRESET] [--info]\n");
  return 2;
}

/* The command line. */
typedef struct arguments {
  const char *file, *path, *preset;
  bool only_info;
} arguments;

static bool set_format(const char *name) {
  static const char *const formats[] = {"s16", "f32", "ulaw", "alaw"};
  for (int i = 0; i < 4; i++)
    if (strcmp(name, formats[i]) == 0) return format = (edgeemo_format)i, true;
  return false;
}

static bool set_calls(const char *text) {
  char *end = NULL;
  const long wanted = strtol(text, &end, 10);
  if (*text == 0 || *end != 0 || wanted < 1 || wanted > MAX_CALLS) return false;
  max_calls = (size_t)wanted;
  return true;
}

/* 0, or the exit code. */
static int parse(int argc, char **argv, arguments *a) {
  for (int i = 1; i < argc; i++) {
    const char *option = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (strcmp(option, "--info") == 0) {
      a->only_info = true;
      continue;
    }
    if (value == NULL) return usage();
    i++;
    if (strcmp(option, "--model") == 0) a->file = value;
    else if (strcmp(option, "--socket") == 0) a->path = value;
    else if (strcmp(option, "--rules") == 0) a->preset = value;
    else if (strcmp(option, "--calls") == 0) {
      if (!set_calls(value)) return failed("--calls must be 1 to 1024"), 2;
    } else if (strcmp(option, "--format") != 0 || !set_format(value)) {
      return usage();
    }
  }
  return 0;
}

static edgeemo_status load(const char *file) {
  if (file != NULL) return edgeemo_model_load(file, NULL, &model);
#ifdef EDGEEMO_MODEL
  return edgeemo_model_linked(&EDGEEMO_MODEL, &model);
#else
  return EDGEEMO_INVALID;
#endif
}

static edgeemo_status make_engine(const arguments *a) {
  edgeemo_engine_options options;
  edgeemo_rules rules;
  EDGEEMO_INIT(options);
  EDGEEMO_INIT(rules);
  const edgeemo_status status = edgeemo_rules_defaults(&rules, a->preset);
  if (status != EDGEEMO_OK) return status;
  options.max_streams = a->path == NULL ? 1 : (int32_t)max_calls;
  options.backlog_hops = 8; /* what is read at once is less than four */
  options.rules = &rules;
  return edgeemo_engine_create(model, &options, &engine);
}

/* SIGTERM and SIGINT end the program; where a socket is served they come only while it waits, by the mask `awake`. */
static void take_signals(bool held, sigset_t *awake) {
  struct sigaction action;
  sigset_t both;
  memset(&action, 0, sizeof action);
  action.sa_handler = end;
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGINT, &action, NULL);
  sigemptyset(&both);
  sigaddset(&both, SIGTERM);
  sigaddset(&both, SIGINT);
  sigprocmask(held ? SIG_BLOCK : SIG_UNBLOCK, &both, NULL);
  sigprocmask(SIG_BLOCK, NULL, awake);
  sigdelset(awake, SIGTERM);
  sigdelset(awake, SIGINT);
}

int main(int argc, char **argv) {
  arguments a = {NULL, NULL, NULL, false};
  sigset_t awake;
  int code = parse(argc, argv, &a);
  if (code != 0) return code;
#ifndef EDGEEMO_MODEL
  if (a.file == NULL) return usage();
#endif
  if (load(a.file) != EDGEEMO_OK) return failed(edgeemo_last_error());
  EDGEEMO_INIT(info);
  edgeemo_model_get_info(model, &info);
  if (a.only_info) {
    printf("{\"version\": \"%s\", \"target\": \"%s\", \"sample_rate\": %d, \"samples_per_step\": %d, \"weight_bytes\": %lld}\n", info.version,
           info.target, info.sample_rate, info.samples_per_step, (long long)info.weight_bytes);
    return 0;
  }
  if (make_engine(&a) != EDGEEMO_OK) return failed(edgeemo_last_error());
  for (size_t i = 0; i < MAX_CALLS; i++) calls[i].handle = -1;
  take_signals(a.path != NULL, &awake);
  code = a.path == NULL ? serve_stdin() : serve_socket(a.path, &awake);
  edgeemo_engine_destroy(engine);
  edgeemo_model_release(model);
  return code;
}
