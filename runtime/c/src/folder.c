/* Artifacts that `edgeemo-run install` unpacked: a folder of the three members. They are read into memory as the archive that
 * `edgeemo compile` writes (members.py, pack), so that all checks, a signature's above all, are the archive's. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

enum { EE_MEMBERS = 3 };

typedef struct ee_member {
  const char *name;
  int64_t limit;
  int handle;
  size_t size, header, data, padding; /* in the archive: where its header and its bytes begin, and the extra field between */
  uint32_t crc;
} ee_member;

/* CRC-32 as in ZIP and zlib, four bits at a time. */
static uint32_t ee_crc32(uint32_t crc, const void *data, size_t size) {
  static const uint32_t table[16] = {0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4, 0x4DB26158, 0x5005713C,
                                     0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C, 0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C};
  const unsigned char *bytes = data;
  crc = ~crc;
  for (size_t i = 0; i < size; i++) {
    crc = crc >> 4 ^ table[(crc ^ bytes[i]) & 15];
    crc = crc >> 4 ^ table[(crc ^ (uint32_t)(bytes[i] >> 4)) & 15];
  }
  return ~crc;
}

static unsigned char *ee_le_out(unsigned char *out, uint32_t value, int bytes) {
  for (int i = 0; i < bytes; i++) *out++ = (unsigned char)(value >> 8 * i & 255);
  return out;
}

/* Fields that a member's local header and its entry in the directory share, from the version it needs on; then its name and extra field. */
static unsigned char *ee_put_facts(unsigned char *out, const ee_member *m) {
  out = ee_le_out(out, 20, 2); /* version 2.0, no flags, stored, 1980-01-01 */
  out = ee_le_out(out, 0, 2);
  out = ee_le_out(out, 0, 2);
  out = ee_le_out(out, 0x210000, 4);
  out = ee_le_out(out, m->crc, 4);
  out = ee_le_out(out, (uint32_t)m->size, 4);
  out = ee_le_out(out, (uint32_t)m->size, 4);
  out = ee_le_out(out, (uint32_t)strlen(m->name), 2);
  return ee_le_out(out, (uint32_t)(4 + m->padding), 2);
}

static unsigned char *ee_put_name(unsigned char *out, const ee_member *m) {
  memcpy(out, m->name, strlen(m->name));
  out = ee_le_out(out + strlen(m->name), 0xFFFF, 2);
  out = ee_le_out(out, (uint32_t)m->padding, 2);
  return out + m->padding; /* zeros */
}

/* Where everything of the archive lies; its size. */
static size_t ee_place_members(ee_member members[EE_MEMBERS]) {
  size_t at = 0, directory = 0;
  for (int i = 0; i < EE_MEMBERS; i++) {
    ee_member *m = &members[i];
    const size_t begin = at + EE_HEADER + strlen(m->name) + 4;
    m->header = at;
    m->data = ee_round(begin, EE_ALIGNMENT);
    m->padding = m->data - begin;
    at = m->data + m->size;
    directory += EE_ENTRY + strlen(m->name) + 4 + m->padding;
  }
  return at + directory + EE_END;
}

static void ee_write_headers(unsigned char *archive, ee_member members[EE_MEMBERS]) {
  unsigned char *out = archive + members[EE_MEMBERS - 1].data + members[EE_MEMBERS - 1].size;
  const size_t directory = (size_t)(out - archive);
  for (int i = 0; i < EE_MEMBERS; i++) {
    ee_member *m = &members[i];
    m->crc = ee_crc32(0, archive + m->data, m->size);
    ee_put_name(ee_put_facts(ee_le_out(archive + m->header, 0x04034B50, 4), m), m);
    out = ee_le_out(out, 0x02014B50, 4);
    out = ee_le_out(out, 20 | 3 << 8, 2); /* by Unix */
    out = ee_put_facts(out, m);
    out = ee_le_out(out, 0, 2);
    out = ee_le_out(out, 0, 2);
    out = ee_le_out(out, 0, 2);
    out = ee_le_out(out, 0644u << 16, 4);
    out = ee_le_out(out, (uint32_t)m->header, 4);
    out = ee_put_name(out, m);
  }
  const size_t size = (size_t)(out - archive) - directory;
  out = ee_le_out(out, 0x06054B50, 4);
  out = ee_le_out(out, 0, 4);
  out = ee_le_out(out, EE_MEMBERS | EE_MEMBERS << 16, 4);
  out = ee_le_out(out, (uint32_t)size, 4);
  out = ee_le_out(out, (uint32_t)directory, 4);
  ee_le_out(out, 0, 2);
}

static bool ee_is_folder(const char *path) {
  struct stat found;
  return stat(path, &found) == 0 && S_ISDIR(found.st_mode);
}

/* Opens the members; no link is followed, which may lead out of the folder. */
static edgeemo_status ee_open_members(const char *path, int folder, ee_member members[EE_MEMBERS], bool *exposed) {
  struct stat found;
  if (fstat(folder, &found) != 0) return ee_fail(EDGEEMO_NO_FILE, "%s: cannot be read (%s)", path, strerror(errno));
  *exposed = ee_is_exposed(&found);
  for (int i = 0; i < EE_MEMBERS; i++) {
    ee_member *m = &members[i];
    m->handle = openat(folder, m->name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (m->handle < 0 && errno == ENOENT)
      return ee_fail(EDGEEMO_NO_FILE, "%s/%s: no such file; `edgeemo compile` writes artifacts, `edgeemo-run install` unpacks them", path, m->name);
    if (m->handle < 0 || fstat(m->handle, &found) != 0) return ee_fail(EDGEEMO_NO_FILE, "%s/%s: cannot be read (%s)", path, m->name, strerror(errno));
    if (!S_ISREG(found.st_mode) || found.st_size < 0 || found.st_size > m->limit) return ee_not_whole(path, "a member is no file of such a size");
    *exposed = *exposed || ee_is_exposed(&found);
    m->size = (size_t)found.st_size;
  }
  return EDGEEMO_OK;
}

static edgeemo_status ee_read_folder(const char *path, ee_bytes *out, bool *exposed) {
  ee_member members[EE_MEMBERS] = {{.name = "manifest.json", .limit = EE_MANIFEST_LIMIT, .handle = -1},
                                   {.name = "step.so", .limit = EE_LIBRARY_LIMIT, .handle = -1},
                                   {.name = "weights.bin", .limit = EE_WEIGHTS_LIMIT, .handle = -1}};
  const int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return ee_fail(EDGEEMO_NO_FILE, "%s: cannot be read (%s)", path, strerror(errno));
  edgeemo_status status = ee_open_members(path, folder, members, exposed);
  const size_t size = ee_place_members(members);
  if (status == EDGEEMO_OK && size > UINT32_MAX) status = ee_not_whole(path, "it is larger than an archive can be");
  if (status == EDGEEMO_OK) {
    unsigned char *memory = ee_map(size + 2 * EE_MARGIN);
    *out = (ee_bytes){memory == NULL ? NULL : memory + EE_MARGIN, size};
    if (memory == NULL) status = ee_fail(EDGEEMO_NO_MEMORY, "%s: does not fit this machine's memory", path);
  }
  for (int i = 0; i < EE_MEMBERS; i++) {
    if (status == EDGEEMO_OK && !ee_read_all(members[i].handle, out->data + members[i].data, members[i].size))
      status = ee_not_whole(path, "a member ends too soon");
    if (members[i].handle >= 0) close(members[i].handle);
  }
  close(folder);
  if (status == EDGEEMO_OK) ee_write_headers(out->data, members);
  return status;
}
