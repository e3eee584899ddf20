// The engine against the goldens of the fixture, and against itself on packed weights.
#include "runner/model_engine.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/random.h"
#include "base/threads.h"
#include "checkpoint/safetensors_writer.h"
#include "models/models.h"
#include "quant/config.h"
#include "quant/dequantize.h"
#include "quant/grid.h"
#include "tests/formats.h"
#include "tests/sanitized.h"

namespace quern::runner {
namespace {

using namespace engine;
namespace fs = std::filesystem;

fs::path fixture() { return fs::path(QUERN_SOURCE_DIR) / "tests/data/qwen36"; }

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<TokenReport> reports, prompt_reports;
  std::optional<int64_t> cached_tokens;
  std::optional<Finish> finish;
  std::string error;
};

void take(const std::vector<Update>& updates, std::map<int64_t, Answer>& answers) {
  for (const Update& update : updates) {
    const bool first = !answers.contains(update.request);
    Answer& answer = answers[update.request];
    EXPECT_FALSE(answer.finish) << "an update after the last one";
    EXPECT_TRUE(first || !update.cached_tokens);
    answer.tokens.insert(answer.tokens.end(), update.tokens.begin(), update.tokens.end());
    answer.reports.insert(answer.reports.end(), update.reports.begin(), update.reports.end());
    if (!update.prompt_reports.empty()) answer.prompt_reports = update.prompt_reports;
    if (update.cached_tokens) answer.cached_tokens = update.cached_tokens;
    answer.finish = update.finish;
    answer.error = update.error;
  }
}

std::map<int64_t, Answer> run(Engine& engine) {
  std::map<int64_t, Answer> answers;
  while (!engine.idle()) take(engine.step(), answers);
  return answers;
}

// The goldens were computed in fp32.
constexpr EngineOptions kExact{.kv_type = nn::KvType::fp32, .kv_bytes = 64 << 20};

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
  ModelEngine engine(std::make_shared<nn::Source>(fixture()), kExact);
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
    EngineOptions options = kExact;
    options.max_num_seqs = 1;
    options.max_num_batched_tokens = chunk;
    ModelEngine engine(std::make_shared<nn::Source>(fixture()), options);
    const int64_t request = engine.submit(greedy(2));
    const Answer answer = run(engine).at(request);
    EXPECT_EQ(answer.tokens, expected(2)) << "chunks of " << chunk;
  }
}

TEST_F(EngineTest, StopIdIsTheLastToken) {
  ModelEngine engine(std::make_shared<nn::Source>(fixture()), kExact);
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
  ModelEngine engine(std::make_shared<nn::Source>(fixture()), kExact);
  Request request = greedy(0);
  request.sampling = {.temperature = 2, .seed = 11};
  engine.submit(request);
  engine.submit(request);
  request.sampling.seed = 12;
  engine.submit(request);
  request.sampling.seed = 11;
  request.sampling.lane = 1;
  engine.submit(request);
  const auto answers = run(engine);
  EXPECT_EQ(answers.at(0).tokens, answers.at(1).tokens);
  EXPECT_NE(answers.at(0).tokens, answers.at(2).tokens);
  EXPECT_NE(answers.at(0).tokens, answers.at(3).tokens);
}

// A server that is started again says the same, to whoever does not ask for a seed.
TEST_F(EngineTest, EqualSeedsOfEnginesGiveEqualAnswersInEqualOrder) {
  auto answers = [&](std::optional<uint64_t> seed, int64_t seqs) {
    EngineOptions options = kExact;
    options.seed = seed;
    options.max_num_seqs = seqs;
    ModelEngine engine(std::make_shared<nn::Source>(fixture()), options);
    for (int i = 0; i < 3; ++i) {
      Request request = greedy(0, 12);
      request.sampling = {.temperature = 2};
      engine.submit(request);
    }
    std::vector<std::vector<int32_t>> all;
    for (const auto& [request, answer] : run(engine)) all.push_back(answer.tokens);
    return all;
  };
  const auto first = answers(7, 3);
  EXPECT_EQ(first, answers(7, 1));
  EXPECT_NE(first[0], first[1]);
  EXPECT_NE(first, answers(8, 3));
  EXPECT_NE(answers(std::nullopt, 3), answers(std::nullopt, 3));
}

// The plan's promise about a step, kept by the largest one.
TEST_F(EngineTest, AStepTakesNoMoreMemoryThanPlanned) {
  if (kSanitized) GTEST_SKIP() << "sanitizers keep what was freed";
  EngineOptions options = kExact;
  options.max_num_seqs = 1;
  options.max_num_batched_tokens = 2048;
  ModelEngine engine(std::make_shared<nn::Source>(fixture()), options);
  Request request{.tokens = std::vector<int32_t>(3000), .max_tokens = 1};
  for (size_t i = 0; i < request.tokens.size(); ++i)
    request.tokens[i] = static_cast<int32_t>(i * 7 % 500);
  engine.submit(request);
  const int64_t taken = growth_during([&] { engine.step(); });
  EXPECT_EQ(engine.state().step_tokens, 2048);
  constexpr int64_t kTouchedCaches = 6 << 20;  // huge pages of the caches that are written first
  EXPECT_GT(taken, 20 << 20);
  EXPECT_LT(taken, engine.plan().activations + kTouchedCaches);
  EXPECT_LT(engine.plan().activations, 4 * taken) << "but not absurdly less";
}

TEST_F(EngineTest, CancelledRequestsEndOnce) {
  ModelEngine engine(std::make_shared<nn::Source>(fixture()), kExact);
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
  EngineOptions options = kExact;
  options.ids = ids;
  ModelEngine engine(std::make_shared<nn::Source>(fixture()), options);
  engine.submit(greedy(0));
  const auto answers = run(engine);
  ASSERT_EQ(answers.at(0).tokens.size(), 24u);
  for (int32_t id : answers.at(0).tokens) EXPECT_LT(id, ids);
}

TEST_F(EngineTest, RefusesBadRequests) {
  ModelEngine engine(std::make_shared<nn::Source>(fixture()), kExact);
  EXPECT_THROW(engine.submit({.tokens = {}}), Error);
  EXPECT_THROW(engine.submit({.tokens = {1, 512}}), Error);
  EXPECT_THROW(engine.submit({.tokens = {-1}}), Error);
  EXPECT_THROW(engine.submit({.tokens = {1}, .max_tokens = 0}), Error);
  EXPECT_THROW(engine.submit({.tokens = {1}, .sampling = {.temperature = -1}}), Error);
  EXPECT_TRUE(engine.idle());
}

TEST_F(EngineTest, PromptIsReportedTokenByToken) {
  ModelEngine engine(std::make_shared<nn::Source>(fixture()), kExact);
  Request request = greedy(2, 3);
  request.logprobs = 2;
  request.prompt_logprobs = 1;
  engine.submit(request);
  const Answer answer = run(engine).at(0);
  ASSERT_EQ(answer.reports.size(), 3u);
  EXPECT_EQ(answer.reports[0].rank, 1);
  EXPECT_EQ(answer.reports[0].top[0].id, answer.tokens[0]);
  ASSERT_EQ(answer.prompt_reports.size(), request.tokens.size() - 1);
  // The same numbers as those of an answer that is made to say the prompt's last tokens.
  Request forced = request;
  forced.prompt_logprobs.reset();
  const int32_t last = request.tokens.back();
  forced.tokens.pop_back();
  forced.max_tokens = 1;
  forced.sampling.allowed_ids = {last};
  engine.submit(forced);
  const Answer said = run(engine).at(1);
  EXPECT_EQ(said.tokens, std::vector<int32_t>{last});
  EXPECT_EQ(said.reports[0].logprob, answer.prompt_reports.back().logprob);
  EXPECT_EQ(said.reports[0].rank, answer.prompt_reports.back().rank);
  EXPECT_GT(said.cached_tokens, 0);
  // Reports need every token's logits.
  engine.submit(request);
  EXPECT_EQ(run(engine).at(2).cached_tokens, 0);
}

TEST_F(EngineTest, TheNextTurnComputesWhatIsNew) {
  ModelEngine engine(std::make_shared<nn::Source>(fixture()), kExact);
  Request request = greedy(2, 20);
  engine.submit(request);
  const auto first = run(engine).at(0).tokens;
  request.tokens.insert(request.tokens.end(), first.begin(), first.end());
  request.tokens.insert(request.tokens.end(), {5, 6, 7});
  engine.submit(request);
  // 70 tokens of prompt and 20 of answer, of which the last was never computed.
  EXPECT_EQ(run(engine).at(1).cached_tokens, 80);
  request.cache_salt = "another key";
  engine.submit(request);
  EXPECT_EQ(run(engine).at(2).cached_tokens, 0);
}

// The model, broken where a test says so.
struct Fault {
  std::function<void(const Batch& batch)> launch = [](const Batch&) {};
  int64_t damaged_row = -1;  // of the pass: its logits are no numbers
};

class BrokenRunner : public ModelRunner {
 public:
  BrokenRunner(const std::shared_ptr<const nn::Source>& source, const EngineOptions& options,
               std::shared_ptr<Fault> fault)
      : ModelRunner(source, options), fault_(std::move(fault)) {}

  Ticket launch(const Batch& batch) override {
    fault_->launch(batch);
    return ModelRunner::launch(batch);
  }
  void collect(Ticket ticket, const Reader& read) override {
    ModelRunner::collect(ticket, [&](int64_t first, const Logits& logits) {
      std::vector<float> values(logits.values.begin(), logits.values.end());
      const int64_t row = fault_->damaged_row - first;
      if (row >= 0 && row < logits.rows())
        std::fill_n(values.begin() + row * logits.vocabulary, logits.vocabulary, NAN);
      read(first, {values, logits.vocabulary});
    });
  }

 private:
  std::shared_ptr<Fault> fault_;
};

struct BrokenEngine : BatchingEngine {
  explicit BrokenEngine(const EngineOptions& options)
      : BrokenEngine(std::make_shared<Fault>(), options) {}
  BrokenEngine(std::shared_ptr<Fault> its, const EngineOptions& options)
      : BatchingEngine(
            std::make_unique<BrokenRunner>(std::make_shared<nn::Source>(fixture()), options, its),
            options),
        fault(std::move(its)) {}

  void damage(int64_t row) { fault->damaged_row = row; }
  void repair() { fault->damaged_row = -1; }

  std::shared_ptr<Fault> fault;
};

TEST_F(EngineTest, AFailedStepEndsItsRequestsOnly) {
  EngineOptions options = kExact;
  options.max_num_seqs = 2;
  BrokenEngine engine(options);
  const int64_t free = engine.pool().free_blocks(0), states = engine.pool().free_states();
  for (int prompt = 0; prompt < 3; ++prompt) engine.submit(greedy(prompt));
  std::map<int64_t, Answer> answers;
  take(engine.step(), answers);
  engine.fault->launch = [](const Batch&) { throw std::runtime_error("out of luck"); };
  take(engine.step(), answers);
  engine.fault->launch = [](const Batch&) {};
  while (!engine.idle()) take(engine.step(), answers);
  for (int64_t id : {0, 1}) {
    EXPECT_EQ(answers.at(id).finish, Finish::error);
    EXPECT_EQ(answers.at(id).error, "out of luck");
  }
  EXPECT_EQ(answers.at(2).tokens, expected(2));
  EXPECT_EQ(engine.pool().free_blocks(0), free);
  EXPECT_EQ(engine.pool().free_states(), states);
  EXPECT_EQ(engine.state().failed_steps, 1);
}

// A state that was to be kept in the step that failed was not, and nobody goes on from it.
TEST_F(EngineTest, AFailedStepLeavesNoStateBehind) {
  BrokenEngine engine(kExact);
  const int64_t first = engine.submit(greedy(2));
  engine.submit(greedy(0));
  std::map<int64_t, Answer> answers;
  take(engine.step(), answers);  // up to the last block of prompt 2, whose state is to be kept
  engine.cancel(first);
  engine.fault->launch = [](const Batch& batch) {
    if (!batch.copies.empty()) throw std::runtime_error("out of luck");
  };
  take(engine.step(), answers);
  ASSERT_EQ(engine.state().failed_steps, 1) << "no copy came with this step";
  engine.fault->launch = [](const Batch&) {};
  const int64_t again = engine.submit(greedy(2));
  EXPECT_EQ(run(engine).at(again).tokens, expected(2));
}

// What a runner is told is all that it needs, and agrees with itself.
TEST_F(EngineTest, BatchesSayWhatIsComputed) {
  EngineOptions options = kExact;
  options.max_num_batched_tokens = 40;
  BrokenEngine engine(options);
  int64_t passes = 0;
  engine.fault->launch = [&](const Batch& batch) {
    ++passes;
    const auto sequences = static_cast<size_t>(batch.sequences());
    ASSERT_EQ(batch.bounds.size(), sequences + 1);
    ASSERT_EQ(std::ssize(batch.ids), batch.tokens());
    ASSERT_LE(batch.tokens(), 40);
    ASSERT_EQ(batch.slots.size(), sequences);
    ASSERT_EQ(batch.pictures, std::vector<int64_t>(sequences, -1));
    ASSERT_EQ(batch.tables.size(), 1u);
    std::set<int32_t> used;
    for (size_t i = 0; i < sequences; ++i) {
      const auto& [blocks, begins] = batch.tables[0];
      const int64_t end = i + 1 < sequences ? begins[i + 1] : std::ssize(blocks);
      ASSERT_GE((end - begins[i]) * 16, batch.past[i] + batch.bounds[i + 1] - batch.bounds[i]);
      for (int64_t b = begins[i]; b < end; ++b)
        ASSERT_TRUE(used.insert(blocks[static_cast<size_t>(b)]).second);
    }
    ASSERT_TRUE(std::ranges::is_sorted(batch.rows));
    for (const int64_t row : batch.rows) ASSERT_LT(row, batch.tokens());
  };
  for (int prompt = 0; prompt < 3; ++prompt) engine.submit(greedy(prompt));
  const auto answers = run(engine);
  for (int prompt = 0; prompt < 3; ++prompt) EXPECT_EQ(answers.at(prompt).tokens, expected(prompt));
  EXPECT_GT(passes, 24);
}

TEST_F(EngineTest, LogitsThatAreNoNumbersEndTheirOwnRequest) {
  BrokenEngine engine(kExact);
  for (int prompt = 0; prompt < 3; ++prompt) engine.submit(greedy(prompt));
  std::map<int64_t, Answer> answers;
  take(engine.step(), answers);
  engine.damage(0);
  take(engine.step(), answers);
  engine.repair();
  while (!engine.idle()) take(engine.step(), answers);
  EXPECT_EQ(answers.at(0).finish, Finish::error);
  EXPECT_NE(answers.at(0).error.find("not numbers"), std::string::npos);
  EXPECT_EQ(answers.at(1).tokens, expected(1));
  EXPECT_EQ(answers.at(2).tokens, expected(2));
}

// What the fault may have left in the caches is not served to whoever asks the same.
TEST_F(EngineTest, NobodyFindsWhatLogitsThatAreNoNumbersLeft) {
  BrokenEngine engine(kExact);
  const int64_t blocks = engine.pool().free_blocks(0), states = engine.pool().free_states();
  engine.damage(0);
  for (int64_t failed = 1; failed <= 2; ++failed) {
    const int64_t request = engine.submit(greedy(2));
    EXPECT_EQ(run(engine).at(request).finish, Finish::error);
    EXPECT_EQ(engine.state().corrupted_requests, failed);
    EXPECT_EQ(engine.state().corrupted_in_a_row, failed);
  }
  EXPECT_EQ(engine.pool().known_blocks(), 0);
  engine.repair();
  for (int64_t cached : {0, 64}) {
    const int64_t request = engine.submit(greedy(2));
    const Answer answer = run(engine).at(request);
    EXPECT_EQ(answer.cached_tokens, cached);
    EXPECT_EQ(answer.tokens, expected(2));
  }
  EXPECT_EQ(engine.state().corrupted_requests, 2);
  EXPECT_EQ(engine.state().corrupted_in_a_row, 0);
  EXPECT_EQ(engine.pool().free_blocks(0), blocks);
  EXPECT_EQ(engine.pool().free_states(), states);
}

// Reports of a prompt read logits too.
TEST_F(EngineTest, AReportThatFailsEndsItsOwnRequest) {
  BrokenEngine engine(kExact);
  Request reported = greedy(0);
  reported.prompt_logprobs = 0;
  engine.submit(greedy(1));
  std::map<int64_t, Answer> answers;
  take(engine.step(), answers);
  engine.submit(reported);
  engine.damage(3);  // the answer's is 0
  take(engine.step(), answers);
  engine.repair();
  while (!engine.idle()) take(engine.step(), answers);
  EXPECT_EQ(answers.at(1).finish, Finish::error);
  EXPECT_EQ(answers.at(0).tokens, expected(1));
  EXPECT_EQ(engine.state().failed_steps, 0);
}

TEST_F(EngineTest, RefusesLengthsThatTheModelOrTheMemoryDoesNotAllow) {
  auto refused = [](const EngineOptions& options, Exit code) -> std::string {
    try {
      ModelEngine(std::make_shared<nn::Source>(fixture()), options);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code);
      return error.what();
    }
    return "";
  };
  EXPECT_NE(refused({.max_model_len = 5000}, Exit::usage).find("4096"), std::string::npos);
  EXPECT_NE(refused({.kv_bytes = int64_t{1} << 50}, Exit::memory).find("--kv-cache-memory-bytes"),
            std::string::npos);
  EXPECT_NE(refused({.max_model_len = 4096, .max_num_seqs = 1, .kv_bytes = 1 << 20}, Exit::memory)
                .find("--max-model-len"),
            std::string::npos);
  EXPECT_NE(refused({.block_tokens = 24}, Exit::usage).find("multiple of 16"), std::string::npos);
  EXPECT_NE(refused({.memory_share = 1e-6}, Exit::memory).find("--gpu-memory-utilization"),
            std::string::npos);
  ModelEngine fits(std::make_shared<nn::Source>(fixture()),
                   {.max_num_seqs = 1, .kv_bytes = 1 << 20});
  EXPECT_LT(fits.limits().max_model_len, 4096);
  EXPECT_THROW(fits.submit({.tokens = std::vector<int32_t>(4000, 1)}), Error);
}

// ---- the same answer alone, in any company, from the cache, and after preemption

struct Company {
  const char* name;
  const char* model;
  nn::KvType kv_type;
  int64_t block_tokens = 16;
};

class CompanyTest : public testing::TestWithParam<Company> {
 public:
  static std::vector<Request> requests(int64_t vocabulary) {
    NumpyRandom random(23);
    auto below = [&](int64_t bound) {
      return static_cast<int64_t>(random.next() % static_cast<uint64_t>(bound));
    };
    std::vector<std::vector<int32_t>> beginnings(3);
    for (auto& beginning : beginnings)
      for (int64_t i = 0; i < 40; ++i)
        beginning.push_back(static_cast<int32_t>(16 + below(vocabulary - 16)));
    std::vector<Request> all;
    for (int i = 0; i < 32; ++i) {
      Request request{.tokens = beginnings[static_cast<size_t>(below(3))],
                      .max_tokens = 1 + below(24),
                      .logprobs = 1};
      request.tokens.resize(static_cast<size_t>(1 + below(40)));
      for (int64_t more = below(30); more > 0; --more)
        request.tokens.push_back(static_cast<int32_t>(16 + below(vocabulary - 16)));
      request.sampling = {.temperature = i % 2 ? 0.0 : 1.2,
                          .top_p = i % 4 ? 1.0 : 0.9,
                          .repetition_penalty = i % 3 ? 1.0 : 1.1,
                          .seed = static_cast<uint64_t>(i)};
      all.push_back(std::move(request));
    }
    return all;
  }

  static void expect_same(const Answer& got, const Answer& alone, const std::string& where) {
    ASSERT_EQ(got.tokens, alone.tokens) << where;
    for (size_t i = 0; i < alone.reports.size(); ++i) {
      // Not near: equal.
      ASSERT_EQ(got.reports[i].logprob, alone.reports[i].logprob) << where << ", token " << i;
      ASSERT_EQ(got.reports[i].top[0].logprob, alone.reports[i].top[0].logprob) << where;
    }
  }
};

TEST_P(CompanyTest, ARequestsAnswerIsItsOwn) {
  prepare_torch();
  const auto source =
      std::make_shared<nn::Source>(fs::path(QUERN_SOURCE_DIR) / "tests/data" / GetParam().model);
  std::vector<Answer> alone;
  std::vector<Request> all;
  {
    ModelEngine engine(source, {.max_num_seqs = 1,
                                .max_num_batched_tokens = 512,
                                .prefix_caching = false,
                                .kv_type = GetParam().kv_type,
                                .kv_bytes = 64 << 20});
    all = requests(engine.limits().vocabulary);
    for (size_t i = 0; i < all.size(); ++i) {
      const int64_t id = engine.submit(all[i]);
      alone.push_back(run(engine).at(id));
    }
  }
  NumpyRandom random(5);
  auto below = [&](int64_t bound) {
    return static_cast<int64_t>(random.next() % static_cast<uint64_t>(bound));
  };
  int64_t preemptions = 0, hits = 0;
  const int rounds = kSanitized ? 2 : 5;
  for (int round = 0; round < rounds; ++round) {
    // The first round has room for all; in the others a few sequences at their longest fill it.
    const int64_t seqs = round == 0 ? 32 : 4 + below(8);
    EngineOptions options{.max_model_len = 96,
                          .max_num_seqs = seqs,
                          .max_num_batched_tokens = round == 0 ? 512 : seqs + below(60),
                          .policy = round % 2 ? Policy::priority : Policy::fcfs,
                          .kv_type = GetParam().kv_type,
                          .kv_bytes = 64 << 20,
                          .block_tokens = GetParam().block_tokens};
    if (round > 0)
      options.kv_blocks = std::max<int64_t>(2, (12 + below(12)) * 16 / options.block_tokens);
    set_threads(1 + round % 3);
    ModelEngine engine(source, options);
    std::map<int64_t, size_t> which;
    std::map<int64_t, Answer> answers;
    for (size_t next = 0; next < all.size() || !engine.idle();) {
      for (int64_t more = round == 0 ? 32 : below(4); more > 0 && next < all.size(); --more) {
        Request request = all[next];
        request.priority = options.policy == Policy::priority ? below(3) : 0;
        which[engine.submit(request)] = next++;
      }
      take(engine.step(), answers);
    }
    for (const auto& [id, answer] : answers)
      expect_same(answer, alone[which.at(id)],
                  fmt::format("round {} request {}", round, which[id]));
    preemptions += engine.state().preemptions;
    hits += engine.state().prefix_hits;
    if (HasFatalFailure()) break;
  }
  set_threads(1);
  // A block of 128 tokens holds the longest sequence, and prompts begin alike for 40 tokens.
  if (GetParam().block_tokens < 96) EXPECT_GT(preemptions, 0) << "the caches were never full";
  if (GetParam().block_tokens < 40) EXPECT_GT(hits, 0);
}

INSTANTIATE_TEST_SUITE_P(ModelEngineTest, CompanyTest,
                         testing::Values(Company{"Qwen36", "qwen36", nn::KvType::bf16},
                                         Company{"Qwen36Fp8", "qwen36", nn::KvType::fp8_e4m3},
                                         Company{"Gemma4", "gemma4", nn::KvType::bf16},
                                         Company{"Glm45", "glm45", nn::KvType::fp32},
                                         Company{"Sarvam", "sarvam", nn::KvType::fp16},
                                         Company{"Qwen36By32", "qwen36", nn::KvType::bf16, 32},
                                         Company{"Gemma4By64", "gemma4", nn::KvType::fp8_e4m3, 64},
                                         Company{"Gemma4By128", "gemma4", nn::KvType::bf16, 128}),
                         [](const auto& info) { return std::string(info.param.name); });

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
      modules.push_back({site.name, std::nullopt, site.fused});
      const Tensor weight = site.weight.dense()->matrix(site.matrix);
      if (quantized) {
        const quant::Scheme scheme{.group_size = 32, .scale_dtype = at::kHalf};
        const auto rounded =
            quant::round_to_nearest(weight, scheme, {.grid = quant::Grid::auto_round});
        modules.back().scheme = scheme;
        for (auto& tensor : quant::to_disk(site.name, rounded, kAutoGptq))
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
        kAutoGptq, modules, {.blocks = {model->blocks_path(nn::Weights(source))}});
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
    ModelEngine engine(std::make_shared<nn::Source>(folder_ / name), kExact);
    for (int prompt = 0; prompt < 3; ++prompt) engine.submit(greedy(prompt));
    std::vector<std::vector<int32_t>> all;
    for (const auto& [request, answer] : run(engine)) all.push_back(answer.tokens);
    return all;
  }

  fs::path folder_;
};

// The kernels have other ways for one row, for a few, and for many.
TEST_F(PackedTest, AnswersDoNotDependOnTheCompany) {
  const auto source = std::make_shared<nn::Source>(folder_ / "packed");
  ModelEngine alone(source, {.max_num_seqs = 1, .prefix_caching = false, .kv_bytes = 64 << 20});
  ModelEngine batch(source,
                    {.max_num_seqs = 20, .max_num_batched_tokens = 75, .kv_bytes = 64 << 20});
  const auto all = CompanyTest::requests(alone.limits().vocabulary);
  for (const Request& request : all) {
    alone.submit(request);
    batch.submit(request);
  }
  const auto expected = run(alone), got = run(batch);
  for (const auto& [id, answer] : got)
    CompanyTest::expect_same(answer, expected.at(id), fmt::format("request {}", id));
}

// Scales of the cache from the checkpoint: a power of two moves no bit of a number of 8 bits, and a
// scale that is far too small clamps every key.
TEST_F(PackedTest, ScalesOfTheCacheAreTheCheckpoints) {
  auto answer = [&](const char* name, std::optional<float> scale) {
    std::vector<std::pair<std::string, Tensor>> tensors;
    const auto source = std::make_shared<nn::Source>(fixture());
    for (const std::string& tensor : source->files.names())
      tensors.emplace_back(tensor, source->files.tensor(tensor));
    const std::string layer = "model.language_model.layers.3.self_attn.";
    if (scale) tensors.emplace_back(layer + "k_scale", at::full({1}, *scale));
    if (scale) tensors.emplace_back(layer + "v_scale", at::full({1}, 2.0f));
    write(name, tensors, read_json(fixture() / "config.json"));
    ModelEngine engine(std::make_shared<nn::Source>(folder_ / name),
                       {.kv_type = nn::KvType::fp8_e4m3, .kv_bytes = 64 << 20});
    Request request = greedy(2);
    request.logprobs = 0;
    engine.submit(request);
    const Answer said = run(engine).at(0);
    std::vector<float> logprobs;
    for (const TokenReport& report : said.reports) logprobs.push_back(report.logprob);
    return logprobs;
  };
  const auto plain = answer("plain", std::nullopt), doubled = answer("doubled", 0.5f),
             clamped = answer("clamped", 1e-6f);
  ASSERT_EQ(plain.size(), doubled.size());
  EXPECT_NEAR(plain[0], doubled[0], 1e-3);
  EXPECT_NE(plain, clamped);
}

TEST_F(PackedTest, AnswersAsTheNumbersThatItsCodesStandFor) {
  const auto packed = answers("packed");
  EXPECT_EQ(packed, answers("dense"));
  EXPECT_NE(packed[0], expected(0)) << "rounding to 4 bits should change a random model";
}

}  // namespace
}  // namespace quern::runner
