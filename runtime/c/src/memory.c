/* Memory from the system: zeros that take no room until they are written to, and how an engine's is divided. */
#include <errno.h>
#include <sys/mman.h>

#include "internal.h"

static size_t ee_round(size_t size, size_t to) { return (size + to - 1) / to * to; }

/* Zeros at the start of a page; NULL where there are none. */
static void *ee_map(size_t size) {
  void *made = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return made == MAP_FAILED ? NULL : made;
}

static void ee_unmap(void *data, size_t size) {
  if (data != NULL) munmap(data, size);
}

/* `bytes` for an array that compiled code gets: at a multiple of 64, with EE_MARGIN bytes before and behind that may be read, since
 * LLVM loads whole vectors of what is padded. Neighbours share a margin. */
static void *ee_lay(ee_layout *layout, size_t bytes) {
  const size_t at = ee_round(layout->used, EE_ALIGNMENT);
  layout->used = at + bytes + EE_MARGIN;
  return layout->base == NULL ? NULL : layout->base + at;
}

/* The same for what no compiled code sees. */
static void *ee_lay_plain(ee_layout *layout, size_t bytes) {
  const size_t at = ee_round(layout->used, EE_ALIGNMENT);
  layout->used = at + bytes;
  return layout->base == NULL ? NULL : layout->base + at;
}
