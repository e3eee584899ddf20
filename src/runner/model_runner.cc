#include "runner/model_runner.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "base/log.h"
#include "base/threads.h"
#include "models/models.h"
#include "prompt/context_length.h"

namespace quern::runner {
namespace {

// Rows of logits that are held at once, unless more sequences draw.
constexpr int64_t kRows = 64;

nn::KvType stored_type(const Json& config) {
  const Json text = config.has("text_config") ? config.at("text_config") : config;
  const auto type =
      text.get<std::string>("dtype", text.get<std::string>("torch_dtype", "bfloat16"));
  if (type == "float32") return nn::KvType::fp32;
  return type == "float16" ? nn::KvType::fp16 : nn::KvType::bf16;
}

int64_t longest_of(const Json& config) {
  const int64_t longest = prompt::context_length(config.value());
  if (longest <= 0) fail("{}: max_position_embeddings is missing", config.path());
  return longest;
}

int64_t bytes_of(const nn::Source& source, const nn::Weights& taken) {
  int64_t bytes = 0;
  const auto add = [&](const std::vector<std::string>& names, int64_t sign) {
    for (const std::string& name : names)
      bytes += sign * static_cast<int64_t>(source.files.tensor(name).nbytes());
  };
  add(source.files.names(), 1);
  add(taken.untaken(), -1);
  return bytes;
}

}  // namespace

// ---- start

ModelRunner::ModelRunner(std::shared_ptr<const nn::Source> source,
                         const engine::EngineOptions& options)
    : source_(std::move(source)),
      options_(options),
      model_(models::make_model(source_->files.config())),
      root_(source_) {
  at::NoGradGuard no_grad;
  options_.check(longest_of(source_->files.config()));
  stem_ = model_->stem(root_);
  for (int i = 0; i < model_->blocks(); ++i) blocks_.push_back(model_->block(root_, i));
  head_ = model_->head(root_);
  kv_type_ = options_.kv_type.value_or(stored_type(source_->files.config()));
  probe_ =
      probe({[this](const Tensor& ids, nn::Pass& pass) { return forward(ids, pass); },
             [this](const Tensor& hidden, const auto& rows) { return logits_of(hidden, rows); }},
            options_.max_num_batched_tokens, std::max(options_.max_num_seqs, kRows));
}

ModelRunner::~ModelRunner() = default;

engine::MemoryNeeds ModelRunner::needs() const {
  engine::MemoryNeeds needs{.block_tokens = options_.block_tokens,
                            .windows = probe_->layout.windows(),
                            .state_bytes = probe_->layout.state_bytes(),
                            .longest = longest_of(source_->files.config()),
                            .weights = bytes_of(*source_, root_),
                            .activations = probe_->activations};
  for (int64_t window : needs.windows)
    needs.block_bytes.push_back(options_.block_tokens *
                                probe_->layout.token_bytes(window, kv_type_));
  // Packed weights are arranged anew in memory; the others stay where the files are mapped.
  needs.mapped_weights = std::max<int64_t>(0, needs.weights - private_memory());
  return needs;
}

void ModelRunner::make_caches(const engine::MemoryPlan& plan) {
  QUERN_CHECK(!caches_);
  caches_ = std::make_unique<nn::Caches>(probe_->layout, kv_type_, plan.blocks, plan.block_tokens,
                                         plan.states);
  read_scales();
}

// "...layers.7.self_attn.k_scale" and v_scale, one number for a layer (compressed-tensors'
// kv_cache_scheme).
void ModelRunner::read_scales() {
  if (kv_type_ != nn::KvType::fp8_e4m3) return;
  bool found = false;
  for (const std::string& name : source_->files.names()) {
    const size_t place = name.rfind("layers.");
    if (!nn::is_cache_scale(name) || place == std::string::npos) continue;
    int layer = -1;
    std::from_chars(name.data() + place + 7, name.data() + name.size(), layer);
    if (!caches_->layout().kv.contains(layer)) continue;
    const float scale = source_->files.tensor(name).to(at::kFloat).item<float>();
    if (!(scale > 0)) fail("{}: {} cannot be a scale, which must be above 0", name, scale);
    ops::PagedKv& cache = caches_->kv(layer);
    (name.ends_with(".k_scale") ? cache.k_scale : cache.v_scale) = scale;
    found = true;
  }
  if (!found)
    log_warning(
        "the checkpoint has no scales for an FP8 KV cache; 1.0 is used, which may cost accuracy");
}

// ---- pictures

const nn::Vision& ModelRunner::vision() {
  at::NoGradGuard no_grad;
  if (!vision_) vision_ = model_->vision(nn::Weights(source_));
  if (!vision_) fail(Exit::usage, "this model takes no pictures: it has no vision tower");
  return *vision_;
}

void ModelRunner::add_pictures(int64_t request, std::vector<prompt::ImagePrompt::Image> images) {
  vision();
  const auto media = model_->image_tokens();
  pictures_.try_emplace(request, std::move(images), media && media->by_grid);
}

void ModelRunner::see_pictures(int64_t request) {
  at::NoGradGuard no_grad;
  pictures_.at(request).encode(vision());
}

// ---- passes

Tensor ModelRunner::forward(const Tensor& ids, nn::Pass& pass) const {
  Tensor hidden = (*stem_)(ids, pass);
  for (const auto& block : blocks_) hidden = (*block)(hidden, pass);
  return hidden;
}

Tensor ModelRunner::logits_of(const Tensor& hidden, std::span<const int64_t> rows) const {
  const Tensor places = at::tensor(at::ArrayRef<int64_t>(rows.data(), rows.size()), at::kLong);
  return head_->logits(head_->norm(hidden.index_select(0, places))).contiguous();
}

// Copies between other slots run side by side; one that reads or writes what an earlier one writes,
// or writes what it reads, waits for it.
void ModelRunner::copy_states(std::span<const engine::StateCopy> copies) {
  while (!copies.empty()) {
    size_t count = 0;
    std::vector<int32_t> read, written;
    const auto in = [](const std::vector<int32_t>& slots, int32_t slot) {
      return std::ranges::find(slots, slot) != slots.end();
    };
    for (; count < copies.size(); ++count) {
      const auto [from, to] = copies[count];
      if (in(written, from) || in(written, to) || in(read, to)) break;
      read.push_back(from);
      written.push_back(to);
    }
    parallel_for(static_cast<int64_t>(count), [&](int64_t i) {
      const auto [from, to] = copies[static_cast<size_t>(i)];
      caches_->copy_state(from, to);
    });
    copies = copies.subspan(count);
  }
}

// Positions and soft tokens of the sequences with pictures. If one has positions of three axes, all
// get them.
void ModelRunner::place_pictures(const engine::Batch& batch, nn::Pass& pass) const {
  std::vector<Tensor> tokens, features;
  for (int64_t i = 0; i < batch.sequences(); ++i) {
    const auto index = static_cast<size_t>(i);
    if (batch.pictures[index] < 0) continue;
    const int64_t first = batch.bounds[index], count = batch.bounds[index + 1] - first;
    nn::Pass part = nn::Pass::next(batch.past[index], count, *caches_);
    pictures_.at(batch.pictures[index]).complete(part, batch.past[index], count);
    if (part.positions.dim() == 2 && pass.positions.dim() == 1)
      pass.positions = pass.positions.expand({3, batch.tokens()}).contiguous();
    pass.positions.narrow(-1, first, count).copy_(part.positions);
    if (!part.media.tokens.defined()) continue;
    tokens.push_back(part.media.tokens + first);
    features.push_back(part.media.features);
  }
  if (!tokens.empty()) pass.media = {at::cat(tokens), at::cat(features)};
}

nn::Pass ModelRunner::pass_of(const engine::Batch& batch) {
  nn::Pass pass;
  pass.caches = caches_.get();
  pass.bounds = batch.bounds;
  pass.positions = at::empty({batch.tokens()}, at::kLong);
  int64_t* position = pass.positions.data_ptr<int64_t>();
  bool pictures = false;
  for (size_t i = 0; i < batch.past.size(); ++i) {
    nn::CachePlace& place = pass.places.emplace_back();
    place.past = batch.past[i];
    place.slot = batch.slots[i];
    for (const engine::Batch::Table& table : batch.tables)
      place.tables.push_back(table.blocks.data() + table.begins[i]);
    for (int64_t t = 0; t < batch.bounds[i + 1] - batch.bounds[i]; ++t)
      *position++ = batch.past[i] + t;
    pictures |= batch.pictures[i] >= 0;
  }
  if (pictures) place_pictures(batch, pass);
  return pass;
}

engine::Runner::Ticket ModelRunner::launch(const engine::Batch& batch) {
  // Not InferenceMode: it holds for one thread, and the threads of parallel_for could not write to
  // tensors that were made in it.
  at::NoGradGuard no_grad;
  copy_states(batch.copies);
  nn::Pass pass = pass_of(batch);
  hidden_ = forward(at::tensor(batch.ids, at::kInt).to(at::kLong), pass);
  rows_ = batch.rows;
  return Ticket{++launched_};
}

void ModelRunner::collect(Ticket ticket, const Reader& read) {
  QUERN_CHECK(ticket == Ticket{launched_} && hidden_.defined());
  at::NoGradGuard no_grad;
  const Tensor hidden = std::exchange(hidden_, Tensor());
  const auto most = static_cast<size_t>(std::max(options_.max_num_seqs, kRows));
  for (size_t first = 0; first < rows_.size(); first += most) {
    const auto rows = std::span(rows_).subspan(first, std::min(most, rows_.size() - first));
    const Tensor logits = logits_of(hidden, rows);
    read(static_cast<int64_t>(first),
         {{logits.const_data_ptr<float>(), static_cast<size_t>(logits.numel())}, logits.size(1)});
  }
}

}  // namespace quern::runner
