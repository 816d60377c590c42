/* Errors as a number and a sentence; log lines. */
#include <stdarg.h>
#include <stdio.h>

#include "internal.h"

static __thread char ee_message[512];

/* Everything that a terminal would act on becomes '?': names come from files. */
static void ee_clean(char *text) {
  for (; *text != 0; text++)
    if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
}

static edgeemo_status ee_fail(edgeemo_status status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(ee_message, sizeof ee_message, format, arguments);
  va_end(arguments);
  ee_clean(ee_message);
  return status;
}

const char *edgeemo_last_error(void) { return ee_message; }

const char *edgeemo_status_name(edgeemo_status status) {
  static const char *const names[] = {
      "EDGEEMO_OK",       "EDGEEMO_INVALID", "EDGEEMO_NO_FILE",   "EDGEEMO_DAMAGED",  "EDGEEMO_UNFIT",       "EDGEEMO_UNTRUSTED",
      "EDGEEMO_OVERLOAD", "EDGEEMO_CLOSED",  "EDGEEMO_NO_MEMORY", "EDGEEMO_BAD_CODE", "EDGEEMO_WRONG_THREAD"};
  return (int)status >= 0 && (size_t)status < EE_COUNT(names) ? names[status] : "?";
}

const char *edgeemo_version(void) { return EDGEEMO_VERSION; }

uint32_t edgeemo_abi_version(void) { return EDGEEMO_ABI_VERSION; }

void edgeemo_clear(void *it, size_t size) {
  const uint32_t written = (uint32_t)size;
  if (it == NULL || size < sizeof written) return;
  memset(it, 0, size);
  memcpy(it, &written, sizeof written);
}

static edgeemo_log ee_log;
static void *ee_log_user;

void edgeemo_set_log(edgeemo_log log, void *user) {
  ee_log = NULL;
  ee_log_user = user;
  ee_log = log;
}

static void ee_say(const char *format, ...) {
  char line[512];
  va_list arguments;
  if (ee_log == NULL) return;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  ee_clean(line);
  ee_log(ee_log_user, line);
}

/* Copies a caller's struct of any version into one of ours: as many bytes as it has, zeros behind. `least` is the size of the
 * first version. */
static edgeemo_status ee_take(void *own, size_t size, const void *given, size_t least, const char *what) {
  uint32_t given_size;
  memcpy(&given_size, given, sizeof given_size);
  if (given_size < least || given_size > 1 << 16)
    return ee_fail(EDGEEMO_INVALID, "%s.struct_size is %u; use EDGEEMO_INIT", what, given_size);
  memset(own, 0, size);
  memcpy(own, given, given_size < size ? given_size : size);
  return EDGEEMO_OK;
}

/* The way back: as many bytes as the caller's struct has. */
static edgeemo_status ee_give(void *given, const void *own, size_t size, size_t least, const char *what) {
  uint32_t given_size;
  memcpy(&given_size, given, sizeof given_size);
  if (given_size < least || given_size > 1 << 16)
    return ee_fail(EDGEEMO_INVALID, "%s.struct_size is %u; use EDGEEMO_INIT", what, given_size);
  memcpy(given, own, given_size < size ? given_size : size);
  memcpy(given, &given_size, sizeof given_size);
  return EDGEEMO_OK;
}
