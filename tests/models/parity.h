// Parity of an architecture with the results of its reference implementation (a fixture's
// golden.safetensors). Every comparison is recorded as a property of its test;
// tools/parity_table.py prints a table of them.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors_writer.h"
#include "tests/models/golden.h"
#include "tests/scratch.h"

namespace quern::models {

// The tolerances of the fixtures' README for fp32: logits absolute, hidden states relative to their
// largest value.
constexpr double kLogitTolerance = 2e-4;
constexpr double kStateTolerance = 1e-4;

// The goldens of one fixture, and comparisons with them.
class Goldens {
 public:
  explicit Goldens(const std::string& fixture)
      : fixture_(fixture), file_(test_data(fixture) / "golden.safetensors") {}

  Tensor tensor(const std::string& name) const { return file_.tensor(name); }
  Tensor ids(const std::string& name) const { return tensor(name).to(at::kLong); }

  // `golden` names the comparison; for several comparisons with one name in a test, the largest
  // difference is recorded.
  void expect(const std::string& golden, double difference, double tolerance) {
    double& worst = worst_[golden];
    worst = std::max(worst, difference);
    testing::Test::RecordProperty("parity " + fixture_ + " " + golden,
                                  fmt::format("{:.3g} {:.3g}", worst, tolerance));
    EXPECT_LE(difference, tolerance) << golden;
  }
  void expect_logits(const std::string& golden, const Tensor& actual, const Tensor& expected) {
    expect(golden, distance(actual, expected), kLogitTolerance);
  }
  void expect_logits(const std::string& golden, const Tensor& actual) {
    expect_logits(golden, actual, tensor(golden));
  }
  void expect_states(const std::string& golden, const Tensor& actual) {
    const Tensor expected = tensor(golden);
    expect(golden, distance(actual, expected) / expected.abs().max().item<double>(),
           kStateTolerance);
  }

 private:
  std::string fixture_;
  checkpoint::SafetensorsFile file_;
  std::map<std::string, double> worst_;
};

// The prompts of the fixtures that have three.
inline const std::vector<std::string> kPrompts = {"p0", "p1", "p2"};

// Logits of a prompt at all positions.
inline void expect_logits_of(const Whole& whole, Goldens& goldens, const std::string& prompt) {
  const Tensor tokens = goldens.ids(prompt + ".input_ids");
  nn::Pass pass = nn::Pass::whole({tokens.size(0)});
  goldens.expect_logits(prompt + ".logits", whole.logits(tokens, pass));
}

// Logits of prompts 0 to 2; of prompt 1 the output of every block.
inline void expect_logits_and_blocks(const Whole& whole, Goldens& goldens) {
  for (const std::string& p : kPrompts) expect_logits_of(whole, goldens, p);
  const Tensor tokens = goldens.ids("p1.input_ids");
  nn::Pass pass = nn::Pass::whole({tokens.size(0)});
  const std::vector<Tensor> states = whole.hidden_states(tokens, pass);
  for (size_t i = 0; i < states.size(); ++i)
    goldens.expect_states(fmt::format("p1.hidden.{}", i), states[i]);
  goldens.expect_states("p1.final_norm", whole.head->norm(states.back()));
}

// Two prompts in one pass do not see each other.
inline void expect_independent_sequences(const Whole& whole, Goldens& goldens) {
  const Tensor a = goldens.ids("p0.input_ids"), b = goldens.ids("p2.input_ids");
  nn::Pass pass = nn::Pass::whole({a.size(0), b.size(0)});
  const Tensor both = whole.logits(at::cat({a, b}), pass);
  goldens.expect_logits("p0.logits", both.slice(0, 0, a.size(0)));
  goldens.expect_logits("p2.logits", both.slice(0, a.size(0)));
}

// The greedy continuations of prompts, token by token through the caches.
inline void expect_greedy_cached(const Whole& whole, Goldens& goldens,
                                 const std::vector<std::string>& prompts = kPrompts) {
  for (const std::string& p : prompts) {
    const Tensor expected = goldens.ids(fmt::format("{}.greedy_ids", p));
    const std::string name = fmt::format("{}.greedy_logits", p);
    Tensor tokens = goldens.ids(fmt::format("{}.input_ids", p));
    nn::Caches caches;
    int64_t past = 0;
    for (int64_t step = 0; step < expected.size(0); ++step) {
      nn::Pass pass = nn::Pass::next(past, tokens.size(0), caches);
      const Tensor last = whole.logits(tokens, pass)[-1];
      goldens.expect_logits(name, last, goldens.tensor(name)[step]);
      past += tokens.size(0);
      tokens = last.argmax().reshape({1});
      ASSERT_EQ(tokens.item<int64_t>(), expected[step].item<int64_t>()) << p << " step " << step;
    }
  }
}

// The same continuations, computed in one pass without caches: every step is the most likely token
// after the prompt and the earlier steps.
inline void expect_greedy_recomputed(const Whole& whole, Goldens& goldens,
                                     const std::vector<std::string>& prompts = kPrompts) {
  for (const std::string& p : prompts) {
    const Tensor prompt = goldens.ids(fmt::format("{}.input_ids", p));
    const Tensor expected = goldens.ids(fmt::format("{}.greedy_ids", p));
    const std::string name = fmt::format("{}.greedy_logits", p);
    const Tensor tokens = at::cat({prompt, expected.slice(0, 0, -1)});
    nn::Pass pass = nn::Pass::whole({tokens.size(0)});
    const Tensor steps = whole.logits(tokens, pass).slice(0, prompt.size(0) - 1);
    goldens.expect_logits(name, steps, goldens.tensor(name));
    EXPECT_TRUE(steps.argmax(-1).equal(expected)) << p;
  }
}

// A prompt in chunks of any size gives the logits of the whole.
inline void expect_any_chunking(const Whole& whole, Goldens& goldens,
                                const std::string& prompt = "p2") {
  const std::string golden = prompt + ".logits";
  const Tensor tokens = goldens.ids(prompt + ".input_ids"), expected = goldens.tensor(golden);
  std::mt19937 random(7);
  for (int round = 0; round < 4; ++round) {
    nn::Caches caches;
    for (int64_t begin = 0; begin < tokens.size(0);) {
      const int64_t end = std::min<int64_t>(tokens.size(0), begin + 1 + random() % 30);
      nn::Pass pass = nn::Pass::next(begin, end - begin, caches);
      const Tensor logits = whole.logits(tokens.slice(0, begin, end), pass);
      goldens.expect_logits(golden, logits, expected.slice(0, begin, end));
      begin = end;
    }
  }
}

// A run in bf16 is not a target, because ours is fp32; but its distance from ours may equal its
// distance from the reference's fp32 run (README of the fixtures: median of the rms of a position
// <= 0.1).
inline void expect_near_bf16(const Whole& whole, Goldens& goldens) {
  const Tensor tokens = goldens.ids("p1.input_ids");
  nn::Pass pass = nn::Pass::whole({tokens.size(0)});
  const Tensor difference = whole.logits(tokens, pass) - goldens.tensor("p1.logits_bf16_compute");
  const Tensor rms = difference.square().mean(-1).sqrt();
  goldens.expect("p1.logits_bf16_compute (median rms)", rms.median().item<double>(), 0.1);
}

// A copy of a fixture whose tensors and settings a test may change.
class Changed {
 public:
  explicit Changed(const std::string& fixture)
      : config(read_json(test_data(fixture) / "config.json")) {
    const checkpoint::Checkpoint files(test_data(fixture));
    for (const std::string& tensor : files.names()) tensors[tensor] = files.tensor(tensor);
  }
  // Replaces `from` in every tensor's name.
  void rename(const std::string& from, const std::string& to) {
    std::map<std::string, Tensor> renamed;
    for (const auto& [name, tensor] : tensors) {
      const size_t at = name.find(from);
      renamed[at == std::string::npos ? name : std::string(name).replace(at, from.size(), to)] =
          tensor;
    }
    tensors = std::move(renamed);
  }

  // Writes the current tensors and settings as a model folder.
  std::filesystem::path write() const {
    checkpoint::write_safetensors(scratch_ / "model.safetensors", {tensors.begin(), tensors.end()});
    write_file(scratch_ / "config.json", to_text(config));
    return scratch_.path();
  }

  // The message of loading the whole model; "" on success.
  std::string refusal() const {
    try {
      const Whole whole(write());
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  std::map<std::string, Tensor> tensors;
  JsonValue config;

 private:
  Scratch scratch_;
};

}  // namespace quern::models
