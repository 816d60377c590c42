/* libedgeemo, all of it. */
#include "internal.h"

#include <stdio.h>

/* What is used before it is defined below. */
static void ee_retire(edgeemo_engine *e);
static bool ee_in_canary(const char *user, double share);
static void ee_forget(edgeemo_engine *e, int32_t slot);
static void ee_forget_own(edgeemo_engine *e, int32_t slot);

#include "status.c"
#include "memory.c"
#include "json.c"
#include "sha2.c"
#include "archive.c"
#include "folder.c"
#include "manifest.c"
#include "machine.c"
#include "trust.c"
#include "code.c"
#include "call.c"
#include "model.c"
#include "served.c"
#include "engine.c"
#include "samples.c"
#include "ring.c"
#include "clock.c"
#include "stream.c"
#include "step.c"
#include "fleet.c"
#include "function.c"
