/* Calls of compiled functions by TVM's FFI: arguments are bare DLTensors, an error comes through one callback. Layouts are those of
 * apache-tvm-ffi's c_api.h, which documents them as stable. */
#include "internal.h"

enum { EE_FFI_TENSOR = 7, EE_CPU = 1 };

/* C99 has no static assertion: an array of -1 elements does not compile. */
typedef char ee_any_is_16_bytes[sizeof(ee_any) == 16 ? 1 : -1];
typedef char ee_dltensor_is_48_bytes[sizeof(ee_dltensor) == 48 && offsetof(ee_dltensor, shape) == 24 ? 1 : -1];

static __thread char ee_said[256]; /* by compiled code that refused its arguments */

static void ee_raised(const char *kind, const char **parts, int32_t count) {
  size_t used = (size_t)snprintf(ee_said, sizeof ee_said, "%s: ", kind);
  for (int32_t i = 0; i < count && used < sizeof ee_said; i++)
    used += (size_t)snprintf(ee_said + used, sizeof ee_said - used, "%s", parts[i] == NULL ? "" : parts[i]);
}

/* The same for code that is linked in; edgeemo/compile/c_library.py gives TVM's name for it this one. */
void edgeemo_ffi_raised(const char *kind, const char **parts, int32_t count);
void edgeemo_ffi_raised(const char *kind, const char **parts, int32_t count) { ee_raised(kind, parts, count); }

static edgeemo_status ee_misfit(const char *name) {
  return ee_fail(EDGEEMO_BAD_CODE, "%s: its code does not fit its manifest (%s); compile it again", name, ee_said);
}

/* The memory of a call with `count` arguments. */
static void ee_lay_call(ee_layout *layout, ee_call *call, uint32_t count) {
  call->arguments = ee_lay_plain(layout, count * sizeof *call->arguments);
  call->values = ee_lay_plain(layout, count * sizeof *call->values);
  call->count = 0;
}

/* Appends an argument: an array of `dims` sizes, the first of which is often the batch. */
static void ee_pass(ee_call *call, void *data, int32_t dtype, int32_t dims, const int64_t *shape) {
  static const uint8_t codes[] = {2, 2, 2, 0, 0, 0, 0, 1, 1, 1, 1, 6}, bits[] = {16, 32, 64, 8, 16, 32, 64, 8, 16, 32, 64, 8};
  ee_argument *a = &call->arguments[call->count];
  int64_t stride = 1;
  memset(a, 0, sizeof *a);
  for (int32_t i = dims - 1; i >= 0; i--) {
    a->shape[i] = shape[i];
    a->strides[i] = stride;
    stride *= shape[i];
  }
  a->tensor = (ee_dltensor){data, EE_CPU, 0, dims, codes[dtype], bits[dtype], 1, a->shape, a->strides, 0};
  call->values[call->count++] = (ee_any){EE_FFI_TENSOR, 0, {.pointer = &a->tensor}};
}

static void ee_pass1(ee_call *call, void *data, int32_t dtype, int64_t size) { ee_pass(call, data, dtype, 1, &size); }

static void ee_pass2(ee_call *call, void *data, int32_t dtype, int64_t rows, int64_t columns) {
  const int64_t shape[2] = {rows, columns};
  ee_pass(call, data, dtype, 2, shape);
}

static bool ee_run(ee_call *call) {
  ee_any result = {0, 0, {0}};
  ee_said[0] = 0;
  return call->function(NULL, call->values, call->count, &result) == 0;
}
