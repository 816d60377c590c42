// edgeemo.hpp: edgeemo.h for C++17. Handles end with their scope, failures are exceptions. Header only; link libedgeemo.
//
//     edgeemo::Engine engine{edgeemo::Model{"emotion-host.edgeemo"}};
//     edgeemo::Stream call(engine);
//     call.push(samples.data(), samples.size());
//     for (const edgeemo_result &result : engine.step()) std::puts(engine.model().label(result.label));
#ifndef EDGEEMO_HPP
#define EDGEEMO_HPP

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "edgeemo.h"

namespace edgeemo {

// A status that is not EDGEEMO_OK; what() is edgeemo_last_error().
class Error : public std::runtime_error {
 public:
  explicit Error(edgeemo_status status) : std::runtime_error(edgeemo_last_error()), status_(status) {}
  edgeemo_status status() const noexcept { return status_; }

 private:
  edgeemo_status status_;
};

inline void check(edgeemo_status status) {
  if (status != EDGEEMO_OK) throw Error(status);
}

// A struct of edgeemo.h, its size set.
template <typename T>
T made() {
  T it;
  edgeemo_clear(&it, sizeof it);
  return it;
}

// A loaded artifact; copies share it.
class Model {
 public:
  explicit Model(const std::string &path, const std::vector<std::string> &keys = {}, bool allow_writable = false) {
    auto options = made<edgeemo_load_options>();
    std::vector<const char *> texts;
    for (const auto &key : keys) texts.push_back(key.c_str());
    options.keys = texts.data();
    options.key_count = texts.size();
    options.allow_writable = allow_writable ? 1 : 0;
    edgeemo_model *model = nullptr;
    check(edgeemo_model_load(path.c_str(), &options, &model));
    model_.reset(model, edgeemo_model_release);
  }

  explicit Model(const edgeemo_linked_model &linked) {
    edgeemo_model *model = nullptr;
    check(edgeemo_model_linked(&linked, &model));
    model_.reset(model, edgeemo_model_release);
  }

  edgeemo_model *get() const noexcept { return model_.get(); }
  edgeemo_model_info info() const {
    auto info = made<edgeemo_model_info>();
    check(edgeemo_model_get_info(get(), &info));
    return info;
  }
  const char *label(std::int32_t index) const noexcept { return edgeemo_model_label(get(), index); }
  const char *intensity(std::int32_t index) const noexcept { return edgeemo_model_intensity(get(), index); }
  edgeemo_tensor tensor(bool output, std::int32_t index) const {
    auto tensor = made<edgeemo_tensor>();
    check(edgeemo_model_get_tensor(get(), output ? 1 : 0, index, &tensor));
    return tensor;
  }

 private:
  std::shared_ptr<edgeemo_model> model_;
};

inline edgeemo_rules rules(const char *preset = nullptr) {
  auto rules = made<edgeemo_rules>();
  check(edgeemo_rules_defaults(&rules, preset));
  return rules;
}

inline edgeemo_audio_rules audio_rules() {
  auto rules = made<edgeemo_audio_rules>();
  check(edgeemo_audio_rules_defaults(&rules));
  return rules;
}

// Belongs to the thread that made it.
class Engine {
 public:
  explicit Engine(Model model, const edgeemo_engine_options &options = made<edgeemo_engine_options>())
      : model_(std::move(model)), results_(static_cast<std::size_t>(options.max_streams > 0 ? options.max_streams : 64)) {
    edgeemo_engine *engine = nullptr;
    check(edgeemo_engine_create(model_.get(), &options, &engine));
    engine_.reset(engine);
  }

  edgeemo_engine *get() const noexcept { return engine_.get(); }
  const Model &model() const noexcept { return model_; }
  std::int32_t ready(double *since = nullptr) const noexcept { return edgeemo_ready(get(), since); }

  // The answers of one step of every stream that is ready; valid until the next.
  struct Results {
    const edgeemo_result *first, *last;
    const edgeemo_result *begin() const noexcept { return first; }
    const edgeemo_result *end() const noexcept { return last; }
    std::size_t size() const noexcept { return static_cast<std::size_t>(last - first); }
    bool empty() const noexcept { return first == last; }
  };
  Results step() {
    std::size_t answered = 0;
    edgeemo_clear(results_.data(), sizeof(edgeemo_result));
    check(edgeemo_step(get(), results_.data(), results_.size(), &answered));
    return {results_.data(), results_.data() + answered};
  }

  void swap(Model model, bool replay = true) {
    check(edgeemo_engine_swap(get(), model.get(), replay ? 1 : 0));
    model_ = std::move(model);
  }
  void start_canary(const Model &model, double share) { check(edgeemo_engine_start_canary(get(), model.get(), share)); }
  void end_canary(bool promote, bool replay = true) { check(edgeemo_engine_end_canary(get(), promote ? 1 : 0, replay ? 1 : 0)); }
  edgeemo_model_stats model_stats(std::int32_t index) const {
    auto stats = made<edgeemo_model_stats>();
    check(edgeemo_engine_get_model_stats(get(), index, &stats));
    return stats;
  }
  void attach() { check(edgeemo_engine_attach(get())); }
  edgeemo_stats stats() const {
    auto stats = made<edgeemo_stats>();
    check(edgeemo_engine_get_stats(get(), &stats));
    return stats;
  }

 private:
  struct Destroy {
    void operator()(edgeemo_engine *engine) const noexcept { edgeemo_engine_destroy(engine); }
  };
  Model model_;
  std::unique_ptr<edgeemo_engine, Destroy> engine_;
  std::vector<edgeemo_result> results_;
};

// One call; ends with its scope, which must lie within the engine's.
class Stream {
 public:
  explicit Stream(Engine &engine, const char *user = nullptr) : engine_(engine.get()) { check(edgeemo_stream_open_for(engine_, user, &id_)); }
  Stream(Stream &&other) noexcept : engine_(other.engine_), id_(std::exchange(other.id_, EDGEEMO_NO_STREAM)) {}
  Stream(const Stream &) = delete;
  Stream &operator=(const Stream &) = delete;
  Stream &operator=(Stream &&) = delete;
  ~Stream() {
    if (id_ != EDGEEMO_NO_STREAM) edgeemo_stream_close(engine_, id_);
  }

  edgeemo_stream id() const noexcept { return id_; }
  void push(const std::int16_t *samples, std::size_t count, std::int64_t at = EDGEEMO_NO_CLOCK) {
    check(edgeemo_push_s16(engine_, id_, samples, count, at));
  }
  void push(const float *samples, std::size_t count, std::int64_t at = EDGEEMO_NO_CLOCK) {
    check(edgeemo_push_f32(engine_, id_, samples, count, at));
  }
  void push(edgeemo_format format, const void *samples, std::size_t count, std::int64_t at = EDGEEMO_NO_CLOCK, double came = NAN) {
    check(edgeemo_push(engine_, id_, format, samples, count, at, came));
  }
  void finish() { check(edgeemo_stream_finish(engine_, id_)); }
  std::size_t room() const {
    std::size_t count = 0;
    check(edgeemo_stream_room(engine_, id_, &count));
    return count;
  }

 private:
  edgeemo_engine *engine_;
  edgeemo_stream id_ = EDGEEMO_NO_STREAM;
};

// A model that is no stream.
class Function {
 public:
  explicit Function(Model model, std::int32_t max_batch = 1) : model_(std::move(model)) {
    edgeemo_function *function = nullptr;
    check(edgeemo_function_create(model_.get(), max_batch, &function));
    function_.reset(function);
  }
  const Model &model() const noexcept { return model_; }
  void run(std::int32_t batch, const std::vector<const void *> &inputs, const std::vector<void *> &outputs) {
    check(edgeemo_function_run(function_.get(), batch, inputs.data(), outputs.data()));
  }

 private:
  struct Destroy {
    void operator()(edgeemo_function *function) const noexcept { edgeemo_function_destroy(function); }
  };
  Model model_;
  std::unique_ptr<edgeemo_function, Destroy> function_;
};

}  // namespace edgeemo
#endif
