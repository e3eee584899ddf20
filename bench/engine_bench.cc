// Tokens per second of the engine with several requests at once, the share of a step outside the
// model's arithmetic, and the bytes that a step reads relative to the memory bandwidth of the
// machine. engine_bench MODEL [--batch 1 8 32] [--prompt 64] [--tokens 64] [--threads 2] [--kv
// fp8_e4m3] Prints one JSON line for each batch.
#include <CLI/CLI.hpp>
#include <chrono>
#include <map>

#include "base/random.h"
#include "bench/report.h"
#include "engine/model_engine.h"
#include "models/models.h"
#include "tensor/memory.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class TimedEngine : public engine::ModelEngine {
 public:
  using ModelEngine::ModelEngine;
  mutable double arithmetic_seconds = 0;

 protected:
  Tensor forward(const Tensor& ids, nn::Pass& pass) const override {
    const auto start = Clock::now();
    Tensor hidden = ModelEngine::forward(ids, pass);
    arithmetic_seconds += seconds_since(start);
    return hidden;
  }
  Tensor logits_of(const Tensor& hidden, const std::vector<int64_t>& rows) const override {
    const auto start = Clock::now();
    Tensor logits = ModelEngine::logits_of(hidden, rows);
    arithmetic_seconds += seconds_since(start);
    return logits;
  }
};

// Read bandwidth of all threads together, in bytes per second, for uncached memory.
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
  TimedEngine engine(
      source, {.max_num_seqs = batch, .prefix_caching = false, .kv_type = types.at(options.kv)});
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
  engine.arithmetic_seconds = 0;
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
  bench::print("engine",
               {{"model", options.model},
                {"batch", batch},
                {"prompt_tokens_per_second",
                 std::round(static_cast<double>(batch * options.prompt) / prompt_seconds)},
                {"tokens_per_second", std::round(10 * made / seconds) / 10},
                {"step_ms", bench::spread(steps)},
                {"share_outside_arithmetic",
                 std::round(1000 * (1 - engine.arithmetic_seconds / seconds)) / 1000},
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
  app.add_option("MODEL", options.model)->required();
  app.add_option("--batch", options.batches);
  app.add_option("--prompt", options.prompt);
  app.add_option("--tokens", options.tokens);
  app.add_option("--threads", options.threads);
  app.add_option("--kv", options.kv)->check(CLI::IsMember({"auto", "fp32", "bf16", "fp8_e4m3"}));
  CLI11_PARSE(app, argc, argv);
  quern::prepare_torch();
  quern::set_threads(options.threads);
  const auto source = std::make_shared<const quern::nn::Source>(options.model);
  const double bandwidth = quern::read_bandwidth();
  for (int64_t batch : options.batches) quern::measure(options, source, batch, bandwidth);
}
