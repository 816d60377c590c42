/* The manifest's schema, as edgeemo_runtime/manifest.py has it: types, ranges, and what must agree with what. A manifest is a
 * stranger's file: nothing is read of one that was not checked here. */
#include "internal.h"

typedef struct ee_checker {
  const ee_token *tokens;
  char problem[160]; /* the first */
} ee_checker;

typedef bool (*ee_pattern)(const char *text);

static void ee_wrong(ee_checker *c, const char *where, const char *what) {
  if (c->problem[0] == 0) snprintf(c->problem, sizeof c->problem, "%.90s must be %.60s", where, what);
}

/* A member that must be there; 0 where it is not. */
static uint32_t ee_need(ee_checker *c, uint32_t at, const char *key) {
  const uint32_t found = c->tokens[at].kind == EE_OBJECT ? ee_json_get(c->tokens, at, key) : 0;
  if (found == 0 && c->problem[0] == 0) snprintf(c->problem, sizeof c->problem, "it lacks %s", key);
  return found;
}

static uint32_t ee_need_object(ee_checker *c, uint32_t at, const char *key) {
  const uint32_t found = ee_need(c, at, key);
  if (found != 0 && c->tokens[found].kind != EE_OBJECT) return ee_wrong(c, key, "an object"), 0;
  return found;
}

/* A member that may be missing. */
static uint32_t ee_may(const ee_checker *c, uint32_t at, const char *key) {
  return at == 0 || c->tokens[at].kind != EE_OBJECT ? 0 : ee_json_get(c->tokens, at, key);
}

static int64_t ee_integer(ee_checker *c, uint32_t at, const char *where, int64_t low, int64_t high) {
  const ee_token *t = &c->tokens[at];
  if (at != 0 && t->kind == EE_INTEGER && !t->huge && t->integer >= low && t->integer <= high) return t->integer;
  ee_wrong(c, where, "a whole number in range");
  return low;
}

/* What Python's str.isprintable takes, but for characters that no Unicode version has yet. */
static bool ee_printable(uint32_t c) {
  static const uint32_t not[][2] = {{0x00, 0x1F},     {0x7F, 0xA0},     {0xAD, 0xAD},         {0x600, 0x605},     {0x61C, 0x61C},
                                    {0x6DD, 0x6DD},   {0x70F, 0x70F},   {0x1680, 0x1680},     {0x180E, 0x180E},   {0x2000, 0x200F},
                                    {0x2028, 0x202F}, {0x205F, 0x206F}, {0x3000, 0x3000},     {0xD800, 0xF8FF},   {0xFEFF, 0xFEFF},
                                    {0xFFF0, 0xFFFB}, {0xFFFE, 0xFFFF}, {0xE0000, 0x10FFFF}};
  for (size_t i = 0; i < EE_COUNT(not); i++)
    if (c >= not[i][0] && c <= not[i][1]) return false;
  return true;
}

static const char *ee_text(ee_checker *c, uint32_t at, const char *where, size_t longest, ee_pattern pattern) {
  const ee_token *t = &c->tokens[at];
  size_t characters = 0;
  bool good = at != 0 && t->kind == EE_TEXT && t->size > 0;
  for (size_t i = 0; good && i < t->size; characters++) {
    uint32_t code = 0;
    const size_t length = ee_utf8_read(t->text + i, t->size - i, &code);
    good = length > 0 && ee_printable(code);
    i += length;
  }
  if (!good || characters > longest) return ee_wrong(c, where, "printable text, not too long"), "";
  if (pattern != NULL && !pattern(t->text)) return ee_wrong(c, where, "of its form"), "";
  return t->text;
}

static bool ee_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

static bool ee_digit(char c) { return c >= '0' && c <= '9'; }

static bool ee_is_date(const char *t) {
  for (int i = 0; i < 10; i++)
    if (i == 4 || i == 7 ? t[i] != '-' : !ee_digit(t[i])) return false;
  return t[10] == 0;
}

static bool ee_is_hash(const char *t) {
  for (int i = 0; i < 64; i++)
    if (!ee_digit(t[i]) && !(t[i] >= 'a' && t[i] <= 'f')) return false;
  return t[64] == 0;
}

static bool ee_is_function(const char *t) {
  if (!ee_letter(*t)) return false;
  while (ee_letter(*t) || ee_digit(*t)) t++;
  return *t == 0;
}

static bool ee_is_word(const char *t) {
  while (ee_letter(*t) || ee_digit(*t) || (*t != 0 && strchr(".+-", *t) != NULL)) t++;
  return *t == 0;
}

/* The items of an array of `least` to `most`: their number, the first in *first. */
static uint32_t ee_array(ee_checker *c, uint32_t at, const char *where, uint32_t least, uint32_t most, uint32_t *first) {
  const ee_token *t = &c->tokens[at];
  *first = at + 1;
  if (at != 0 && t->kind == EE_ARRAY && t->count >= least && t->count <= most) return t->count;
  ee_wrong(c, where, "a list of so many items");
  return 0;
}

/* Texts of an array, to be freed. */
static const char **ee_texts(ee_checker *c, uint32_t at, const char *where, uint32_t least, uint32_t most, ee_pattern pattern, uint32_t *count) {
  uint32_t item;
  *count = ee_array(c, at, where, least, most, &item);
  const char **out = calloc(*count + 1u, sizeof *out);
  if (out == NULL) return ee_wrong(c, where, "within this machine's memory"), *count = 0, NULL;
  for (uint32_t i = 0; i < *count; i++, item = c->tokens[item].next) out[i] = ee_text(c, item, where, 64, pattern);
  return out;
}

/* A shape; returns its product, which stays below 2^62. */
static int64_t ee_shape(ee_checker *c, uint32_t at, const char *where, int64_t *shape, int32_t *dims) {
  uint32_t item;
  int64_t product = 1;
  const uint32_t count = ee_array(c, at, where, 0, EDGEEMO_MAX_DIMS, &item);
  for (uint32_t i = 0; i < count; i++, item = c->tokens[item].next) {
    const int64_t size = ee_integer(c, item, where, 0, (int64_t)1 << 31);
    if (shape != NULL) shape[i] = size;
    if (size != 0 && product > ((int64_t)1 << 46) / size)
      ee_wrong(c, where, "a size that memory holds"), product = 1;
    else
      product *= size;
  }
  if (dims != NULL) *dims = (int32_t)count;
  return product;
}

static int64_t ee_dtype_size(int32_t dtype) {
  static const int64_t sizes[] = {2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 1};
  return sizes[dtype];
}

static void ee_tensor(ee_checker *c, uint32_t at, ee_tensor_spec *out) {
  if (c->tokens[at].kind != EE_OBJECT) {
    ee_wrong(c, "a tensor", "an object");
    return;
  }
  out->name = ee_text(c, ee_need(c, at, "name"), "a tensor's name", 1000, NULL);
  const char *dtype = ee_text(c, ee_need(c, at, "dtype"), "a tensor's dtype", 16, NULL);
  out->dtype = -1;
  for (int32_t i = 0; ee_dtypes[i] != NULL; i++)
    if (strcmp(dtype, ee_dtypes[i]) == 0) out->dtype = i;
  if (out->dtype < 0) ee_wrong(c, "a tensor's dtype", "one of numpy's"), out->dtype = EDGEEMO_BOOL;
  out->bytes = ee_shape(c, ee_need(c, at, "shape"), "a tensor's shape", out->shape, &out->dims) * ee_dtype_size(out->dtype);
}

static void ee_step(ee_checker *c, uint32_t at, ee_manifest *m) {
  uint32_t input, output;
  m->function = ee_text(c, ee_need(c, at, "function"), "step.function", 64, ee_is_function);
  m->state_words = ee_integer(c, ee_need(c, at, "state_words"), "step.state_words", 0, EE_MAX_STATE_WORDS);
  m->arena_bytes = ee_integer(c, ee_need(c, at, "arena_bytes_per_stream"), "step.arena_bytes_per_stream", 0, EE_MAX_ARENA_BYTES);
  m->input_count = ee_array(c, ee_need(c, at, "inputs"), "step.inputs", 0, 1024, &input);
  m->output_count = ee_array(c, ee_need(c, at, "outputs"), "step.outputs", 1, 1024, &output);
  m->tensors = calloc(m->input_count + m->output_count + 1u, sizeof *m->tensors);
  if (m->tensors == NULL) {
    ee_wrong(c, "step", "within this machine's memory");
    return;
  }
  for (uint32_t i = 0; i < m->input_count; i++, input = c->tokens[input].next) ee_tensor(c, input, &m->tensors[i]);
  for (uint32_t i = 0; i < m->output_count; i++, output = c->tokens[output].next) ee_tensor(c, output, &m->tensors[m->input_count + i]);
}

/* Every state; the word of the one named `wanted`, -1 where it is not of one number. */
static int64_t ee_states(ee_checker *c, uint32_t at, int64_t words, const char *wanted) {
  int64_t found = -1;
  uint32_t child = at + 1;
  if (at == 0) return -1;
  if (c->tokens[at].count > 4096) ee_wrong(c, "states", "at most 4096");
  for (uint32_t i = 0; i < c->tokens[at].count; i++, child = c->tokens[child + 1].next) {
    const char *name = ee_text(c, child, "a name in states", 1000, NULL);
    const uint32_t state = child + 1;
    if (c->tokens[state].kind != EE_OBJECT) {
      ee_wrong(c, "a state", "an object");
      continue;
    }
    const int64_t word = ee_integer(c, ee_need(c, state, "offset_words"), "states.offset_words", 0, EE_MAX_STATE_WORDS);
    const int64_t size = ee_shape(c, ee_need(c, state, "shape"), "states.shape", NULL, NULL);
    if (word >= (words > 1 ? words : 1)) ee_wrong(c, "states.offset_words", "within the step's state words");
    if (wanted != NULL && strcmp(name, wanted) == 0) found = size == 1 && word < words ? word : -1;
  }
  return found;
}

static bool ee_column_names(ee_checker *c, uint32_t at, const char *key, const char *const *known) {
  uint32_t count, wanted = 0;
  bool same = true;
  const char **names = ee_texts(c, ee_need(c, at, key), "around.columns", 0, 256, NULL, &count);
  while (known[wanted] != NULL) wanted++;
  for (uint32_t i = 0; i < count; i++) same = same && i < wanted && strcmp(names[i], known[i]) == 0;
  free(names);
  return same && count == wanted;
}

/* The functions around the step, where they are built for this library's columns. */
static void ee_around(ee_checker *c, uint32_t at, ee_manifest *m) {
  if (at == 0 || c->tokens[at].kind == EE_NULL) return;
  if (c->tokens[at].kind != EE_OBJECT) {
    ee_wrong(c, "around", "an object");
    return;
  }
  const char *intake = ee_text(c, ee_need(c, at, "intake"), "around.intake", 64, ee_is_function);
  const char *decide = ee_text(c, ee_need(c, at, "decide"), "around.decide", 64, ee_is_function);
  if (intake != NULL && m->function != NULL && strcmp(intake, m->function) == 0) ee_wrong(c, "around.intake", "a function of its own");
  if (decide != NULL && ((m->function != NULL && strcmp(decide, m->function) == 0) || (intake != NULL && strcmp(decide, intake) == 0)))
    ee_wrong(c, "around.decide", "a function of its own");
  const uint32_t columns = ee_may(c, at, "columns");
  bool same = true;
#define EE_SAME(kind) same = ee_column_names(c, columns, #kind, ee_columns_##kind) && same
#define EE_FIRST(kind)                                                     \
  for (size_t i = 0; i < EE_COUNT(ee_columns_##kind); i++)                 \
    same = same && EE_COUNT(ee_first_columns_##kind) > i &&                \
           (ee_columns_##kind[i] == NULL) == (ee_first_columns_##kind[i] == NULL) && \
           (ee_columns_##kind[i] == NULL || strcmp(ee_columns_##kind[i], ee_first_columns_##kind[i]) == 0)
  if (columns == 0) { /* of before the columns stood there */
    same = false; /* it had no speech */
    EE_FIRST(rules);
    EE_FIRST(memory);
    EE_FIRST(numbers);
    EE_FIRST(flags);
    EE_FIRST(times);
  } else if (c->tokens[columns].kind == EE_OBJECT) {
    EE_SAME(rules);
    EE_SAME(memory);
    EE_SAME(numbers);
    EE_SAME(flags);
    EE_SAME(times);
    same = ee_may(c, columns, "speech") != 0 && same;
    if (same) EE_SAME(speech);
  } else {
    ee_wrong(c, "around.columns", "an object");
  }
  if (same) m->intake = intake, m->decide = decide;
}

/* A number of any kind; its text is in the manifest, ended by what is none of it. */
static double ee_number(ee_checker *c, uint32_t at, const char *where, double low, double high) {
  const ee_token *t = &c->tokens[at];
  const double value = at != 0 && (t->kind == EE_INTEGER || t->kind == EE_REAL) ? t->number : low - 1;
  if (value >= low && value <= high) return value;
  ee_wrong(c, where, "a number in range");
  return low;
}

/* Which state counts steps of speech, and how many a call must have before there is a label. */
static void ee_listening(ee_checker *c, uint32_t at, uint32_t states, ee_manifest *m) {
  if (at == 0 || c->tokens[at].kind == EE_NULL) return;
  if (c->tokens[at].kind != EE_OBJECT) {
    ee_wrong(c, "stream.listening", "an object");
    return;
  }
  const char *state = ee_text(c, ee_need(c, at, "state"), "stream.listening.state", 255, NULL);
  m->least_speech = ee_number(c, ee_need(c, at, "least"), "stream.listening.least", 0, 1e6);
  m->speech_word = ee_states(c, states, m->state_words, state);
  if (m->speech_word < 0) ee_wrong(c, "stream.listening.state", "a state of one number");
}

static bool ee_is_hears(const char *text) {
  size_t i = 0;
  while (ee_hears[i] != NULL && strcmp(text, ee_hears[i]) != 0) i++;
  return ee_hears[i] != NULL;
}

static void ee_stream_of(ee_checker *c, uint32_t at, uint32_t states, ee_manifest *m) {
  const int64_t longest = (int64_t)EE_MAX_RING_S * EE_MAX_RATE;
  m->is_stream = true;
  m->sample_rate = ee_integer(c, ee_need(c, at, "sample_rate"), "stream.sample_rate", 1000, EE_MAX_RATE);
  m->samples_per_step = ee_integer(c, ee_need(c, at, "samples_per_step"), "stream.samples_per_step", 1, longest);
  m->ring_samples = ee_integer(c, ee_need(c, at, "ring_samples"), "stream.ring_samples", 0, longest);
  m->labels = ee_texts(c, ee_need(c, at, "labels"), "stream.labels", 1, 256, NULL, &m->label_count);
  const uint32_t level = ee_may(c, at, "intensity"), audio = ee_may(c, at, "audio"), shares = ee_may(c, at, "probabilities"),
                 frames = ee_may(c, at, "ring_frames"), hears = ee_may(c, at, "hears");
  if (audio != 0) ee_text(c, audio, "stream.audio", 1000, NULL);
  if (shares != 0) ee_text(c, shares, "stream.probabilities", 1000, NULL);
  if (frames != 0) ee_integer(c, frames, "stream.ring_frames", 0, (int64_t)1 << 31);
  if (hears != 0) ee_text(c, hears, "stream.hears", 64, ee_is_hears);
  for (uint32_t i = 0; i < m->label_count; i++)
    for (uint32_t j = 0; j < i; j++)
      if (strcmp(m->labels[i], m->labels[j]) == 0) ee_wrong(c, "stream.labels", "all different");
  if (m->samples_per_step > EE_MAX_RING_S * m->sample_rate) ee_wrong(c, "stream.samples_per_step", "at most 600 s");
  if (m->ring_samples > EE_MAX_RING_S * m->sample_rate) ee_wrong(c, "stream.ring_samples", "at most 600 s");
  if (c->problem[0] != 0) return;
  const ee_tensor_spec *in = m->tensors, *out = m->tensors + m->input_count;
  if (m->input_count != 1 || in->dims != 1 || in->shape[0] != m->samples_per_step)
    ee_wrong(c, "step.inputs", "one array of stream.samples_per_step");
  if (m->output_count != 1 || out->dims != 1 || out->shape[0] != m->label_count)
    ee_wrong(c, "step.outputs", "one array of the labels' probabilities");
  ee_listening(c, ee_may(c, at, "listening"), states, m);
  if (level == 0 || c->tokens[level].kind == EE_NULL) return;
  uint32_t name;
  const char *state = ee_text(c, ee_need(c, level, "state"), "stream.intensity.state", 255, NULL);
  const char *label = ee_text(c, ee_need(c, level, "label"), "stream.intensity.label", 255, NULL);
  if (ee_array(c, ee_need(c, level, "names"), "stream.intensity.names", 2, 2, &name) == 2) {
    m->intensity_names[0] = ee_text(c, name, "stream.intensity.names", 255, NULL);
    m->intensity_names[1] = ee_text(c, c->tokens[name].next, "stream.intensity.names", 255, NULL);
  }
  for (uint32_t i = 0; i < m->label_count; i++)
    if (strcmp(m->labels[i], label) == 0) m->intensity_label = (int32_t)i;
  m->intensity_word = ee_states(c, states, m->state_words, state);
  if (m->intensity_label < 0) ee_wrong(c, "stream.intensity.label", "one of the labels");
  if (m->intensity_word < 0) ee_wrong(c, "stream.intensity.state", "a state of one number");
}

/* What may be there and is then checked, though nothing here reads it. */
static void ee_optional(ee_checker *c, uint32_t target) {
  const uint32_t model = ee_json_get(c->tokens, 0, "model"), triple = ee_may(c, target, "triple");
  const uint32_t file = ee_may(c, model, "file"), hash = ee_may(c, model, "sha256");
  if (triple != 0) ee_text(c, triple, "target.triple", 255, NULL);
  if (model != 0 && c->tokens[model].kind != EE_OBJECT) ee_wrong(c, "model", "an object");
  if (file != 0) ee_text(c, file, "model.file", 1000, NULL);
  if (hash != 0) ee_text(c, hash, "model.sha256", 64, ee_is_hash);
  static const char *const counts[] = {"macs_per_step", "int8_macs_per_step"};
  for (size_t i = 0; i < EE_COUNT(counts); i++) {
    const uint32_t count = ee_json_get(c->tokens, 0, counts[i]);
    if (count != 0) ee_integer(c, count, counts[i], 0, (int64_t)1 << 53);
  }
}

/* Reads and checks a manifest. Fills `m`, whose arrays are the model's to free whatever comes of it. */
static edgeemo_status ee_check_manifest(const char *name, const ee_token *tokens, ee_manifest *m) {
  ee_checker c = {tokens, {0}};
  m->intensity_label = -1;
  m->speech_word = -1;
  const uint32_t schema = tokens[0].kind == EE_OBJECT ? ee_json_get(tokens, 0, "schema") : 0;
  if (schema == 0) return ee_fail(EDGEEMO_DAMAGED, "%s: has no readable manifest.json; is it an edgeemo artifact?", name);
  if (tokens[schema].kind == EE_INTEGER && (tokens[schema].huge || tokens[schema].integer > EE_SCHEMA))
    return ee_fail(EDGEEMO_UNFIT, "%s: has a newer schema, this library reads up to %d; upgrade libedgeemo", name, EE_SCHEMA);
  ee_integer(&c, schema, "schema", 1, EE_SCHEMA);
  m->created = ee_text(&c, ee_need(&c, 0, "created"), "created", 10, ee_is_date);
  const uint32_t target = ee_need_object(&c, 0, "target"), step = ee_need_object(&c, 0, "step"), stream = ee_need(&c, 0, "stream"),
                 states = ee_need_object(&c, 0, "states"), files = ee_need_object(&c, 0, "files");
  if (target != 0 && step != 0 && stream != 0 && states != 0 && files != 0) {
    m->target_name = ee_text(&c, ee_need(&c, target, "name"), "target.name", 64, NULL);
    m->machine = ee_text(&c, ee_need(&c, target, "machine"), "target.machine", 64, ee_is_word);
    m->cpu = ee_text(&c, ee_need(&c, target, "cpu"), "target.cpu", 64, NULL);
    const uint32_t needs = ee_may(&c, target, "needs");
    if (needs != 0) m->needs = ee_texts(&c, needs, "target.needs", 0, 64, ee_is_word, &m->needs_count);
    ee_optional(&c, target);
    ee_step(&c, step, m);
    ee_states(&c, states, m->state_words, NULL);
    m->library_hash = ee_text(&c, ee_need(&c, files, "step.so"), "files.step.so", 64, ee_is_hash);
    m->weights_hash = ee_text(&c, ee_need(&c, files, "weights.bin"), "files.weights.bin", 64, ee_is_hash);
    ee_around(&c, ee_json_get(tokens, 0, "around"), m);
    if (tokens[stream].kind == EE_OBJECT)
      ee_stream_of(&c, stream, states, m);
    else if (tokens[stream].kind != EE_NULL)
      ee_wrong(&c, "stream", "an object or null");
  }
  if (c.problem[0] == 0) return EDGEEMO_OK;
  return ee_fail(EDGEEMO_DAMAGED, "%s: its manifest is not sound: %s; compile it again", name, c.problem);
}
