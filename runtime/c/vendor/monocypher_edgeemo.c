/* monocypher by other names. */
#include "monocypher_names.h"
#include "monocypher.c"
