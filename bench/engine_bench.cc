// Tokens per second of the engine with several requests at once, the share of a step that is not
// the model's arithmetic, and what a step reads against what this machine's memory delivers.
//   engine_bench MODEL [--batch 1 8 32] [--prompt 64] [--tokens 64] [--threads 2] [--kv fp8_e4m3]
// Prints one JSON line for each batch. Without MODEL: what the engine itself takes of a step, by
// the number of sequences.
#include <CLI/CLI.hpp>
#include <chrono>
#include <map>

#include "base/random.h"
#include "bench/report.h"
#include "models/models.h"
#include "runner/model_engine.h"
#include "tensor/memory.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A model whose arithmetic is timed.
class TimedRunner : public runner::ModelRunner {
 public:
  TimedRunner(const std::shared_ptr<const nn::Source>& source, const engine::EngineOptions& options,
              double& seconds)
      : ModelRunner(source, options), seconds_(seconds) {}

  Ticket launch(const engine::Batch& batch) override {
    const auto start = Clock::now();
    const Ticket ticket = ModelRunner::launch(batch);
    seconds_ += seconds_since(start);
    return ticket;
  }
  void collect(Ticket ticket, const Reader& read) override {
    auto start = Clock::now();
    ModelRunner::collect(ticket, [&](int64_t first, const engine::Logits& logits) {
      seconds_ += seconds_since(start);
      read(first, logits);
      start = Clock::now();
    });
    seconds_ += seconds_since(start);
  }

 private:
  double& seconds_;
};

// No arithmetic at all: what is left of a step is the engine itself. Shaped like a model with
// layers that see all, layers with a window, and recurrent ones.
class NoModel : public engine::Runner {
 public:
  explicit NoModel(int64_t most_rows)
      : logits_(static_cast<size_t>(most_rows * kVocabulary), 0.0f) {
    for (size_t i = 7; i < logits_.size(); i += kVocabulary) logits_[i] = 1;
  }

  int64_t vocabulary() const override { return kVocabulary; }
  engine::MemoryNeeds needs() const override {
    return {.windows = {0, 1024},
            .block_bytes = {1, 1},
            .state_bytes = 1,
            .longest = 1 << 20,
            .weights = 1,
            .mapped_weights = 0,
            .activations = 1};
  }
  void make_caches(const engine::MemoryPlan&) override {}
  Ticket launch(const engine::Batch& batch) override {
    rows_ = batch.rows.size();
    return {};
  }
  void collect(Ticket, const Reader& read) override {
    read(0, {std::span(logits_).first(rows_ * kVocabulary), kVocabulary});
  }
  void add_pictures(int64_t, std::vector<prompt::ImagePrompt::Image>) override {}
  void see_pictures(int64_t) override {}
  void drop_pictures(int64_t) override {}

 private:
  static constexpr int64_t kVocabulary = 64;
  std::vector<float> logits_;
  size_t rows_ = 0;
};

// Microseconds that a step takes outside of the model for each sequence that gets a token.
void measure_overhead(int64_t batch) {
  constexpr int64_t kPrompt = 512, kTokens = 64;
  engine::BatchingEngine engine(std::make_unique<NoModel>(batch),
                                {.max_num_seqs = batch,
                                 .max_num_batched_tokens = batch + 8192,
                                 .kv_bytes = 256 << 20,
                                 .ids = 32});
  NumpyRandom random(1);
  for (int64_t i = 0; i < batch; ++i) {
    engine::Request request{.max_tokens = kTokens, .sampling = {.temperature = 0}};
    for (int64_t t = 0; t < kPrompt; ++t)
      request.tokens.push_back(static_cast<int32_t>(random.next() % 32));
    engine.submit(std::move(request));
  }
  while (engine.state().new_tokens < batch) engine.step();
  std::vector<double> steps;
  while (engine.state().running == batch) {
    const auto start = Clock::now();
    engine.step();
    if (engine.state().running == batch)
      steps.push_back(1e6 * seconds_since(start) / static_cast<double>(batch));
  }
  bench::print("engine_overhead",
               {{"sequences", batch}, {"microseconds_per_sequence", bench::spread(steps)}});
}

// Bytes per second at which all threads together read memory that no cache holds.
double read_bandwidth() {
  constexpr int64_t kBytes = int64_t{1} << 30, kPiece = 4 << 20;
  const Tensor memory = zero_pages({kBytes / 8}, at::kLong);
  memory.data_ptr<int64_t>();
  const_cast<Tensor&>(memory).fill_(1);
  const int64_t* words = memory.const_data_ptr<int64_t>();
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    std::vector<int64_t> sums(static_cast<size_t>(kBytes / kPiece));
    const auto start = Clock::now();
    parallel_for(kBytes / kPiece, [&](int64_t piece) {
      int64_t sum = 0;
      for (int64_t i = piece * kPiece / 8; i < (piece + 1) * kPiece / 8; ++i) sum += words[i];
      sums[static_cast<size_t>(piece)] = sum;
    });
    best = std::max(best, static_cast<double>(kBytes) / seconds_since(start));
  }
  return best;
}

// Whether a step of text never reads the tensor: towers of pictures and sounds, a draft layer.
bool beside_the_text(const std::string& name, const std::string& draft) {
  for (const char* tower : {"visual", "vision", "audio"})
    if (name.find(tower) != std::string::npos) return true;
  return !draft.empty() && name.starts_with(draft + ".");
}

// Bytes of weights that a step with one token of each of `batch` sequences reads: everything except
// the embedding (unless it is also the head), and the expected number of experts if every token
// chooses at random.
double bytes_per_step(const std::shared_ptr<const nn::Source>& source, int64_t batch) {
  const Json config = source->files.config();
  const Json text = config.has("text_config") ? config.at("text_config") : config;
  const double experts = text.get<double>("num_experts", text.get<double>("n_routed_experts", 1)),
               chosen = text.get<double>("num_experts_per_tok", experts),
               touched = 1 - std::pow(1 - chosen / experts, static_cast<double>(batch));
  const bool tied =
      text.get<bool>("tie_word_embeddings", config.get<bool>("tie_word_embeddings", false));
  const auto model = models::make_model(config);
  const std::string draft = model->draft_path(nn::Weights(source));
  double bytes = 0;
  for (const std::string& name : source->files.names()) {
    const bool expert = name.find(".experts.") != std::string::npos;
    const bool head = tied && name.ends_with("embed_tokens.weight");
    if ((nn::is_embedding_table(name.substr(0, name.rfind('.'))) && !head) ||
        beside_the_text(name, draft))
      continue;
    bytes += static_cast<double>(source->files.tensor(name).nbytes()) * (expert ? touched : 1.0);
  }
  return bytes;
}

struct Options {
  std::string model;
  std::vector<int64_t> batches = {1, 8, 32};
  int64_t prompt = 64, tokens = 64;
  int threads = 2;
  std::string kv = "auto";
};

void measure(const Options& options, const std::shared_ptr<const nn::Source>& source, int64_t batch,
             double bandwidth) {
  const std::map<std::string, std::optional<nn::KvType>> types = {
      {"auto", std::nullopt},
      {"fp32", nn::KvType::fp32},
      {"bf16", nn::KvType::bf16},
      {"fp8_e4m3", nn::KvType::fp8_e4m3}};
  const engine::EngineOptions wanted{
      .max_num_seqs = batch, .prefix_caching = false, .kv_type = types.at(options.kv)};
  double arithmetic_seconds = 0;
  engine::BatchingEngine engine(std::make_unique<TimedRunner>(source, wanted, arithmetic_seconds),
                                wanted);
  NumpyRandom random(1);
  for (int64_t i = 0; i < batch; ++i) {
    engine::Request request{.max_tokens = options.tokens,
                            .min_tokens = options.tokens,
                            .sampling = {.temperature = 1, .top_k = 20, .top_p = 0.95}};
    for (int64_t t = 0; t < options.prompt; ++t)
      request.tokens.push_back(
          static_cast<int32_t>(random.next() % static_cast<uint64_t>(engine.limits().vocabulary)));
    engine.submit(std::move(request));
  }
  const auto start = Clock::now();
  while (engine.state().new_tokens < batch) engine.step();
  const double prompt_seconds = seconds_since(start);
  arithmetic_seconds = 0;
  const int64_t before = engine.state().new_tokens;
  std::vector<double> steps;
  const auto decode = Clock::now();
  while (!engine.idle()) {
    const auto step = Clock::now();
    engine.step();
    steps.push_back(seconds_since(step));
  }
  const double seconds = seconds_since(decode);
  const auto made = static_cast<double>(engine.state().new_tokens - before);
  for (double& s : steps) s *= 1000;
  std::ranges::sort(steps);
  const double bytes = bytes_per_step(source, batch);
  bench::print(
      "engine",
      {{"model", options.model},
       {"batch", batch},
       {"prompt_tokens_per_second",
        std::round(static_cast<double>(batch * options.prompt) / prompt_seconds)},
       {"tokens_per_second", std::round(10 * made / seconds) / 10},
       {"step_ms", bench::spread(steps)},
       {"share_outside_arithmetic", std::round(1000 * (1 - arithmetic_seconds / seconds)) / 1000},
       {"read_gb_per_second", std::round(bandwidth / 1e8) / 10},
       {"weight_mb_per_step", std::round(bytes / 1e5) / 10},
       {"share_of_read_bandwidth",
        std::round(1e6 * bytes / steps[steps.size() / 2] / bandwidth) / 1000}});
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  quern::Options options;
  CLI::App app;
  app.add_option("MODEL", options.model);
  app.add_option("--batch", options.batches);
  app.add_option("--prompt", options.prompt);
  app.add_option("--tokens", options.tokens);
  app.add_option("--threads", options.threads);
  app.add_option("--kv", options.kv)->check(CLI::IsMember({"auto", "fp32", "bf16", "fp8_e4m3"}));
  CLI11_PARSE(app, argc, argv);
  quern::prepare_torch();
  quern::set_threads(options.threads);
  if (options.model.empty()) {
    for (int64_t batch : {1, 32, 256, 1024}) quern::measure_overhead(batch);
    return 0;
  }
  const auto source = std::make_shared<const quern::nn::Source>(options.model);
  const double bandwidth = quern::read_bandwidth();
  for (int64_t batch : options.batches) quern::measure(options, source, batch, bandwidth);
}
