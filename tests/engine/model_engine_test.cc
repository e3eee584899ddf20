// The engine against the goldens of the fixture, and against itself on packed weights.
#include "engine/model_engine.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/safetensors_writer.h"
#include "models/models.h"
#include "quant/config.h"
#include "quant/dequantize.h"
#include "quant/grid.h"

namespace quern::engine {
namespace {

namespace fs = std::filesystem;

fs::path fixture() { return fs::path(QUERN_SOURCE_DIR) / "tests/data/qwen36"; }

struct Answer {
  std::vector<int32_t> tokens;
  std::optional<Finish> finish;
  int updates = 0;
};

std::map<int64_t, Answer> run(Engine& engine) {
  std::map<int64_t, Answer> answers;
  while (!engine.idle()) {
    for (const Update& update : engine.step()) {
      Answer& answer = answers[update.request];
      EXPECT_FALSE(answer.finish) << "an update after the last one";
      answer.tokens.insert(answer.tokens.end(), update.tokens.begin(), update.tokens.end());
      answer.finish = update.finish;
      ++answer.updates;
    }
  }
  return answers;
}

class EngineTest : public testing::Test {
 protected:
  EngineTest() : golden_(fixture() / "golden.safetensors") { prepare_torch(); }

  std::vector<int32_t> ids(const std::string& name) const {
    const Tensor tensor = golden_.tensor(name).contiguous();
    return {tensor.const_data_ptr<int32_t>(), tensor.const_data_ptr<int32_t>() + tensor.numel()};
  }
  Request greedy(int prompt, int64_t max_tokens = 24) const {
    return {.tokens = ids("p" + std::to_string(prompt) + ".input_ids"),
            .max_tokens = max_tokens,
            .sampling = {.temperature = 0}};
  }
  std::vector<int32_t> expected(int prompt) const {
    return ids("p" + std::to_string(prompt) + ".greedy_ids");
  }

  checkpoint::SafetensorsFile golden_;
};

TEST_F(EngineTest, GreedyContinuations) {
  ModelEngine engine(std::make_shared<nn::Source>(fixture()));
  for (int prompt = 0; prompt < 3; ++prompt) engine.submit(greedy(prompt));
  const auto answers = run(engine);
  ASSERT_EQ(answers.size(), 3u);
  for (int prompt = 0; prompt < 3; ++prompt) {
    EXPECT_EQ(answers.at(prompt).tokens, expected(prompt)) << "prompt " << prompt;
    EXPECT_EQ(answers.at(prompt).finish, Finish::length);
  }
}

TEST_F(EngineTest, PromptsInChunks) {
  for (int64_t chunk : {1, 7, 69, 70}) {
    ModelEngine engine(std::make_shared<nn::Source>(fixture()), {.max_num_batched_tokens = chunk});
    const int64_t request = engine.submit(greedy(2));
    const Answer answer = run(engine).at(request);
    EXPECT_EQ(answer.tokens, expected(2)) << "chunks of " << chunk;
    EXPECT_EQ(answer.updates, (70 + chunk - 1) / chunk + 23) << "chunks of " << chunk;
  }
}

TEST_F(EngineTest, StopIdIsTheLastToken) {
  ModelEngine engine(std::make_shared<nn::Source>(fixture()));
  Request request = greedy(1);
  const int32_t stop = expected(1)[5];
  request.stop_ids = {stop};
  const int64_t id = engine.submit(request);
  const Answer answer = run(engine).at(id);
  const auto all = expected(1);
  const auto first = std::find(all.begin(), all.end(), stop);
  EXPECT_EQ(answer.tokens, std::vector<int32_t>(all.begin(), first + 1));
  EXPECT_EQ(answer.finish, Finish::stop);
}

TEST_F(EngineTest, EqualSeedsGiveEqualAnswers) {
  ModelEngine engine(std::make_shared<nn::Source>(fixture()));
  Request request = greedy(0);
  request.sampling = {.temperature = 2, .seed = 11};
  engine.submit(request);
  engine.submit(request);
  request.sampling.seed = 12;
  engine.submit(request);
  const auto answers = run(engine);
  EXPECT_EQ(answers.at(0).tokens, answers.at(1).tokens);
  EXPECT_NE(answers.at(0).tokens, answers.at(2).tokens);
}

TEST_F(EngineTest, CancelledRequestsEndOnce) {
  ModelEngine engine(std::make_shared<nn::Source>(fixture()));
  const int64_t running = engine.submit(greedy(0)), waiting = engine.submit(greedy(1)),
                last = engine.submit(greedy(2, 1));
  engine.step();
  engine.cancel(running);
  engine.cancel(waiting);
  engine.cancel(waiting);
  const auto answers = run(engine);
  EXPECT_EQ(answers.at(running).finish, Finish::cancelled);
  EXPECT_EQ(answers.at(waiting).finish, Finish::cancelled);
  EXPECT_EQ(answers.at(last).finish, Finish::length);
  EXPECT_EQ(answers.at(last).tokens, std::vector<int32_t>{expected(2)[0]});
  engine.cancel(last);
  EXPECT_TRUE(engine.step().empty());
}

TEST_F(EngineTest, IdsBeyondTheTokenizerAreNotDrawn) {
  const int64_t ids = expected(0)[0];  // the golden's first choice is the first that is not allowed
  ModelEngine engine(std::make_shared<nn::Source>(fixture()), {.ids = ids});
  engine.submit(greedy(0));
  const auto answers = run(engine);
  ASSERT_EQ(answers.at(0).tokens.size(), 24u);
  for (int32_t id : answers.at(0).tokens) EXPECT_LT(id, ids);
}

TEST_F(EngineTest, RefusesBadRequests) {
  ModelEngine engine(std::make_shared<nn::Source>(fixture()));
  EXPECT_THROW(engine.submit({.tokens = {}}), Error);
  EXPECT_THROW(engine.submit({.tokens = {1, 512}}), Error);
  EXPECT_THROW(engine.submit({.tokens = {-1}}), Error);
  EXPECT_THROW(engine.submit({.tokens = {1}, .max_tokens = 0}), Error);
  EXPECT_THROW(engine.submit({.tokens = {1}, .sampling = {.temperature = -1}}), Error);
  EXPECT_TRUE(engine.idle());
}

// The fixture rounded to nearest twice: packed, and as the numbers that the codes stand for.
class PackedTest : public EngineTest {
 protected:
  PackedTest() : folder_(fs::temp_directory_path() / "quern-engine-packed-test") {
    fs::remove_all(folder_);
    const auto source = std::make_shared<nn::Source>(fixture());
    const auto model = models::make_model(source->files.config());
    std::vector<nn::LinearSite> sites;
    const nn::Weights root = nn::Weights(source).listing(&sites);
    for (int i = 0; i < model->blocks(); ++i) model->block(root, i);
    std::vector<std::pair<std::string, Tensor>> packed, dense;
    std::vector<quant::ModuleScheme> modules;
    std::set<std::string> replaced;
    for (const nn::LinearSite& site : sites) {
      const bool quantized = site.role == nn::Role::ordinary && site.weight.rows() >= 64;
      modules.push_back({site.name, std::nullopt});
      const Tensor weight = site.weight.dense()->matrices.at(site.matrix);
      if (quantized) {
        const quant::Scheme scheme{.group_size = 32, .scale_dtype = at::kHalf};
        const auto rounded =
            quant::round_to_nearest(weight, scheme, {.grid = quant::Grid::auto_round});
        modules.back().scheme = scheme;
        for (auto& tensor : quant::to_disk(site.name, rounded, quant::Format::auto_round))
          packed.push_back({tensor.first, tensor.second.contiguous()});
        dense.emplace_back(site.name + ".weight", quant::dequantize(rounded, at::kFloat));
      } else {
        packed.emplace_back(site.name + ".weight", weight.contiguous());
        dense.push_back(packed.back());
      }
      replaced.insert(site.source);
    }
    for (const std::string& name : source->files.names()) {
      if (replaced.contains(name)) continue;
      packed.emplace_back(name, source->files.tensor(name));
      dense.push_back(packed.back());
    }
    JsonValue config = read_json(fixture() / "config.json");
    write("dense", dense, config);
    config["quantization_config"] = quant::quantization_config(
        quant::Format::auto_round, modules, {.blocks = {model->blocks_path(nn::Weights(source))}});
    write("packed", packed, config);
  }
  ~PackedTest() override { fs::remove_all(folder_); }

  void write(const char* name, const std::vector<std::pair<std::string, Tensor>>& tensors,
             const JsonValue& config) const {
    fs::create_directories(folder_ / name);
    checkpoint::write_safetensors(folder_ / name / "model.safetensors", tensors);
    write_file(folder_ / name / "config.json", to_text(config));
  }

  std::vector<std::vector<int32_t>> answers(const char* name) const {
    ModelEngine engine(std::make_shared<nn::Source>(folder_ / name));
    for (int prompt = 0; prompt < 3; ++prompt) engine.submit(greedy(prompt));
    std::vector<std::vector<int32_t>> all;
    for (const auto& [request, answer] : run(engine)) all.push_back(answer.tokens);
    return all;
  }

  fs::path folder_;
};

TEST_F(PackedTest, AnswersAsTheNumbersThatItsCodesStandFor) {
  const auto packed = answers("packed");
  EXPECT_EQ(packed, answers("dense"));
  EXPECT_NE(packed[0], expected(0)) << "rounding to 4 bits should change a random model";
}

}  // namespace
}  // namespace quern::engine
