/* Models: artifacts that were checked whole, in the order of docs/artifact.md, before anything of them runs. */
#include <stdio.h>

#include "internal.h"

static void ee_free_model(edgeemo_model *model) {
  ee_unload(&model->code);
  ee_free_file(&model->archive);
  free(model->manifest.needs);
  free(model->manifest.tensors);
  free(model->manifest.labels);
  free(model->tokens);
  free(model->manifest_text);
  free(model);
}

static edgeemo_model *ee_new_model(const char *name) {
  edgeemo_model *model = calloc(1, sizeof *model);
  if (model == NULL) {
    ee_fail(EDGEEMO_NO_MEMORY, "%s: does not fit this machine's memory", name);
    return NULL;
  }
  model->owners = 1;
  snprintf(model->name, sizeof model->name, "%s", name);
  return model;
}

/* Reads and checks a manifest; the version is of it, and it has the other members' hashes. */
static edgeemo_status ee_read_manifest(edgeemo_model *model, const void *data, size_t size) {
  const char *problem = NULL;
  unsigned char digest[32];
  model->manifest_text = malloc(size + 1);
  if (model->manifest_text == NULL) return ee_fail(EDGEEMO_NO_MEMORY, "%s: does not fit this machine's memory", model->name);
  if (size > 0) memcpy(model->manifest_text, data, size);
  model->manifest_text[size] = 0;
  ee_sha256(data, size, digest);
  model->tokens = ee_json_read(model->manifest_text, size, &problem);
  if (model->tokens == NULL)
    return ee_fail(EDGEEMO_DAMAGED, "%s: has no readable manifest.json (%s); is it an edgeemo artifact?", model->name, problem);
  const edgeemo_status status = ee_check_manifest(model->name, model->tokens, &model->manifest);
  if (status == EDGEEMO_OK)
    snprintf(model->version, sizeof model->version, "%s-%02x%02x%02x%02x", model->manifest.created, digest[0], digest[1], digest[2],
             digest[3]);
  return status;
}

static edgeemo_status ee_no_function(const edgeemo_model *model, const char *function) {
  return ee_fail(EDGEEMO_BAD_CODE, "%s: its library has no function %s; compile it again", model->name, function);
}

static edgeemo_status ee_load_functions(edgeemo_model *model, const ee_bytes *library) {
  const ee_manifest *m = &model->manifest;
  const edgeemo_status status = ee_load_code(model->name, library, &model->code);
  if (status != EDGEEMO_OK) return status;
  model->step = ee_find(&model->code, m->function);
  if (model->step == NULL) return ee_no_function(model, m->function);
  if (m->intake == NULL) return EDGEEMO_OK;
  model->intake = ee_find(&model->code, m->intake);
  model->decide = ee_find(&model->code, m->decide);
  if (model->intake == NULL) return ee_no_function(model, m->intake);
  return model->decide == NULL ? ee_no_function(model, m->decide) : EDGEEMO_OK;
}

/* Everything that is checked of an archive in `model->archive`. */
static edgeemo_status ee_check_archive(edgeemo_model *model, const ee_bytes *signature, bool exposed, const edgeemo_load_options *options) {
  ee_places places;
  edgeemo_status status = ee_find_members(model->name, &model->archive, &places);
  if (status == EDGEEMO_OK) status = ee_check_trust(model->name, &model->archive, signature, exposed, options);
  if (status == EDGEEMO_OK) status = ee_read_manifest(model, places.manifest.data, places.manifest.size);
  if (status == EDGEEMO_OK) status = ee_check_machine(model->name, &model->manifest);
  if (status != EDGEEMO_OK) return status;
  const char *changed = !ee_sha256_is(places.library.data, places.library.size, model->manifest.library_hash) ? "step.so"
                        : !ee_sha256_is(places.weights.data, places.weights.size, model->manifest.weights_hash) ? "weights.bin"
                                                                                                              : NULL;
  if (changed != NULL)
    return ee_fail(EDGEEMO_DAMAGED, "%s: %s is not what was packed (sha256 differs); copy it again", model->name, changed);
  model->weights = places.weights.data;
  model->weights_size = places.weights.size;
  return ee_load_functions(model, &places.library);
}

static edgeemo_status ee_load_options(const edgeemo_load_options *given, edgeemo_load_options *options) {
  EDGEEMO_INIT(*options);
  return given == NULL ? EDGEEMO_OK : ee_take(options, sizeof *options, given, offsetof(edgeemo_load_options, key_count) + sizeof(size_t),
                                              "options");
}

static edgeemo_status ee_finish_load(edgeemo_model *model, edgeemo_status status, edgeemo_model **out) {
  if (status == EDGEEMO_OK) {
    *out = model;
    ee_say("%s: loaded, version %s", model->name, model->version);
  } else {
    ee_free_model(model);
  }
  return status;
}

edgeemo_status edgeemo_model_load(const char *path, const edgeemo_load_options *given, edgeemo_model **out) {
  edgeemo_load_options options;
  ee_bytes signature = {NULL, 0};
  bool exposed = false, signature_exposed = false;
  char signature_path[4096];
  if (path == NULL || out == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_model_load: path or out is NULL");
  *out = NULL;
  edgeemo_status status = ee_load_options(given, &options);
  if (status != EDGEEMO_OK) return status;
  edgeemo_model *model = ee_new_model(path);
  if (model == NULL) return EDGEEMO_NO_MEMORY;
  const bool folder = ee_is_folder(path);
  status = folder ? ee_read_folder(path, &model->archive, &exposed)
                  : ee_read_file(path, (int64_t)EE_MANIFEST_LIMIT + EE_LIBRARY_LIMIT + EE_WEIGHTS_LIMIT, &model->archive, &exposed);
  if (status == EDGEEMO_OK && options.key_count > 0) {
    const int length = snprintf(signature_path, sizeof signature_path, folder ? "%s/artifact.minisig" : "%s.minisig", path);
    if (length > 0 && (size_t)length < sizeof signature_path)
      status = ee_read_file(signature_path, EE_SIGNATURE_LIMIT, &signature, &signature_exposed);
    if (status == EDGEEMO_NO_FILE) status = EDGEEMO_OK; /* not signed: said by whoever asks for it */
  }
  if (status == EDGEEMO_OK) status = ee_check_archive(model, &signature, exposed, &options);
  ee_free_file(&signature);
  return ee_finish_load(model, status, out);
}

edgeemo_status edgeemo_model_load_memory(const void *data, size_t size, const char *signature, size_t signature_size,
                                         const edgeemo_load_options *given, edgeemo_model **out) {
  edgeemo_load_options options;
  const ee_bytes signed_by = {(unsigned char *)(uintptr_t)signature, signature_size};
  if ((data == NULL && size > 0) || out == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_model_load_memory: data or out is NULL");
  *out = NULL;
  edgeemo_status status = ee_load_options(given, &options);
  if (status != EDGEEMO_OK) return status;
  if (signature_size > EE_SIGNATURE_LIMIT) return ee_fail(EDGEEMO_UNTRUSTED, "the signature has %zu bytes", signature_size);
  edgeemo_model *model = ee_new_model("artifact in memory");
  if (model == NULL) return EDGEEMO_NO_MEMORY;
  unsigned char *room = size > SIZE_MAX / 2 ? NULL : ee_map(size + 2 * EE_MARGIN);
  if (room == NULL) {
    status = ee_fail(EDGEEMO_NO_MEMORY, "%s: does not fit this machine's memory", model->name);
  } else {
    model->archive = (ee_bytes){room + EE_MARGIN, size};
    if (size > 0) memcpy(model->archive.data, data, size);
    status = ee_check_archive(model, &signed_by, false, &options);
  }
  return ee_finish_load(model, status, out);
}

edgeemo_status edgeemo_model_linked(const edgeemo_linked_model *given, edgeemo_model **out) {
  edgeemo_linked_model linked;
  union {
    int (*plain)(void);
    ee_packed packed;
  } function;
  if (given == NULL || out == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_model_linked: linked or out is NULL");
  *out = NULL;
  edgeemo_status status = ee_take(&linked, sizeof linked, given, sizeof linked, "linked");
  if (status != EDGEEMO_OK) return status;
  if (linked.manifest == NULL || (linked.weights == NULL && linked.weights_size > 0))
    return ee_fail(EDGEEMO_INVALID, "edgeemo_model_linked: manifest or weights is NULL");
  edgeemo_model *model = ee_new_model("linked model");
  if (model == NULL) return EDGEEMO_NO_MEMORY;
  status = ee_read_manifest(model, linked.manifest, linked.manifest_size);
  if (status == EDGEEMO_OK) status = ee_check_machine(model->name, &model->manifest);
  model->weights = linked.weights;
  model->weights_size = (size_t)linked.weights_size;
  function.plain = linked.step;
  model->step = function.packed;
  function.plain = linked.intake;
  model->intake = function.packed;
  function.plain = linked.decide;
  model->decide = function.packed;
  if (status == EDGEEMO_OK && (model->step == NULL || (model->manifest.intake != NULL && (model->intake == NULL || model->decide == NULL))))
    status = ee_no_function(model, "step, intake or decide");
  return ee_finish_load(model, status, out);
}

void edgeemo_model_retain(edgeemo_model *model) {
  if (model != NULL) __atomic_add_fetch(&model->owners, 1, __ATOMIC_RELAXED);
}

void edgeemo_model_release(edgeemo_model *model) {
  if (model == NULL || __atomic_sub_fetch(&model->owners, 1, __ATOMIC_ACQ_REL) > 0) return;
  ee_say("%s: let go of, version %s", model->name, model->version);
  ee_free_model(model);
}

edgeemo_status edgeemo_model_get_info(const edgeemo_model *model, edgeemo_model_info *out) {
  if (model == NULL || out == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_model_get_info: model or out is NULL");
  const ee_manifest *m = &model->manifest;
  const edgeemo_model_info info = {sizeof info,
                                   m->is_stream,
                                   (int32_t)m->sample_rate,
                                   (int32_t)m->samples_per_step,
                                   (int32_t)m->ring_samples,
                                   (int32_t)m->label_count,
                                   (int32_t)m->input_count,
                                   (int32_t)m->output_count,
                                   model->version,
                                   m->target_name,
                                   (int64_t)model->weights_size,
                                   m->state_words * (int64_t)sizeof(float),
                                   m->arena_bytes};
  return ee_give(out, &info, sizeof info, sizeof info, "info");
}

const char *edgeemo_model_label(const edgeemo_model *model, int32_t index) {
  if (model == NULL || index < 0 || (uint32_t)index >= model->manifest.label_count) return NULL;
  return model->manifest.labels[index];
}

const char *edgeemo_model_intensity(const edgeemo_model *model, int32_t intensity) {
  if (model == NULL || model->manifest.intensity_label < 0 || intensity < 0 || intensity > 2) return NULL;
  return intensity == 0 ? "" : model->manifest.intensity_names[intensity - 1];
}

edgeemo_status edgeemo_model_get_tensor(const edgeemo_model *model, int32_t output, int32_t index, edgeemo_tensor *out) {
  if (model == NULL || out == NULL) return ee_fail(EDGEEMO_INVALID, "edgeemo_model_get_tensor: model or out is NULL");
  const ee_manifest *m = &model->manifest;
  const uint32_t count = output != 0 ? m->output_count : m->input_count;
  if (index < 0 || (uint32_t)index >= count)
    return ee_fail(EDGEEMO_INVALID, "%s: has %u %ss, none of number %d", model->name, count, output != 0 ? "output" : "input", index);
  const ee_tensor_spec *spec = &m->tensors[(output != 0 ? m->input_count : 0) + (uint32_t)index];
  edgeemo_tensor tensor = {sizeof tensor, spec->dtype, spec->name, spec->bytes, spec->dims, 0, {0}};
  memcpy(tensor.shape, spec->shape, sizeof tensor.shape);
  return ee_give(out, &tensor, sizeof tensor, sizeof tensor, "tensor");
}
