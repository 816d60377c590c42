/* Whether a model's code can run on this processor, as edgeemo_runtime/machine.py asks. */
#include <fcntl.h>
#ifdef __aarch64__
#include <sys/auxv.h>
#endif
#include <sys/utsname.h>
#include <unistd.h>

#include "internal.h"

#ifdef __aarch64__
#define EE_WAY_OUT "compile it for this one with --target aarch64-neon"

/* Whether the kernel told this process of an extension, by LLVM's name: AT_HWCAP (16) and AT_HWCAP2 (26), bits of asm/hwcap.h. */
static bool ee_has_extension(const char *name) {
  static const struct {
    const char *name;
    unsigned long key, bits;
  } known[] = {{"aes", 16, 1ul << 3},       {"sha2", 16, 3ul << 5},      {"crc", 16, 1ul << 7},
               {"lse", 16, 1ul << 8},       {"fullfp16", 16, 3ul << 9},  {"rdm", 16, 1ul << 12},
               {"jsconv", 16, 1ul << 13},   {"complxnum", 16, 1ul << 14}, {"rcpc", 16, 1ul << 15},
               {"sha3", 16, 1ul << 17 | 1ul << 21}, {"sm4", 16, 3ul << 18}, {"dotprod", 16, 1ul << 20},
               {"sve", 16, 1ul << 22},      {"fp16fml", 16, 1ul << 23},  {"sve2", 26, 1ul << 1},
               {"i8mm", 26, 1ul << 13},     {"bf16", 26, 1ul << 14}};
  for (size_t i = 0; i < EE_COUNT(known); i++)
    if (strcmp(name, known[i].name) == 0) return (getauxval(known[i].key) & known[i].bits) == known[i].bits;
  return false;
}
#else
#define EE_WAY_OUT "compile it here with --target host"

/* Extensions that LLVM uses unasked where a processor's name has them: avx.*, fma, f16c, gfni, vaes, vpclmulqdq, bmi, bmi2. */
static bool ee_is_vector(const char *name) {
  static const char *const known[] = {"fma", "f16c", "gfni", "vaes", "vpclmulqdq", "bmi", "bmi2"};
  if (strncmp(name, "avx", 3) == 0) return true;
  for (size_t i = 0; i < EE_COUNT(known); i++)
    if (strcmp(name, known[i]) == 0) return true;
  return false;
}

/* Whether the "flags" of /proc/cpuinfo have it: there with underscores, and bmi is bmi1. */
static bool ee_has(const char *flags, const char *name) {
  while (*flags != 0 && *flags != '\n') {
    while (*flags == ' ' || *flags == '\t') flags++;
    const bool first_bmi = strncmp(flags, "bmi1", 4) == 0 && (flags[4] == ' ' || flags[4] == '\n');
    const char *at = name;
    for (; *flags != 0 && *flags != ' ' && *flags != '\n'; flags++) {
      if (*flags == '_') continue;
      if (at != NULL) at = *at == *flags ? at + 1 : NULL;
    }
    if ((at != NULL && *at == 0) || (first_bmi && strcmp(name, "bmi") == 0)) return true;
  }
  return false;
}

static bool ee_has_extension(const char *name) {
  char text[1 << 14];
  const int handle = open("/proc/cpuinfo", O_RDONLY | O_CLOEXEC);
  size_t size = 0;
  for (ssize_t count = 1; handle >= 0 && size < sizeof text - 1 && count > 0; size += count > 0 ? (size_t)count : 0)
    count = read(handle, text + size, sizeof text - 1 - size);
  if (handle >= 0) close(handle);
  text[size] = 0;
  const char *line = strncmp(text, "flags", 5) == 0 ? text : strstr(text, "\nflags");
  const char *flags = line == NULL ? NULL : strchr(line, ':');
  return flags != NULL && ee_is_vector(name) && ee_has(flags + 1, name);
}
#endif

static edgeemo_status ee_check_machine(const char *name, const ee_manifest *m) {
  struct utsname here;
  if (uname(&here) != 0 || strcmp(here.machine, m->machine) != 0)
    return ee_fail(EDGEEMO_UNFIT, "%s: is for %s (%s), this machine is %s; compile it for this one with --target host", name, m->machine,
                   m->target_name, here.machine);
  for (uint32_t i = 0; i < m->needs_count; i++)
    if (!ee_has_extension(m->needs[i]))
      return ee_fail(EDGEEMO_UNFIT, "%s: is for %s, this machine lacks its %s; " EE_WAY_OUT, name, m->cpu, m->needs[i]);
  return EDGEEMO_OK;
}
