/* Compiled code of an artifact, mapped from a sealed memory file, so that what was checked is what runs.
 *
 * Not by dlopen: that would have to find TVM's error function by its name, which this library must not give away to a program that
 * may hold TVM's own; and a static executable has none. What a step.so is, edgeemo/compile/codegen/link.py decides: segments, symbols, and
 * relocations of a table of addresses. Anything more is refused, and so is every symbol that verify.py does not allow. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#endif
enum { EE_MFD_CLOEXEC = 1, EE_MFD_ALLOW_SEALING = 2, EE_ALL_SEALS = 1 | 2 | 4 | 8, EE_MAX_SEGMENTS = 32 };
#define EE_MAX_SPAN ((uint64_t)1 << 30)

#if defined(__x86_64__)
enum { EE_MACHINE = EM_X86_64, EE_ABSOLUTE = R_X86_64_64, EE_DATA = R_X86_64_GLOB_DAT, EE_JUMP = R_X86_64_JUMP_SLOT,
       EE_RELATIVE = R_X86_64_RELATIVE };
#elif defined(__aarch64__)
enum { EE_MACHINE = EM_AARCH64, EE_ABSOLUTE = R_AARCH64_ABS64, EE_DATA = R_AARCH64_GLOB_DAT, EE_JUMP = R_AARCH64_JUMP_SLOT,
       EE_RELATIVE = R_AARCH64_RELATIVE };
#else
enum { EE_MACHINE = -1, EE_ABSOLUTE = 1, EE_DATA = 2, EE_JUMP = 3, EE_RELATIVE = 4 }; /* linked models only */
#endif

/* Where compiled code says what is wrong with its arguments. */
static void ee_raised(const char *kind, const char **parts, int32_t count);

/* The segments of a file, checked; NULL, or what is wrong. */
static const char *ee_segments(const ee_bytes *file, Elf64_Ehdr *head, Elf64_Phdr *segments, uint64_t *span, uint64_t page) {
  uint64_t end = 0;
  if (file->size < sizeof *head) return "it is too short";
  memcpy(head, file->data, sizeof *head);
  if (memcmp(head->e_ident, ELFMAG, SELFMAG) != 0 || head->e_ident[EI_CLASS] != ELFCLASS64 || head->e_ident[EI_DATA] != ELFDATA2LSB ||
      head->e_type != ET_DYN || head->e_machine != EE_MACHINE)
    return "it is no library for this machine";
  if (head->e_phentsize != sizeof *segments || head->e_phnum == 0 || head->e_phnum > EE_MAX_SEGMENTS || head->e_phoff > file->size ||
      file->size - head->e_phoff < head->e_phnum * sizeof *segments)
    return "it has no segments";
  memcpy(segments, file->data + head->e_phoff, head->e_phnum * sizeof *segments);
  for (int i = 0; i < head->e_phnum; i++) {
    const Elf64_Phdr *s = &segments[i];
    if (s->p_type == PT_TLS || s->p_type == PT_INTERP) return "it is more than functions";
    if (s->p_memsz > EE_MAX_SPAN || s->p_vaddr > EE_MAX_SPAN || s->p_filesz > s->p_memsz) return "a segment is out of bounds";
    if (s->p_type != PT_LOAD) continue;
    if (s->p_offset > file->size || s->p_filesz > file->size - s->p_offset) return "a segment is cut off";
    if ((s->p_flags & PF_W) != 0 && (s->p_flags & PF_X) != 0) return "code can be written";
    if ((s->p_flags & PF_W) == 0 && s->p_filesz != s->p_memsz) return "a segment is out of bounds";
    if (s->p_vaddr / page * page < end || s->p_vaddr % page != s->p_offset % page) return "segments lie in each other's way";
    end = (s->p_vaddr + s->p_memsz + page - 1) / page * page;
  }
  *span = end;
  return end == 0 ? "it has no segments" : NULL;
}

/* Maps the segments, writable where they are to be, from the memory file. */
static bool ee_map_segments(int handle, const Elf64_Phdr *segments, int count, ee_code *code, uint64_t page) {
  for (int i = 0; i < count; i++) {
    const Elf64_Phdr *s = &segments[i];
    if (s->p_type != PT_LOAD || s->p_memsz == 0) continue;
    const uint64_t skew = s->p_vaddr % page, first = s->p_vaddr - skew;
    const int protection = (s->p_flags & PF_R ? PROT_READ : 0) | (s->p_flags & PF_W ? PROT_WRITE : 0) | (s->p_flags & PF_X ? PROT_EXEC : 0);
    const uint64_t filled = s->p_filesz == 0 ? first : (s->p_vaddr + s->p_filesz + page - 1) / page * page;
    const uint64_t end = (s->p_vaddr + s->p_memsz + page - 1) / page * page;
    if (filled > first && mmap(code->base + first, filled - first, protection, MAP_PRIVATE | MAP_FIXED, handle,
                               (off_t)(s->p_offset - skew)) == MAP_FAILED)
      return false;
    if (end > filled && mmap(code->base + filled, end - filled, protection, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
      return false;
    if ((s->p_flags & PF_W) != 0 && s->p_filesz != 0) memset(code->base + s->p_vaddr + s->p_filesz, 0, filled - s->p_vaddr - s->p_filesz);
  }
  return true;
}

/* The bytes of `size` at `address` of the loaded code, within a segment that may be read (and written); NULL where there are none. */
static unsigned char *ee_within(const ee_code *code, const Elf64_Phdr *segments, int count, uint64_t address, uint64_t size, uint32_t flags) {
  for (int i = 0; i < count; i++) {
    const Elf64_Phdr *s = &segments[i];
    if (s->p_type == PT_LOAD && (s->p_flags & flags) == flags && address >= s->p_vaddr && address - s->p_vaddr <= s->p_memsz &&
        size <= s->p_memsz - (address - s->p_vaddr))
      return code->base + address;
  }
  return NULL;
}

static const char *ee_symbol_name(const ee_code *code, const Elf64_Sym *symbol) {
  const char *name = (const char *)code->names + symbol->st_name;
  const size_t room = code->names_size > symbol->st_name ? code->names_size - symbol->st_name : 0;
  return room > 0 && memchr(name, 0, room) != NULL ? name : NULL;
}

/* A function of this process that compiled code may call: as edgeemo/compile/codegen/verify.py allows. */
static uint64_t ee_allowed(const char *name) {
  union {
    void *(*copy)(void *, const void *, size_t);
    void *(*set)(void *, int, size_t);
    void (*raise)(const char *, const char **, int32_t);
    uint64_t address;
  } function;
  function.address = 0;
  if (strcmp(name, "memcpy") == 0) function.copy = memcpy;
  if (strcmp(name, "memmove") == 0) function.copy = memmove;
  if (strcmp(name, "memset") == 0) function.set = memset;
  if (strcmp(name, "TVMFFIErrorSetRaisedFromCStrParts") == 0) function.raise = ee_raised;
  return function.address;
}

static const char *ee_relocate(ee_code *code, const Elf64_Phdr *segments, int count, const unsigned char *table, uint64_t size) {
  for (uint64_t at = 0; at < size; at += sizeof(Elf64_Rela)) {
    Elf64_Rela rela;
    memcpy(&rela, table + at, sizeof rela);
    unsigned char *target = ee_within(code, segments, count, rela.r_offset, sizeof(uint64_t), PF_R | PF_W);
    const uint64_t type = ELF64_R_TYPE(rela.r_info), index = ELF64_R_SYM(rela.r_info), base = (uint64_t)(uintptr_t)code->base;
    uint64_t value = 0;
    if (target == NULL) return "a relocation is out of bounds";
    if (type == EE_RELATIVE) {
      value = base + (uint64_t)rela.r_addend;
    } else if (type == EE_ABSOLUTE || type == EE_DATA || type == EE_JUMP) {
      Elf64_Sym symbol;
      if (index >= code->symbol_count) return "a relocation names no symbol";
      memcpy(&symbol, code->symbols + index * sizeof symbol, sizeof symbol);
      const char *name = ee_symbol_name(code, &symbol);
      if (name == NULL) return "a symbol has no name";
      if (symbol.st_shndx != SHN_UNDEF && ELF64_ST_TYPE(symbol.st_info) == STT_GNU_IFUNC) return "it is more than functions";
      value = symbol.st_shndx != SHN_UNDEF ? base + symbol.st_value : ee_allowed(name);
      if (value == 0) return "it needs a function that there is none of here";
      value += (uint64_t)rela.r_addend;
    } else {
      return "a relocation is of an unknown kind";
    }
    memcpy(target, &value, sizeof value);
  }
  return NULL;
}

typedef struct ee_dynamic {
  uint64_t symbols, names, names_size, hash, plt, plt_size, rela, rela_size;
} ee_dynamic;

static const char *ee_read_dynamic(const unsigned char *table, uint64_t size, ee_dynamic *d) {
  memset(d, 0, sizeof *d);
  for (uint64_t at = 0; at + sizeof(Elf64_Dyn) <= size; at += sizeof(Elf64_Dyn)) {
    Elf64_Dyn entry;
    memcpy(&entry, table + at, sizeof entry);
    const uint64_t value = entry.d_un.d_val;
    switch (entry.d_tag) {
      case DT_NULL: return NULL;
      case DT_SYMTAB: d->symbols = value; break;
      case DT_STRTAB: d->names = value; break;
      case DT_STRSZ: d->names_size = value; break;
      case DT_HASH: d->hash = value; break;
      case DT_JMPREL: d->plt = value; break;
      case DT_PLTRELSZ: d->plt_size = value; break;
      case DT_RELA: d->rela = value; break;
      case DT_RELASZ: d->rela_size = value; break;
      case DT_SYMENT: if (value != sizeof(Elf64_Sym)) return "its symbols are of another size"; break;
      case DT_PLTREL: if (value != DT_RELA) return "its relocations are of another kind"; break;
      case DT_RELAENT: if (value != sizeof(Elf64_Rela)) return "its relocations are of another size"; break;
      case DT_PLTGOT: case DT_GNU_HASH: case DT_FLAGS: case DT_FLAGS_1: case DT_RELACOUNT: case DT_SONAME: break;
      default: return "it is more than functions"; /* constructors, libraries that it needs, text that is to be written */
    }
  }
  return "its dynamic section does not end";
}

static const char *ee_bind(ee_code *code, const Elf64_Phdr *segments, int count) {
  ee_dynamic d;
  const char *problem = "it has no symbols";
  for (int i = 0; i < count; i++) {
    const Elf64_Phdr *s = &segments[i];
    if (s->p_type != PT_DYNAMIC) continue;
    const unsigned char *table = ee_within(code, segments, count, s->p_vaddr, s->p_memsz, PF_R);
    problem = table == NULL ? "its dynamic section is out of bounds" : ee_read_dynamic(table, s->p_memsz, &d);
    break;
  }
  if (problem != NULL) return problem;
  const unsigned char *hash = ee_within(code, segments, count, d.hash, 8, PF_R);
  if (d.hash == 0 || hash == NULL) return "it has no symbols";
  code->symbol_count = ee_le32(hash + 4);
  code->symbols = ee_within(code, segments, count, d.symbols, code->symbol_count * sizeof(Elf64_Sym), PF_R);
  code->names = ee_within(code, segments, count, d.names, d.names_size, PF_R);
  code->names_size = d.names_size;
  if (code->symbols == NULL || code->names == NULL) return "its symbols are out of bounds";
  const uint64_t tables[2][2] = {{d.rela, d.rela_size}, {d.plt, d.plt_size}};
  for (int i = 0; i < 2; i++) {
    const unsigned char *table = ee_within(code, segments, count, tables[i][0], tables[i][1], PF_R);
    if (tables[i][1] == 0) continue;
    if (table == NULL || tables[i][1] % sizeof(Elf64_Rela) != 0) return "its relocations are out of bounds";
    if ((problem = ee_relocate(code, segments, count, table, tables[i][1])) != NULL) return problem;
  }
  return NULL;
}

/* After relocation nothing more is written to what holds addresses. */
static void ee_protect(const ee_code *code, const Elf64_Phdr *segments, int count, uint64_t page) {
  for (int i = 0; i < count; i++) {
    const uint64_t first = segments[i].p_vaddr / page * page, end = (segments[i].p_vaddr + segments[i].p_memsz) / page * page;
    if (segments[i].p_type == PT_GNU_RELRO && end > first && end <= code->span) mprotect(code->base + first, end - first, PROT_READ);
  }
}

static void ee_unload(ee_code *code) {
  ee_unmap(code->base, code->span);
  memset(code, 0, sizeof *code);
}

/* A memory file of the bytes that nobody can change any more; -1 where there is none. */
static int ee_sealed(const ee_bytes *file) {
  const int handle = (int)syscall(SYS_memfd_create, "step.so", EE_MFD_CLOEXEC | EE_MFD_ALLOW_SEALING);
  for (size_t at = 0; handle >= 0 && at < file->size;) {
    const ssize_t count = write(handle, file->data + at, file->size - at);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return close(handle), -1;
    at += (size_t)count;
  }
  if (handle >= 0 && fcntl(handle, F_ADD_SEALS, EE_ALL_SEALS) != 0) return close(handle), -1;
  return handle;
}

/* Maps the library of an artifact. Its bytes were checked by their hash; its structure is checked here. */
static edgeemo_status ee_load_code(const char *name, const ee_bytes *file, ee_code *code) {
  const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  Elf64_Ehdr head;
  Elf64_Phdr segments[EE_MAX_SEGMENTS];
  uint64_t span = 0;
  memset(code, 0, sizeof *code);
  const char *problem = ee_segments(file, &head, segments, &span, page);
  if (problem == NULL) {
    const int handle = ee_sealed(file);
    void *base = handle < 0 ? MAP_FAILED : mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base != MAP_FAILED) {
      code->base = base;
      code->span = span;
      if (!ee_map_segments(handle, segments, head.e_phnum, code, page)) problem = strerror(errno);
    } else {
      problem = strerror(errno);
    }
    if (handle >= 0) close(handle);
  }
  if (problem == NULL) problem = ee_bind(code, segments, head.e_phnum);
  if (problem == NULL) {
    ee_protect(code, segments, head.e_phnum, page);
    return EDGEEMO_OK;
  }
  ee_unload(code);
  return ee_fail(EDGEEMO_BAD_CODE, "%s: its library does not load here (%s)", name, problem);
}

/* A function by the name that TVM exports it under; NULL where there is none. */
static ee_packed ee_find(const ee_code *code, const char *function) {
  static const char prefix[] = "__tvm_ffi_";
  union {
    uint64_t address;
    ee_packed function;
  } found;
  for (size_t i = 1; i < code->symbol_count; i++) {
    Elf64_Sym symbol;
    memcpy(&symbol, code->symbols + i * sizeof symbol, sizeof symbol);
    const char *name = ee_symbol_name(code, &symbol);
    if (symbol.st_shndx == SHN_UNDEF || symbol.st_value >= code->span || name == NULL || ELF64_ST_TYPE(symbol.st_info) != STT_FUNC ||
        strncmp(name, prefix, sizeof prefix - 1) != 0 || strcmp(name + sizeof prefix - 1, function) != 0)
      continue;
    found.address = (uint64_t)(uintptr_t)(code->base + symbol.st_value);
    return found.function;
  }
  return NULL;
}
