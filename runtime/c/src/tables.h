/* Made by `python -m edgeemo.compile.codegen.c_tables` from edgeemo_runtime; do not edit. */
#ifndef EDGEEMO_TABLES_H
#define EDGEEMO_TABLES_H

#define EE_SCHEMA 1
#define EE_MAX_STATE_WORDS 67108864
#define EE_MAX_ARENA_BYTES INT64_C(2147483648)
#define EE_MAX_RATE 768000
#define EE_MAX_RING_S 600
#define EE_MANIFEST_LIMIT 8388608
#define EE_LIBRARY_LIMIT 134217728
#define EE_WEIGHTS_LIMIT INT64_C(4294967296)
#define EE_SIGNATURE_LIMIT 4096
#define EE_DIRECTORY_LIMIT 262144
#define EE_ALIGNMENT 64
#define EE_MARGIN 65536
#define EE_MAX_BATCH 16
#define EE_SUM_TOLERANCE 0.001
#define EE_MAX_STREAMS 10000
#define EE_MAX_BACKLOG_HOPS 1000
#define EE_BACKLOG_HOPS 4
#define EE_BUDGET_S 0.02
#define EE_MAX_TIME_S 1000000000000000.0
#define EE_CARRIED_PER_STEP 8
#define EE_PHASES 16
#define EE_CREDIT_STEPS 4
#define EE_CREDIT_SHARE 4
#define EE_MAX_COUNT INT64_C(4611686018427387904)
#define EE_WAITING 1
#define EE_BAD 2
#define EE_OFFSET_MEMORY 0.1

/* Order of columns: edgeemo_runtime/abi.py. */
enum {EE_RULES_ALPHA, EE_RULES_CONSISTENCY, EE_RULES_DISAGREEMENT, EE_RULES_CONFIDENCE, EE_RULES_MIN_CONFIDENCE, EE_RULES_NEUTRAL, EE_RULES_DECISION_S, EE_RULES_SETTLE, EE_RULES_SETTLE_DECISIONS, EE_RULES_HANDOFF, EE_RULES_HANDOFF_DECISIONS, EE_RULES_JUMP_S, EE_RULES_STEP_S, EE_RULES_STEP, EE_RULES_COUNT};
enum {EE_MEMORY_STEPS, EE_MEMORY_ANSWER, EE_MEMORY_IN_ROW, EE_MEMORY_LABEL, EE_MEMORY_SINCE, EE_MEMORY_STREAK, EE_MEMORY_HANDED_OFF, EE_MEMORY_LOW, EE_MEMORY_COUNTED, EE_MEMORY_DECIDED, EE_MEMORY_UNSURE, EE_MEMORY_COUNT};
enum {EE_NUMBERS_STREAM, EE_NUMBERS_LABEL, EE_NUMBERS_HANDOFF, EE_NUMBERS_ODD, EE_NUMBERS_COUNT};
enum {EE_FLAGS_LOW, EE_FLAGS_JUMPED, EE_FLAGS_CHANGED, EE_FLAGS_DECISION, EE_FLAGS_COUNT};
enum {EE_TIMES_START_S, EE_TIMES_END_S, EE_TIMES_SINCE, EE_TIMES_COUNT};
enum {EE_SPEECH_PLACE, EE_SPEECH_LEAST, EE_SPEECH_COUNT};
static const char *const ee_columns_rules[] = {"alpha", "consistency", "disagreement", "confidence", "min_confidence", "neutral", "decision_s", "settle", "settle_decisions", "handoff", "handoff_decisions", "jump_s", "step_s", "step", NULL};
static const char *const ee_columns_memory[] = {"steps", "answer", "in_row", "label", "since", "streak", "handed_off", "low", "counted", "decided", "unsure", NULL};
static const char *const ee_columns_numbers[] = {"stream", "label", "handoff", "odd", NULL};
static const char *const ee_columns_flags[] = {"low", "jumped", "changed", "decision", NULL};
static const char *const ee_columns_times[] = {"start_s", "end_s", "since", NULL};
static const char *const ee_columns_speech[] = {"place", "least", NULL};
static const char *const ee_first_columns_rules[] = {"alpha", "consistency", "disagreement", "confidence", "min_confidence", "neutral", "settle", "settle_steps", "handoff", "handoff_steps", "jump_s", "step_s", "step", NULL};
static const char *const ee_first_columns_memory[] = {"steps", "answer", "in_row", "label", "since", "streak", "handed_off", NULL};
static const char *const ee_first_columns_numbers[] = {"stream", "label", "handoff", "odd", NULL};
static const char *const ee_first_columns_flags[] = {"low", "jumped", "changed", NULL};
static const char *const ee_first_columns_times[] = {"start_s", "end_s", "since", NULL};

static const char *const ee_dtypes[] = {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool", NULL};
static const char *const ee_hears[] = {"call", "window", NULL};
static const char *const ee_reasons[] = {"", "low confidence", "jumping", "low confidence and jumping", NULL};
#define EE_NEUTRAL "neutral"

static const double ee_rules_defaults[] = {0.3, 1.0, 0.6, 1.0, 0.55, 0.0, 1.5, 1.0, 1.0, 1.0, 3.0, 0.5, 0.0, 0.0};

/* Of edgeemo_rules, from its second member on: decision.PRESETS. */
static const struct {
  const char *name;
  edgeemo_rules rules;
} ee_presets[] = {
    {"call-centre", {sizeof(edgeemo_rules), 1, 1, 1, 1, 1, 5, 1, 3, 0, 0.3, 0.6, 0.55, 0.5, 1.5}},
    {"in-car", {sizeof(edgeemo_rules), 1, 1, 1, 1, 1, 5, 1, 3, 0, 0.5, 0.6, 0.55, 0.5, 1.0}},
    {"raw", {sizeof(edgeemo_rules), 0, 0, 0, 0, 1, 5, 1, 3, 0, 1.0, 0.6, 0.55, 0.5, 0.0}},
};

static const edgeemo_audio_rules ee_audio_rules = {sizeof(edgeemo_audio_rules), 0, 0, 6, 1.0, 0.01, -50.0};

/* ITU-T G.711. */
static const int16_t ee_ulaw[256] = {
    -32124, -31100, -30076, -29052, -28028, -27004, -25980, -24956, -23932, -22908, -21884, -20860, -19836, -18812, -17788, -16764,
    -15996, -15484, -14972, -14460, -13948, -13436, -12924, -12412, -11900, -11388, -10876, -10364, -9852, -9340, -8828, -8316,
    -7932, -7676, -7420, -7164, -6908, -6652, -6396, -6140, -5884, -5628, -5372, -5116, -4860, -4604, -4348, -4092,
    -3900, -3772, -3644, -3516, -3388, -3260, -3132, -3004, -2876, -2748, -2620, -2492, -2364, -2236, -2108, -1980,
    -1884, -1820, -1756, -1692, -1628, -1564, -1500, -1436, -1372, -1308, -1244, -1180, -1116, -1052, -988, -924,
    -876, -844, -812, -780, -748, -716, -684, -652, -620, -588, -556, -524, -492, -460, -428, -396,
    -372, -356, -340, -324, -308, -292, -276, -260, -244, -228, -212, -196, -180, -164, -148, -132,
    -120, -112, -104, -96, -88, -80, -72, -64, -56, -48, -40, -32, -24, -16, -8, 0,
    32124, 31100, 30076, 29052, 28028, 27004, 25980, 24956, 23932, 22908, 21884, 20860, 19836, 18812, 17788, 16764,
    15996, 15484, 14972, 14460, 13948, 13436, 12924, 12412, 11900, 11388, 10876, 10364, 9852, 9340, 8828, 8316,
    7932, 7676, 7420, 7164, 6908, 6652, 6396, 6140, 5884, 5628, 5372, 5116, 4860, 4604, 4348, 4092,
    3900, 3772, 3644, 3516, 3388, 3260, 3132, 3004, 2876, 2748, 2620, 2492, 2364, 2236, 2108, 1980,
    1884, 1820, 1756, 1692, 1628, 1564, 1500, 1436, 1372, 1308, 1244, 1180, 1116, 1052, 988, 924,
    876, 844, 812, 780, 748, 716, 684, 652, 620, 588, 556, 524, 492, 460, 428, 396,
    372, 356, 340, 324, 308, 292, 276, 260, 244, 228, 212, 196, 180, 164, 148, 132,
    120, 112, 104, 96, 88, 80, 72, 64, 56, 48, 40, 32, 24, 16, 8, 0};
static const int16_t ee_alaw[256] = {
    -5504, -5248, -6016, -5760, -4480, -4224, -4992, -4736, -7552, -7296, -8064, -7808, -6528, -6272, -7040, -6784,
    -2752, -2624, -3008, -2880, -2240, -2112, -2496, -2368, -3776, -3648, -4032, -3904, -3264, -3136, -3520, -3392,
    -22016, -20992, -24064, -23040, -17920, -16896, -19968, -18944, -30208, -29184, -32256, -31232, -26112, -25088, -28160, -27136,
    -11008, -10496, -12032, -11520, -8960, -8448, -9984, -9472, -15104, -14592, -16128, -15616, -13056, -12544, -14080, -13568,
    -344, -328, -376, -360, -280, -264, -312, -296, -472, -456, -504, -488, -408, -392, -440, -424,
    -88, -72, -120, -104, -24, -8, -56, -40, -216, -200, -248, -232, -152, -136, -184, -168,
    -1376, -1312, -1504, -1440, -1120, -1056, -1248, -1184, -1888, -1824, -2016, -1952, -1632, -1568, -1760, -1696,
    -688, -656, -752, -720, -560, -528, -624, -592, -944, -912, -1008, -976, -816, -784, -880, -848,
    5504, 5248, 6016, 5760, 4480, 4224, 4992, 4736, 7552, 7296, 8064, 7808, 6528, 6272, 7040, 6784,
    2752, 2624, 3008, 2880, 2240, 2112, 2496, 2368, 3776, 3648, 4032, 3904, 3264, 3136, 3520, 3392,
    22016, 20992, 24064, 23040, 17920, 16896, 19968, 18944, 30208, 29184, 32256, 31232, 26112, 25088, 28160, 27136,
    11008, 10496, 12032, 11520, 8960, 8448, 9984, 9472, 15104, 14592, 16128, 15616, 13056, 12544, 14080, 13568,
    344, 328, 376, 360, 280, 264, 312, 296, 472, 456, 504, 488, 408, 392, 440, 424,
    88, 72, 120, 104, 24, 8, 56, 40, 216, 200, 248, 232, 152, 136, 184, 168,
    1376, 1312, 1504, 1440, 1120, 1056, 1248, 1184, 1888, 1824, 2016, 1952, 1632, 1568, 1760, 1696,
    688, 656, 752, 720, 560, 528, 624, 592, 944, 912, 1008, 976, 816, 784, 880, 848};

#endif
