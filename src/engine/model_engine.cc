#include "engine/model_engine.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <random>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/threads.h"
#include "engine/joined_pass.h"
#include "models/models.h"

namespace quern::engine {
namespace {

// Rows of logits that are held at once while a prompt is reported.
constexpr int64_t kReportedRows = 64;
constexpr int64_t kKernelTokens = kernels::KvBlock::kTokens, kMostBlockTokens = 1024;

nn::KvType stored_type(const Json& config) {
  const Json text = config.has("text_config") ? config.at("text_config") : config;
  const auto type =
      text.get<std::string>("dtype", text.get<std::string>("torch_dtype", "bfloat16"));
  if (type == "float32") return nn::KvType::fp32;
  return type == "float16" ? nn::KvType::fp16 : nn::KvType::bf16;
}

int64_t longest_of(const Json& config) {
  const Json text = config.has("text_config") ? config.at("text_config") : config;
  return text.get<int64_t>("max_position_embeddings");
}

uint64_t random_word() {
  std::random_device source;
  return uint64_t{source()} << 32 | source();
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

// Prompts with other pictures are other prompts, though their tokens may be equal.
std::string salt_of(const Request& request) {
  std::string salt = request.cache_salt;
  for (const auto& image : request.images) {
    const Tensor values = image.patches.values.contiguous();
    salt += '\n';
    salt += sha256({static_cast<const char*>(values.const_data_ptr()), values.nbytes()});
  }
  return salt;
}

// One for each request.
Update& update_of(int64_t request, std::vector<Update>& updates) {
  const auto found = std::ranges::find(updates, request, &Update::request);
  return found != updates.end() ? *found : updates.emplace_back(Update{.request = request});
}

std::span<const float> row_of(const Tensor& logits, int64_t row) {
  return {logits.const_data_ptr<float>() + row * logits.size(1),
          static_cast<size_t>(logits.size(1))};
}

}  // namespace

// A sequence that gets a token, and the token.
struct ModelEngine::Drawing {
  Sequence* sequence;
  Sampler::Drawn drawn = {};
};

// ---- start

ModelEngine::ModelEngine(std::shared_ptr<const nn::Source> source, const EngineOptions& options)
    : source_(std::move(source)),
      options_(options),
      model_(models::make_model(source_->files.config())),
      seed_(options.seed.value_or(random_word())) {
  at::NoGradGuard no_grad;
  check_options();
  const nn::Weights root(source_);
  stem_ = model_->stem(root);
  for (int i = 0; i < model_->blocks(); ++i) blocks_.push_back(model_->block(root, i));
  head_ = model_->head(root);
  const int64_t vocabulary = model_->vocabulary();
  if (options_.ids <= 0 || options_.ids > vocabulary) options_.ids = vocabulary;
  kv_type_ = options_.kv_type.value_or(stored_type(source_->files.config()));
  const Probe found =
      probe({[this](const Tensor& ids, nn::Pass& pass) { return forward(ids, pass); },
             [this](const Tensor& hidden, const auto& rows) { return logits_of(hidden, rows); }},
            options_.max_num_batched_tokens, std::max(options_.max_num_seqs, kReportedRows));
  plan_ = plan_memory(needs(root, found),
                      {.cache_bytes = options_.kv_bytes,
                       .utilization = options_.memory_share,
                       .max_model_len = options_.max_model_len,
                       .max_num_seqs = options_.max_num_seqs,
                       .max_num_batched_tokens = options_.max_num_batched_tokens,
                       .blocks = options_.kv_blocks,
                       .prefix_caching = options_.prefix_caching},
                      machine_memory());
  make_caches(found.layout);
  limits_ = {.vocabulary = vocabulary,
             .max_model_len = plan_.max_model_len,
             .max_num_seqs = options_.max_num_seqs,
             .max_num_batched_tokens = options_.max_num_batched_tokens,
             .block_tokens = options_.block_tokens,
             .kv_tokens = plan_.kv_tokens,
             .prefix_caching = options_.prefix_caching,
             .priorities = options_.policy == Policy::priority};
}

ModelEngine::~ModelEngine() = default;

void ModelEngine::check_options() const {
  if (options_.max_num_seqs < 1 || options_.max_num_batched_tokens < options_.max_num_seqs)
    fail(Exit::usage,
         "max_num_batched_tokens is {} and max_num_seqs {}: a pass must have room for a token of "
         "each sequence",
         options_.max_num_batched_tokens, options_.max_num_seqs);
  const int64_t longest = longest_of(source_->files.config());
  if (options_.max_model_len > longest)
    fail(Exit::usage, "max_model_len is {}, but the model was made for {} tokens at most",
         options_.max_model_len, longest);
  if (options_.block_tokens < kKernelTokens || options_.block_tokens > kMostBlockTokens ||
      options_.block_tokens % kKernelTokens != 0)
    fail(
        Exit::usage,
        "block_size is {}, it must be a multiple of {}, which are the tokens that the kernels read "
        "at once, and {} at most",
        options_.block_tokens, kKernelTokens, kMostBlockTokens);
}

MemoryNeeds ModelEngine::needs(const nn::Weights& taken, const Probe& probe) const {
  MemoryNeeds needs{.block_tokens = options_.block_tokens,
                    .windows = probe.layout.windows(),
                    .state_bytes = probe.layout.state_bytes(),
                    .longest = longest_of(source_->files.config()),
                    .weights = bytes_of(*source_, taken),
                    .activations = probe.activations};
  for (int64_t window : needs.windows)
    needs.block_bytes.push_back(options_.block_tokens * probe.layout.token_bytes(window, kv_type_));
  // Packed weights are arranged anew in memory; the others stay where the files are mapped.
  needs.mapped_weights = std::max<int64_t>(0, needs.weights - private_memory());
  // Each thread draws from a copy of its row, and from what the rules leave of it.
  needs.activations +=
      threads() * model_->vocabulary() * static_cast<int64_t>(sizeof(float) + sizeof(Choice));
  return needs;
}

void ModelEngine::make_caches(const nn::CacheLayout& layout) {
  caches_ = std::make_unique<nn::Caches>(layout, kv_type_, plan_.blocks, plan_.block_tokens,
                                         plan_.states);
  read_scales();
  CachePool::Options pool{.block_tokens = plan_.block_tokens,
                          .groups = {},
                          .states = plan_.states,
                          .prefix_caching = options_.prefix_caching};
  const std::vector<int64_t> windows = layout.windows();
  for (size_t g = 0; g < windows.size(); ++g) pool.groups.push_back({windows[g], plan_.blocks[g]});
  // Never from the seed: who knows it could find prompts that collide.
  const PrefixTree::Key secret = {random_word(), random_word()};
  pool_ = std::make_unique<CachePool>(
      pool, PrefixTree(plan_.block_tokens, secret),
      [this](int32_t from, int32_t to) { caches_->copy_state(from, to); });
  scheduler_ = std::make_unique<Scheduler>(
      Scheduler::Options{.max_num_seqs = options_.max_num_seqs,
                         .max_num_batched_tokens = options_.max_num_batched_tokens,
                         .policy = options_.policy,
                         .long_prefill_tokens = options_.long_prefill_tokens},
      *pool_);
}

// "...layers.7.self_attn.k_scale" and v_scale, one number for a layer (compressed-tensors'
// kv_cache_scheme).
void ModelEngine::read_scales() {
  if (kv_type_ != nn::KvType::fp8_e4m3) return;
  bool found = false;
  for (const std::string& name : source_->files.names()) {
    const size_t place = name.rfind("layers.");
    if (!nn::is_cache_scale(name) || place == std::string::npos) continue;
    int layer = -1;
    std::from_chars(name.data() + place + 7, name.data() + name.size(), layer);
    if (!caches_->layout().kv.contains(layer)) continue;
    const float scale = source_->files.tensor(name).to(at::kFloat).item<float>();
    if (!(scale > 0)) fail("{}: a scale of {} is no scale", name, scale);
    ops::PagedKv& cache = caches_->kv(layer);
    (name.ends_with(".k_scale") ? cache.k_scale : cache.v_scale) = scale;
    found = true;
  }
  if (!found)
    log_warning(
        "the checkpoint has no scales for an FP8 KV cache; 1.0 is used, which may cost accuracy");
}

// ---- requests

const nn::Vision& ModelEngine::vision() {
  at::NoGradGuard no_grad;
  if (!vision_) vision_ = model_->vision(nn::Weights(source_));
  if (!vision_) fail(Exit::usage, "this model takes no pictures: it has no vision tower");
  return *vision_;
}

int64_t ModelEngine::submit(Request request) {
  check(request, limits_);
  if (!request.images.empty()) vision();
  const auto media = model_->image_tokens();
  request.cache_salt = salt_of(request);
  active_.try_emplace(submitted_,
                      Sampler(request, options_.ids, options_.logprobs_mode,
                              seed_of_request(seed_, static_cast<uint64_t>(submitted_))),
                      SequenceImages(std::exchange(request.images, {}), media && media->by_grid),
                      std::vector<TokenReport>());
  scheduler_->add(std::make_unique<Sequence>(submitted_, std::move(request)));
  return submitted_++;
}

void ModelEngine::cancel(int64_t request) {
  const auto found = active_.find(request);
  if (found != active_.end()) found->second.cancelled = true;
}

void ModelEngine::end(int64_t request) {
  scheduler_->remove(request);
  active_.erase(request);
}

void ModelEngine::end_with(const std::exception& error, int64_t request,
                           std::vector<Update>& updates) {
  Update& update = update_of(request, updates);
  update.finish = Finish::error;
  update.error = error.what();
  end(request);
}

std::vector<Update> ModelEngine::end_cancelled() {
  std::vector<Update> updates;
  for (const auto& [id, active] : active_)
    if (active.cancelled) updates.push_back({.request = id, .finish = Finish::cancelled});
  for (const Update& update : updates) end(update.request);
  return updates;
}

// ---- steps

std::vector<Update> ModelEngine::step() {
  // Not InferenceMode: it holds for one thread, and the threads of parallel_for could not write to
  // tensors that were made in it.
  at::NoGradGuard no_grad;
  const auto start = std::chrono::steady_clock::now();
  std::vector<Update> updates = end_cancelled();
  std::vector<Slice> slices = scheduler_->next();
  see_pictures(slices, updates);
  if (slices.empty()) return updates;
  std::vector<int64_t> requests;  // by number, because some may have ended before something fails
  for (const Slice& slice : slices) requests.push_back(slice.sequence->id);
  try {
    run(slices, updates);
  } catch (const std::exception& error) {
    ++state_.failed_steps;
    for (int64_t request : requests)
      if (active_.contains(request)) end_with(error, request, updates);
  }
  ++state_.steps;
  state_.step_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return updates;
}

void ModelEngine::see_pictures(std::vector<Slice>& slices, std::vector<Update>& updates) {
  std::erase_if(slices, [&](const Slice& slice) {
    const int64_t id = slice.sequence->id;
    SequenceImages& images = active_.at(id).images;
    if (images.empty()) return false;
    try {
      images.encode(vision());
      return false;
    } catch (const std::exception& error) {
      end_with(error, id, updates);
      return true;
    }
  });
}

void ModelEngine::run(const std::vector<Slice>& slices, std::vector<Update>& updates) {
  std::vector<int64_t> ids;
  for (const auto& [sequence, count] : slices)
    for (int64_t i = 0; i < count; ++i)
      ids.push_back(sequence->tokens[static_cast<size_t>(sequence->computed + i)]);
  nn::Pass pass = pass_of(slices);
  const Tensor hidden = forward(at::tensor(ids, at::kLong), pass);
  report_prompts(slices, hidden);
  std::vector<Drawing> drawings = draw(slices, hidden);

  state_.step_tokens = std::ssize(ids);
  for (const Slice& slice : slices) {
    Sequence& sequence = *slice.sequence;
    if (!sequence.begun) update_of(sequence.id, updates).cached_tokens = sequence.computed;
    sequence.begun = true;
    state_.prompt_tokens += sequence.missing() > 1 || sequence.answer().empty() ? slice.tokens : 0;
    state_.recomputed_tokens += sequence.preempted && !slice.last() ? slice.tokens : 0;
    scheduler_->computed(slice);
  }
  std::erase_if(drawings, [this](const Drawing& drawing) {
    return active_.at(drawing.sequence->id).error.has_value();
  });
  for (const Slice& slice : slices) end_failed(*slice.sequence, updates);
  for (Drawing& drawing : drawings) deliver(drawing, updates);
}

Tensor ModelEngine::forward(const Tensor& ids, nn::Pass& pass) const {
  Tensor hidden = (*stem_)(ids, pass);
  for (const auto& block : blocks_) hidden = (*block)(hidden, pass);
  return hidden;
}

nn::Pass ModelEngine::pass_of(const std::vector<Slice>& slices) {
  std::vector<nn::Pass> parts;
  for (const auto& [sequence, count] : slices) {
    nn::Pass part = nn::Pass::next(sequence->computed, count, *caches_);
    part.places.front().slot = sequence->lease.state;
    for (const auto& table : sequence->lease.tables)
      part.places.front().tables.push_back(table.data());
    const SequenceImages& images = active_.at(sequence->id).images;
    if (!images.empty()) images.complete(part, sequence->computed, count);
    parts.push_back(std::move(part));
  }
  return joined(parts);
}

Tensor ModelEngine::logits_of(const Tensor& hidden, const std::vector<int64_t>& rows) const {
  return head_->logits(head_->norm(hidden.index_select(0, at::tensor(rows, at::kLong))))
      .contiguous();
}

void ModelEngine::guarded(Active& active, const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& error) {
    active.error = error.what();
    active.corrupted = dynamic_cast<const CorruptedLogits*>(&error) != nullptr;
  }
}

void ModelEngine::report_prompts(const std::vector<Slice>& slices, const Tensor& hidden) {
  int64_t first = 0;  // row of the slice
  for (const Slice& slice : slices) {
    Active& active = active_.at(slice.sequence->id);
    if (slice.sequence->request.prompt_logprobs)
      guarded(active, [&] { report_prompt(slice, first, hidden, active); });
    first += slice.tokens;
  }
}

// The logits after token t say how likely token t + 1 was.
void ModelEngine::report_prompt(const Slice& slice, int64_t first_row, const Tensor& hidden,
                                Active& active) {
  const Request& request = slice.sequence->request;
  std::vector<TokenReport>& reports = active.prompt_reports;
  const int64_t begin = slice.sequence->computed,
                end = std::min(begin + slice.tokens, std::ssize(request.tokens) - 1);
  // After a preemption they are there already.
  for (int64_t t = begin; std::ssize(reports) == t && t < end;) {
    const int64_t rows = std::min(kReportedRows, end - t);
    std::vector<int64_t> wanted;
    for (int64_t i = 0; i < rows; ++i) wanted.push_back(first_row + t - begin + i);
    const Tensor logits = logits_of(hidden, wanted);
    reports.resize(static_cast<size_t>(t + rows));
    parallel_for(rows, [&, t](int64_t i) {
      reports[static_cast<size_t>(t + i)] =
          report(row_of(logits, i), request.tokens[static_cast<size_t>(t + i + 1)],
                 *request.prompt_logprobs, options_.logprobs_mode);
    });
    t += rows;
  }
}

std::vector<ModelEngine::Drawing> ModelEngine::draw(const std::vector<Slice>& slices,
                                                    const Tensor& hidden) {
  std::vector<Drawing> drawings;
  std::vector<int64_t> rows;
  int64_t end = 0;
  for (const Slice& slice : slices) {
    end += slice.tokens;
    if (!slice.last()) continue;
    drawings.push_back({slice.sequence});
    rows.push_back(end - 1);
  }
  if (rows.empty()) return drawings;
  const Tensor logits = logits_of(hidden, rows);
  parallel_for(std::ssize(rows), [&](int64_t i) {
    Drawing& drawing = drawings[static_cast<size_t>(i)];
    Active& active = active_.at(drawing.sequence->id);
    guarded(active, [&] {
      drawing.drawn = active.sampler.next(row_of(logits, i), drawing.sequence->answer());
    });
  });
  return drawings;
}

void ModelEngine::deliver(Drawing& drawing, std::vector<Update>& updates) {
  Sequence& sequence = *drawing.sequence;
  Active& active = active_.at(sequence.id);
  Update& update = update_of(sequence.id, updates);
  sequence.tokens.push_back(drawing.drawn.token);
  ++state_.new_tokens;
  state_.corrupted_in_a_row = 0;
  update.tokens = {drawing.drawn.token};
  if (drawing.drawn.report) update.reports = {std::move(*drawing.drawn.report)};
  if (sequence.answer().size() == 1) update.prompt_reports = std::move(active.prompt_reports);
  update.finish = sequence.finish(limits_.max_model_len);
  if (update.finish) end(sequence.id);
}

void ModelEngine::end_failed(Sequence& sequence, std::vector<Update>& updates) {
  const Active& active = active_.at(sequence.id);
  if (!active.error) return;
  if (active.corrupted) {
    // The fault may pass with this step; what it has left in the caches must not outlive it.
    pool_->forget_path(sequence.lease);
    ++state_.corrupted_requests;
    ++state_.corrupted_in_a_row;
  }
  Update& update = update_of(sequence.id, updates);
  update.finish = Finish::error;
  update.error = *active.error;
  end(sequence.id);
}

EngineState ModelEngine::state() const {
  EngineState state = state_;
  state.running = scheduler_->running();
  state.waiting = scheduler_->waiting();
  state.preemptions = scheduler_->preemptions();
  state.prefix_queries = scheduler_->prefix_queries();
  state.prefix_hits = scheduler_->prefix_hits();
  // Groups are in the order of their windows, and layers that see all have window 0.
  const std::vector<int64_t> windows = caches_->layout().windows();
  if (!windows.empty() && windows.front() == 0)
    state.kv_tokens_used = (pool_->blocks(0) - pool_->free_blocks(0)) * limits_.block_tokens;
  return state;
}

}  // namespace quern::engine
