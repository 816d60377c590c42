/* JSON (RFC 8259) as manifests need it: strict, UTF-8, no recursion deeper than EE_DEPTH, nothing allocated; numbers with a point
 * are only checked. Read twice: first to count tokens, then to write them. NaN and Infinity are taken, as Python writes them.
 *
 * Our own since the small libraries do not do (jsmn accepts what is no JSON; cJSON makes every number a double, so that 640.0 for
 * 640 goes unseen), and the one that does, yyjson, has 18,000 lines. */
#include "internal.h"

enum { EE_DEPTH = 64 };

static void ee_json_space(ee_json *j) {
  while (j->at < j->size && (j->text[j->at] == ' ' || j->text[j->at] == '\t' || j->text[j->at] == '\n' || j->text[j->at] == '\r'))
    j->at++;
}

static bool ee_json_wrong(ee_json *j, const char *problem) {
  if (j->problem == NULL) j->problem = problem;
  return false;
}

static ee_token *ee_json_add(ee_json *j, ee_kind kind) {
  if (j->used == UINT32_MAX) return NULL;
  j->used++;
  if (j->tokens == NULL || j->used > j->room) return NULL;
  ee_token *token = &j->tokens[j->used - 1];
  memset(token, 0, sizeof *token);
  token->kind = kind;
  token->begin = (uint32_t)j->at;
  return token;
}

static bool ee_json_word(ee_json *j, const char *word, ee_kind kind) {
  const size_t length = strlen(word);
  if (j->size - j->at < length || memcmp(j->text + j->at, word, length) != 0) return ee_json_wrong(j, "an unknown word");
  ee_json_add(j, kind);
  j->at += length;
  return true;
}

static bool ee_json_digits(ee_json *j) {
  const size_t first = j->at;
  while (j->at < j->size && j->text[j->at] >= '0' && j->text[j->at] <= '9') j->at++;
  return j->at > first;
}

/* A number's text as a double; not by strtod, whose decimal point is the locale's. Exact up to 15 digits without exponent. */
static double ee_json_double(const char *text, const char *end) {
  double mantissa = 0, scale = 1;
  bool behind = false;
  const bool minus = *text == '-';
  for (text += minus ? 1 : 0; text < end && *text != 'e' && *text != 'E'; text++) {
    if (*text == '.') {
      behind = true;
      continue;
    }
    mantissa = 10 * mantissa + (*text - '0');
    if (behind) scale *= 10;
  }
  int exponent = 0;
  const bool down = text + 1 < end && text[1] == '-';
  for (text += 1; text < end && exponent < 400; text++)
    if (*text >= '0' && *text <= '9') exponent = 10 * exponent + (*text - '0');
  for (; exponent > 0; exponent--) {
    if (down) scale *= 10;
    else mantissa *= 10;
  }
  return (minus ? -mantissa : mantissa) / scale;
}

static bool ee_json_number(ee_json *j) {
  ee_token *token = ee_json_add(j, EE_INTEGER);
  const bool minus = j->text[j->at] == '-';
  const size_t first = j->at + (minus ? 1 : 0);
  j->at = first;
  if (minus && j->size - j->at >= 8 && memcmp(j->text + j->at, "Infinity", 8) == 0) {
    j->at += 8;
    if (token != NULL) token->kind = EE_REAL;
    return true;
  }
  if (!ee_json_digits(j) || (j->text[first] == '0' && j->at > first + 1)) return ee_json_wrong(j, "a number is none");
  if (token != NULL) {
    uint64_t sum = 0;
    for (size_t i = first; i < j->at; i++) {
      token->huge = token->huge || sum > (uint64_t)INT64_MAX / 10 - 1;
      if (!token->huge) sum = 10 * sum + (uint64_t)(j->text[i] - '0');
    }
    token->integer = minus ? -(int64_t)sum : (int64_t)sum;
  }
  if (j->at < j->size && j->text[j->at] == '.') {
    j->at++;
    if (!ee_json_digits(j)) return ee_json_wrong(j, "a number is none");
    if (token != NULL) token->kind = EE_REAL;
  }
  if (j->at < j->size && (j->text[j->at] == 'e' || j->text[j->at] == 'E')) {
    j->at++;
    if (j->at < j->size && (j->text[j->at] == '+' || j->text[j->at] == '-')) j->at++;
    if (!ee_json_digits(j)) return ee_json_wrong(j, "a number is none");
    if (token != NULL) token->kind = EE_REAL;
  }
  if (token != NULL) token->number = ee_json_double(j->text + token->begin, j->text + j->at);
  return true;
}

/* Four hexadecimal digits, or -1. */
static int32_t ee_json_hex(const ee_json *j, size_t at) {
  int32_t value = 0;
  if (at + 4 > j->size) return -1;
  for (size_t i = at; i < at + 4; i++) {
    const char c = j->text[i];
    const int32_t digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    value = 16 * value + digit;
  }
  return value;
}

static size_t ee_utf8_write(char *out, uint32_t c) {
  if (c < 0x80) return out[0] = (char)c, 1;
  if (c < 0x800) return out[0] = (char)(0xC0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), 2;
  if (c < 0x10000)
    return out[0] = (char)(0xE0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 63)), out[2] = (char)(0x80 | (c & 63)), 3;
  return out[0] = (char)(0xF0 | c >> 18), out[1] = (char)(0x80 | (c >> 12 & 63)), out[2] = (char)(0x80 | (c >> 6 & 63)),
         out[3] = (char)(0x80 | (c & 63)), 4;
}

/* The length of the well-formed UTF-8 sequence at `text`; 0 where there is none. Its code point in *c. */
static size_t ee_utf8_read(const char *text, size_t size, uint32_t *c) {
  const unsigned char *b = (const unsigned char *)text;
  if (size >= 1 && b[0] < 0x80) return *c = b[0], 1;
  if (size >= 2 && b[0] >= 0xC2 && b[0] < 0xE0 && (b[1] & 0xC0) == 0x80)
    return *c = (uint32_t)(b[0] & 31) << 6 | (b[1] & 63u), 2;
  if (size >= 3 && (b[0] & 0xF0) == 0xE0 && (b[1] & 0xC0) == 0x80 && (b[2] & 0xC0) == 0x80) {
    *c = (uint32_t)(b[0] & 15) << 12 | (uint32_t)(b[1] & 63) << 6 | (b[2] & 63u);
    return *c < 0x800 || (*c >= 0xD800 && *c < 0xE000) ? 0 : 3;
  }
  if (size >= 4 && (b[0] & 0xF8) == 0xF0 && (b[1] & 0xC0) == 0x80 && (b[2] & 0xC0) == 0x80 && (b[3] & 0xC0) == 0x80) {
    *c = (uint32_t)(b[0] & 7) << 18 | (uint32_t)(b[1] & 63) << 12 | (uint32_t)(b[2] & 63) << 6 | (b[3] & 63u);
    return *c < 0x10000 || *c > 0x10FFFF ? 0 : 4;
  }
  return 0;
}

/* What stands behind a backslash at j->at; its bytes at `out` (at least 4), and how many; 0 for what is none. */
static size_t ee_json_escape(ee_json *j, char *out) {
  static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
  const char c = j->at < j->size ? j->text[j->at] : 0;
  const char *known = c != 0 ? strchr(from, c) : NULL;
  if (known != NULL) {
    out[0] = to[known - from];
    j->at++;
    return 1;
  }
  const int32_t high = c == 'u' ? ee_json_hex(j, j->at + 1) : -1;
  if (high < 0) return 0;
  j->at += 5;
  if (high < 0xD800 || high >= 0xE000) return ee_utf8_write(out, (uint32_t)high);
  const bool pair = high < 0xDC00 && j->at + 1 < j->size && j->text[j->at] == '\\' && j->text[j->at + 1] == 'u';
  const int32_t low = pair ? ee_json_hex(j, j->at + 2) : -1;
  if (low < 0xDC00 || low >= 0xE000) return 0;
  j->at += 6;
  return ee_utf8_write(out, 0x10000 + ((uint32_t)(high - 0xD800) << 10) + (uint32_t)(low - 0xDC00));
}

static bool ee_json_text(ee_json *j) {
  ee_token *token = ee_json_add(j, EE_TEXT);
  size_t out = ++j->at; /* decoded in place, which never needs more bytes; only where tokens are written */
  if (token != NULL) token->text = j->text + out;
  while (j->at < j->size && j->text[j->at] != '"') {
    char decoded[4];
    uint32_t c;
    size_t length;
    if (j->text[j->at] == '\\') {
      j->at++;
      length = ee_json_escape(j, decoded);
    } else {
      length = ee_utf8_read(j->text + j->at, j->size - j->at, &c);
      if (length > 0 && c < 0x20) length = 0;
      memcpy(decoded, j->text + j->at, length);
      j->at += length;
    }
    if (length == 0) return ee_json_wrong(j, "a text is none");
    if (token != NULL) memcpy(j->text + out, decoded, length);
    out += length;
  }
  if (j->at >= j->size) return ee_json_wrong(j, "a text does not end");
  j->at++;
  if (token != NULL) {
    token->size = (uint32_t)(j->text + out - token->text);
    j->text[out] = 0;
  }
  return true;
}

static bool ee_json_value(ee_json *j, int depth);

static bool ee_json_items(ee_json *j, int depth, bool object) {
  const uint32_t own = j->used;
  uint32_t count = 0;
  ee_json_add(j, object ? EE_OBJECT : EE_ARRAY);
  if (depth >= EE_DEPTH) return ee_json_wrong(j, "it is nested too deep");
  j->at++;
  ee_json_space(j);
  for (; j->at < j->size && j->text[j->at] != (object ? '}' : ']'); count++) {
    if (count > 0) {
      if (j->text[j->at] != ',') return ee_json_wrong(j, "a comma is missing");
      j->at++;
      ee_json_space(j);
    }
    if (object) {
      if (j->at >= j->size || j->text[j->at] != '"' || !ee_json_text(j)) return ee_json_wrong(j, "a key is no text");
      ee_json_space(j);
      if (j->at >= j->size || j->text[j->at] != ':') return ee_json_wrong(j, "a colon is missing");
      j->at++;
      ee_json_space(j);
    }
    if (!ee_json_value(j, depth + 1)) return false;
    ee_json_space(j);
  }
  if (j->at >= j->size) return ee_json_wrong(j, "it is cut off");
  j->at++;
  if (j->tokens != NULL) j->tokens[own].count = count;
  return true;
}

static bool ee_json_value(ee_json *j, int depth) {
  const uint32_t own = j->used;
  bool good = false;
  switch (j->at < j->size ? j->text[j->at] : 0) {
    case '{': good = ee_json_items(j, depth, true); break;
    case '[': good = ee_json_items(j, depth, false); break;
    case '"': good = ee_json_text(j); break;
    case 't': good = ee_json_word(j, "true", EE_TRUE); break;
    case 'f': good = ee_json_word(j, "false", EE_FALSE); break;
    case 'n': good = ee_json_word(j, "null", EE_NULL); break;
    case 'N': good = ee_json_word(j, "NaN", EE_REAL); break;
    case 'I': good = ee_json_word(j, "Infinity", EE_REAL); break;
    case '-': case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
      good = ee_json_number(j);
      break;
    default: return ee_json_wrong(j, "a value is missing");
  }
  if (good && j->tokens != NULL) j->tokens[own].next = j->used;
  return good;
}

/* Reads the whole of `text` (size bytes, changed). Returns the tokens, to be freed; NULL with *problem where it is no JSON or
 * there is no memory for it. */
static ee_token *ee_json_read(char *text, size_t size, const char **problem) {
  ee_json j = {text, size, 0, NULL, 0, 0, NULL};
  if (size >= UINT32_MAX) return *problem = "it is too long", NULL;
  ee_json_space(&j);
  bool good = ee_json_value(&j, 0);
  ee_json_space(&j);
  if (good && j.at < size) good = ee_json_wrong(&j, "something follows it");
  if (!good) return *problem = j.problem, NULL;
  ee_token *tokens = calloc(j.used, sizeof *tokens);
  if (tokens == NULL) return *problem = "there is no memory for it", NULL;
  j = (ee_json){text, size, 0, tokens, j.used, 0, NULL};
  ee_json_space(&j);
  if (ee_json_value(&j, 0)) return tokens;
  free(tokens);
  return *problem = j.problem, NULL;
}

/* The value of `key` of the object token `at`; 0 (the document itself) where there is none. Of two of a name the last counts, as in
 * Python. */
static uint32_t ee_json_get(const ee_token *tokens, uint32_t at, const char *key) {
  uint32_t found = 0, child = at + 1;
  const size_t length = strlen(key);
  for (uint32_t i = 0; i < tokens[at].count; i++) {
    const ee_token *name = &tokens[child];
    if (name->size == length && memcmp(name->text, key, length) == 0) found = child + 1;
    child = tokens[child + 1].next;
  }
  return found;
}
