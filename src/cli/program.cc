#include "cli/program.h"

#include <cerrno>
#include <new>
#include <system_error>

#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "base/threads.h"
#include "cli/interrupt.h"
#include "cli/terminal.h"
#include "tensor/tensor.h"

namespace quern::cli {
namespace {

constexpr const char* kExamples = R"(
Examples:
  quern inspect MODEL                     its tensors, and how they are stored
  quern plan MODEL                        what compress would do with it, with sizes
  quern compress MODEL -o OUT --data chats.jsonl
                                          4-bit weights by AutoRound, verified
  quern compress MODEL -o OUT --method rtn
                                          4-bit weights by round-to-nearest, without data
  quern verify OUT --source MODEL         check OUT against MODEL
  quern generate OUT --prompt "Hello"     one answer; without --prompt, a chat

`quern VERB --help` explains a verb. Exit codes: 0 ok, 1 internal error, 2 usage, 4 input invalid,
5 verification failed, 6 interrupted, 7 disk, 8 memory.)";

std::vector<const CLI::App*> verbs(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

const CLI::App& verb_named(const CLI::App& app, const std::string& name) {
  std::vector<std::string> known;
  for (const CLI::App* verb : verbs(app)) {
    if (verb->get_name() == name) return *verb;
    known.push_back("quern " + verb->get_name());
  }
  fail(Exit::usage, "there is no verb \"{}\"{}", name, did_you_mean("quern " + name, known));
}

std::vector<std::string> long_options(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

void check_option(const CLI::App& app, const CLI::App* verb, const std::string& name) {
  std::vector<std::string> known = long_options(app);
  if (verb)
    for (const std::string& option : long_options(*verb)) known.push_back(option);
  if (std::find(known.begin(), known.end(), name) == known.end())
    fail(Exit::usage, "there is no option {}{}", name, did_you_mean(name, known));
}

bool takes_value(const CLI::App& app, const std::string& option) {
  const CLI::Option* found = app.get_option_no_throw(option);
  return found && found->get_items_expected_max() > 0;
}

Exit exit_of(const std::system_error& error) {
  const int code = error.code().value();
  return code == ENOSPC || code == EDQUOT || code == EIO || code == EROFS ? Exit::disk
                                                                          : Exit::invalid_input;
}

int report(Exit code, const std::string& message) {
  log_message(LogLevel::info, standard_error().red("error:") + " " + message);
  return static_cast<int>(code);
}

// Omits CLI11's list of excluded options; the descriptions state them.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_option_opts(const CLI::Option* option) const override {
    const std::string text = Formatter::make_option_opts(option);
    return text.substr(0, text.find(" " + get_label("Excludes") + ":"));
  }
};

// Reports exceptions of the libraries, other than our Error.
int report_foreign(const std::exception& error) {
  const std::string message = error.what();
  const std::string no_memory =
      "out of memory; close other programs, use a smaller --batch-size, --nsamples or --seqlen, or "
      "a machine with more memory";
  // LibTorch's allocator has no separate exception type.
  if (dynamic_cast<const std::bad_alloc*>(&error) ||
      message.find("can't allocate memory") != std::string::npos)
    return report(Exit::memory, no_memory);
  if (const auto* system = dynamic_cast<const std::system_error*>(&error))
    return report(exit_of(*system), message);
  return report(Exit::internal,
                "internal error: " + message.substr(0, message.find('\n')) +
                    "; this is a bug in quern, please report it with the command that caused it");
}

int usage_error(const CLI::App& app, const CLI::ParseError& error) {
  const auto chosen = app.get_subcommands();
  const std::string verb = chosen.empty() ? "" : " " + chosen.front()->get_name();
  return report(Exit::usage, fmt::format("{}; `quern{} --help` explains", error.what(), verb));
}

void declare(CLI::App& app, Program& program) {
  app.name("quern");
  app.formatter(std::make_shared<HelpFormatter>());  // also for the verbs, which are added below
  app.footer(kExamples);
  app.fallthrough();
  app.require_subcommand(1);
  app.set_version_flag("--version", version_text);
  app.add_option("--threads", program.threads, "Compute threads (default: all cores)")
      ->check(CLI::Range(1, 1024));
  app.add_flag("--json", program.json, "Print one JSON document instead of text");
  app.add_option("--color", program.color, "auto, always or never")
      ->check(CLI::IsMember({"auto", "always", "never"}));
  add_plan(app, program);
  add_compress(app, program);
  add_verify(app, program);
  add_inspect(app, program);
  add_logits(app, program);
  add_generate(app, program);
  add_perplexity(app, program);
  add_serve(app, program);
  add_chat(app, program);
  add_bench(app, program);
  add_version(app, program);
  for (CLI::App* verb : app.get_subcommands([](CLI::App*) { return true; })) verb->fallthrough();
}

}  // namespace

size_t check_spelling(const CLI::App& app, const std::vector<std::string>& words) {
  const CLI::App* verb = nullptr;
  bool is_value = false;  // of an option before the verb
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--") break;
    if (word.starts_with("--")) {
      check_option(app, verb, word.substr(0, word.find('=')));
      is_value = takes_value(app, word);
    } else if (!verb && !is_value && !word.starts_with("-")) {
      verb = &verb_named(app, word);
      if (verb->get_prefix_command()) return i + 1;
    } else {
      is_value = false;
    }
  }
  return words.size();
}

int run_program(int argc, char** argv) {
  watch_interrupts();
  Program program;
  CLI::App app("Compresses Hugging Face checkpoints to 4-bit weights, verifies and runs them.");
  try {
    declare(app, program);
    if (argc == 1) {
      print(app.help());
      return static_cast<int>(Exit::usage);
    }
    const std::vector<std::string> words(argv + 1, argv + argc);
    const size_t own = check_spelling(app, words);
    program.rest.assign(words.begin() + static_cast<ptrdiff_t>(own), words.end());
    try {
      app.parse(static_cast<int>(own) + 1, argv);
    } catch (const CLI::CallForHelp&) {
      print(app.help());  // of the chosen verb, if any
      return 0;
    } catch (const CLI::CallForVersion&) {
      print(version_text());
      return 0;
    } catch (const CLI::ParseError& error) {
      return usage_error(app, error);
    }
    set_colors(program.color);
    prepare_torch();
    if (program.threads > 0) set_threads(program.threads);
    program.run();
    print("");
    return 0;
  } catch (const Error& error) {
    return report(error.code(), error.what());
  } catch (const std::exception& error) {
    return report_foreign(error);
  }
}

}  // namespace quern::cli
