// quern generate: prints answers of a model, dense or packed, while they are generated. Takes one
// prompt, or a conversation with one turn per line of standard input.
#include <unistd.h>

#include <chrono>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/interrupt.h"
#include "cli/program.h"
#include "cli/terminal.h"
#include "models/models.h"
#include "prompt/chat_template.h"
#include "prompt/generation_config.h"
#include "prompt/media.h"
#include "prompt/stop_ids.h"
#include "prompt/tokenizer.h"
#include "runner/model_engine.h"

namespace quern::cli {
namespace {

constexpr size_t kMostImageBytes = 64u << 20;
constexpr std::string_view kShow = "/image ";  // a line of a chat that adds a picture

struct GenerateOptions {
  std::string model;
  std::optional<std::string> prompt;
  std::string system;
  std::vector<std::string> images;
  int64_t max_tokens = 512;
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
  uint64_t seed = 0;
  bool raw = false;
  std::optional<bool> thinking;
};

// A JSON file of the model's folder, or null.
JsonValue file_json(const checkpoint::Files& files, const char* name) {
  return files.has_file(name) ? files.json(name) : JsonValue();
}

// Of the command line, else of the model's maker.
engine::Sampling sampling_of(const GenerateOptions& options, const checkpoint::Files& files) {
  const JsonValue defaults = prompt::sampling_defaults(file_json(files, "generation_config.json"));
  const Json config(defaults, "generation_config.json");
  engine::Sampling sampling;
  const auto set = [&](auto& value, const auto& given, const char* key) {
    value = given.value_or(config.get(key, value));
  };
  set(sampling.temperature, options.temperature, "temperature");
  set(sampling.top_k, options.top_k, "top_k");
  set(sampling.top_p, options.top_p, "top_p");
  set(sampling.min_p, options.min_p, "min_p");
  set(sampling.repetition_penalty, options.repetition_penalty, "repetition_penalty");
  sampling.seed = options.seed;
  sampling.check();
  return sampling;
}

struct Answer {
  std::string text;
  int64_t prompt_tokens = 0, tokens = 0;
  double prompt_seconds = 0, seconds = 0;  // until the first token; after the first token
  engine::Finish finish = engine::Finish::length;

  // The rate of the tokens after the first, one pass each.
  double tokens_per_second() const {
    return seconds > 0 ? static_cast<double>(tokens - 1) / seconds : 0;
  }
};

class Generator {
 public:
  Generator(const GenerateOptions& options, bool stream)
      : options_(options),
        stream_(stream),
        source_(std::make_shared<nn::Source>(options.model)),
        sampling_(sampling_of(options, source_->files)),
        tokenizer_(options.model),
        stops_(prompt::stop_ids(file_json(source_->files, "generation_config.json"),
                                file_json(source_->files, "config.json"),
                                file_json(source_->files, "tokenizer_config.json"), tokenizer_)),
        engine_(source_, {.ids = tokenizer_.ids()}) {
    if (!options.raw) template_ = prompt::ChatTemplate::of_folder(options.model);
    if (!options.system.empty())
      messages_.push_back({{"role", "system"}, {"content", options.system}});
    if (const auto media = models::make_model(source_->files.config())->image_tokens())
      reader_.emplace(prompt::image_processor(options.model), *media);
    for (const std::string& file : options.images) show(file);
  }

  // Adds a picture to the next question.
  void show(const std::string& file) {
    if (!reader_) fail(Exit::usage, "{}: {} takes no pictures", file, options_.model);
    images_.push_back(read_file(file, kMostImageBytes));
    ++images_of_turn_;
  }

  // One turn of the conversation. An interrupt ends the answer, but not the program.
  Answer answer(const std::string& question) {
    FinishFirst finish("interrupted; interrupt again to quit");
    const std::string text = options_.raw ? question : render(question);
    const std::vector<int32_t> tokens =
        tokenizer_.encode(text, options_.raw ? prompt::Special::add : prompt::Special::none);
    Answer answer = run(reader_ ? (*reader_)(tokens, images_) : prompt::ImagePrompt{tokens, {}},
                        finish.asked());
    messages_.push_back({{"role", "assistant"}, {"content", answer.text}});
    return answer;
  }

 private:
  std::string render(const std::string& question) {
    messages_.push_back({{"role", "user"}, {"content", content_of(question)}});
    prompt::ChatOptions chat{.add_generation_prompt = true};
    if (options_.thinking) chat.variables["enable_thinking"] = *options_.thinking;
    return template_->render(messages_, chat);
  }

  // Pictures precede the question, as the models' authors recommend.
  JsonValue content_of(const std::string& question) {
    if (images_of_turn_ == 0) return question;
    JsonValue parts = JsonValue::array();
    for (; images_of_turn_ > 0; --images_of_turn_) parts.push_back({{"type", "image"}});
    parts.push_back({{"type", "text"}, {"text", question}});
    return parts;
  }

  Answer run(prompt::ImagePrompt prompt, const std::atomic<bool>& interrupted) {
    using Clock = std::chrono::steady_clock;
    auto since = [](Clock::time_point start) {
      return std::chrono::duration<double>(Clock::now() - start).count();
    };
    Answer answer;
    answer.prompt_tokens = std::ssize(prompt.tokens);
    const int64_t request = engine_.submit({.tokens = std::move(prompt.tokens),
                                            .max_tokens = options_.max_tokens,
                                            .sampling = sampling_,
                                            .stop_ids = stops_,
                                            .images = std::move(prompt.images)});
    prompt::Detokenizer detokenizer(tokenizer_);
    auto start = Clock::now();
    while (!engine_.idle()) {
      if (interrupted) engine_.cancel(request);
      for (const engine::Update& update : engine_.step()) {
        for (int32_t token : update.tokens) {
          if (answer.tokens++ == 0) {
            answer.prompt_seconds = since(start);
            start = Clock::now();
          }
          deliver(answer, detokenizer.push(token));
        }
        if (update.finish) answer.finish = *update.finish;
      }
    }
    answer.seconds = answer.tokens > 0 ? since(start) : 0;
    deliver(answer, detokenizer.flush());
    return answer;
  }

  void deliver(Answer& answer, const std::string& text) const {
    answer.text += text;
    if (stream_ && !text.empty()) print(text);
  }

  const GenerateOptions& options_;
  bool stream_;
  std::shared_ptr<const nn::Source> source_;
  engine::Sampling sampling_;
  prompt::Tokenizer tokenizer_;
  std::vector<int32_t> stops_;
  runner::ModelEngine engine_;
  std::optional<prompt::ChatTemplate> template_;
  std::optional<prompt::ImageReader> reader_;  // for a model with a vision tower
  JsonValue messages_ = JsonValue::array();
  std::vector<std::string> images_;  // the files of all turns
  int images_of_turn_ = 0;           // of the next question
};

std::string summary(const Answer& answer) {
  return fmt::format("{} prompt tokens in {}, {} new tokens at {:.1f} tokens/s, ended by {}",
                     answer.prompt_tokens, time_text(answer.prompt_seconds), answer.tokens,
                     answer.tokens_per_second(), name_of(answer.finish));
}

JsonValue json_of(const Answer& answer) {
  return {{"text", answer.text},
          {"prompt_tokens", answer.prompt_tokens},
          {"tokens", answer.tokens},
          {"prompt_seconds", answer.prompt_seconds},
          {"tokens_per_second", answer.tokens_per_second()},
          {"finish", name_of(answer.finish)}};
}

void run_once(const GenerateOptions& options, bool json) {
  const Answer answer = Generator(options, /*stream=*/!json).answer(*options.prompt);
  print(json ? to_text(json_of(answer)) : "\n");
  log_info("{}", standard_error().dim(summary(answer)));
  if (answer.finish == engine::Finish::cancelled) fail(Exit::interrupted, "interrupted");
}

void run_chat(const GenerateOptions& options) {
  const bool person = ::isatty(STDIN_FILENO) && standard_error().interactive();
  Generator generator(options, /*stream=*/true);
  if (person)
    log_info("Chat with {}. Ctrl-C ends an answer, Ctrl-D the chat; /image FILE shows a picture.",
             options.model);
  std::string line;
  for (;;) {
    if (person) std::fputs("> ", stderr);
    if (!std::getline(std::cin, line)) break;
    if (line.empty()) continue;
    if (line.starts_with(kShow)) {
      generator.show(line.substr(kShow.size()));
      continue;
    }
    const Answer answer = generator.answer(line);
    print("\n");
    if (person) log_info("{}", standard_error().dim(summary(answer)));
    // Without a terminal an interrupt ends the program.
    if (!person && answer.finish == engine::Finish::cancelled)
      fail(Exit::interrupted, "interrupted");
  }
}

void run(const GenerateOptions& options, bool json) {
  if (options.prompt) return run_once(options, json);
  if (json) fail(Exit::usage, "--json needs --prompt TEXT");
  if (options.raw) fail(Exit::usage, "--raw needs --prompt TEXT");
  run_chat(options);
}

void declare(CLI::App& verb, GenerateOptions& options) {
  verb.add_option("MODEL", options.model, "Model folder")->required();
  verb.add_option("--prompt", options.prompt,
                  "Prompt; without it, a chat over standard input, one turn per line");
  verb.add_option("--system", options.system, "System message");
  verb.add_option("--image", options.images,
                  "PNG, JPEG or WebP picture for the first question; may be repeated")
      ->allow_extra_args(false);
  verb.add_option("--max-tokens", options.max_tokens, "Largest number of new tokens")
      ->capture_default_str();
  verb.add_option("--temperature", options.temperature, "0: always the most likely token");
  verb.add_option("--top-k", options.top_k, "Sample from the k most likely tokens; 0: from all");
  verb.add_option("--top-p", options.top_p,
                  "Sample from the most likely tokens that have this share");
  verb.add_option("--min-p", options.min_p,
                  "Exclude tokens below this fraction of the most likely");
  verb.add_option("--repetition-penalty", options.repetition_penalty,
                  "Above 1: tokens that already occurred become less likely");
  verb.add_option("--seed", options.seed, "Equal seeds give equal answers")->capture_default_str();
  auto* raw = verb.add_flag("--raw", options.raw, "Continue the prompt without the chat template");
  verb.get_option("--system")->excludes(raw);
  verb.add_flag("--enable-thinking,!--no-thinking", options.thinking,
                "Ask the chat template for thoughts before the answer, or for none");
}

}  // namespace

void add_generate(CLI::App& app, Program& program) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* verb = app.add_subcommand("generate", "Answer a prompt, or chat");
  verb->footer(R"(
Examples:
  quern generate MODEL --prompt "What is 17 + 25?"
  quern generate MODEL --image photo.jpg --prompt "What is this?"
  quern generate MODEL                                      a chat
  quern generate MODEL --prompt "def fib(n):" --raw --temperature 0

The defaults of sampling settings come from the model's generation_config.json.)");
  declare(*verb, *options);
  verb->callback(
      [&program, options] { program.run = [&program, options] { run(*options, program.json); }; });
}

}  // namespace quern::cli
