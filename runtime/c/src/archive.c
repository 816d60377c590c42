/* Artifacts as bytes: files read whole, and where the three members lie in them. What members.py checks, and a little more: an
 * archive is as `edgeemo compile` writes it or it is refused. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

typedef struct ee_places {
  ee_bytes manifest, library, weights;
} ee_places;

enum { EE_END = 22, EE_ENTRY = 46, EE_HEADER = 30 };

static uint32_t ee_le16(const unsigned char *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8; }

static uint32_t ee_le32(const unsigned char *p) { return ee_le16(p) | ee_le16(p + 2) << 16; }

static edgeemo_status ee_not_whole(const char *name, const char *what) {
  return ee_fail(EDGEEMO_DAMAGED, "%s: is cut off or not an edgeemo artifact; copy it again (%s)", name, what);
}

/* One entry of the directory: which member it is, and its bytes. */
static const char *ee_place(const ee_bytes *file, const unsigned char *entry, ee_places *places) {
  static const struct {
    const char *name;
    size_t offset;
    int64_t limit;
  } members[] = {{"manifest.json", offsetof(ee_places, manifest), EE_MANIFEST_LIMIT},
                 {"step.so", offsetof(ee_places, library), EE_LIBRARY_LIMIT},
                 {"weights.bin", offsetof(ee_places, weights), EE_WEIGHTS_LIMIT}};
  const size_t length = ee_le16(entry + 28), size = ee_le32(entry + 24), header = ee_le32(entry + 42);
  const bool plain = ee_le16(entry + 10) == 0 && (ee_le16(entry + 8) & ~0x800u) == 0 && ee_le16(entry + 6) <= 63 &&
                     ee_le32(entry + 20) == size;
  for (size_t i = 0; i < EE_COUNT(members); i++) {
    ee_bytes *member = (ee_bytes *)(void *)((char *)places + members[i].offset);
    if (strlen(members[i].name) != length || memcmp(members[i].name, entry + EE_ENTRY, length) != 0) continue;
    if (member->data != NULL) return "a member is in it twice";
    if (file->size < EE_HEADER || header > file->size - EE_HEADER || memcmp(file->data + header, "PK\3\4", 4) != 0)
      return "a member has no header";
    const size_t start = header + EE_HEADER + ee_le16(file->data + header + 26) + ee_le16(file->data + header + 28);
    if (!plain || start % EE_ALIGNMENT != 0 || start > file->size || size > file->size - start) return "a member is not stored aligned";
    if ((int64_t)size > members[i].limit) return "a member is too large";
    *member = (ee_bytes){file->data + start, size};
    return NULL;
  }
  return "it does not hold manifest.json, step.so, weights.bin and nothing else";
}

static edgeemo_status ee_find_members(const char *name, const ee_bytes *file, ee_places *places) {
  memset(places, 0, sizeof *places);
  if (file->size < EE_END) return ee_not_whole(name, "it is too short");
  const unsigned char *end = file->data + file->size - EE_END;
  const size_t entries = ee_le16(end + 10), size = ee_le32(end + 12), start = ee_le32(end + 16);
  if (memcmp(end, "PK\5\6", 4) != 0 || ee_le16(end + 20) != 0 || entries != 3 || size > EE_DIRECTORY_LIMIT ||
      start + size + EE_END != file->size)
    return ee_not_whole(name, "it does not end as an artifact does");
  size_t at = 0;
  for (size_t i = 0; i < entries; i++) {
    const unsigned char *entry = file->data + start + at;
    if (size - at < EE_ENTRY || memcmp(entry, "PK\1\2", 4) != 0) return ee_not_whole(name, "its directory is damaged");
    const size_t length = EE_ENTRY + ee_le16(entry + 28) + ee_le16(entry + 30) + ee_le16(entry + 32);
    if (length > size - at) return ee_not_whole(name, "its directory is damaged");
    const char *problem = ee_place(file, entry, places);
    if (problem != NULL) return ee_not_whole(name, problem);
    at += length;
  }
  return at == size ? EDGEEMO_OK : ee_not_whole(name, "its directory is damaged");
}

static bool ee_read_all(int handle, unsigned char *out, size_t size) {
  for (size_t at = 0; at < size;) {
    const ssize_t count = read(handle, out + at, size - at);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    at += (size_t)count;
  }
  return true;
}

/* Whether others than root and this user may write it. */
static bool ee_is_exposed(const struct stat *found) {
  return (found->st_mode & 022) != 0 || (found->st_uid != 0 && found->st_uid != geteuid());
}

/* A regular file, whole, in memory of our own. `*exposed`: others than root and this user may write it. An empty one has one byte
 * of memory. */
static edgeemo_status ee_read_file(const char *path, int64_t limit, ee_bytes *out, bool *exposed) {
  struct stat found;
  const int handle = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (handle < 0 && (errno == ENOENT || errno == ENOTDIR))
    return ee_fail(EDGEEMO_NO_FILE, "%s: no such file; `edgeemo compile` writes artifacts", path);
  if (handle < 0) return ee_fail(EDGEEMO_NO_FILE, "%s: cannot be read (%s)", path, strerror(errno));
  edgeemo_status status = EDGEEMO_OK;
  if (fstat(handle, &found) != 0 || !S_ISREG(found.st_mode) || found.st_size > limit || found.st_size < 0) {
    status = ee_not_whole(path, "it is no file of such a size");
  } else {
    out->size = (size_t)found.st_size;
    out->data = ee_map(out->size + 2 * EE_MARGIN);
    *exposed = ee_is_exposed(&found);
    if (out->data == NULL) {
      status = ee_fail(EDGEEMO_NO_MEMORY, "%s: does not fit this machine's memory", path);
    } else if (!ee_read_all(handle, out->data + EE_MARGIN, out->size)) {
      ee_unmap(out->data, out->size + 2 * EE_MARGIN);
      status = ee_not_whole(path, "it ends too soon");
    } else {
      out->data += EE_MARGIN;
    }
  }
  close(handle);
  if (status != EDGEEMO_OK) *out = (ee_bytes){NULL, 0};
  return status;
}

static void ee_free_file(ee_bytes *file) {
  if (file->data != NULL) ee_unmap(file->data - EE_MARGIN, file->size + 2 * EE_MARGIN);
  *file = (ee_bytes){NULL, 0};
}
