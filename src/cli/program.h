// The common part of the verbs. Each verb is one file: it declares its options and the function to
// run.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

namespace quern::cli {

// Options of all verbs.
struct Program {
  int threads = 0;  // 0: all cores
  bool json = false;
  std::string color = "auto";
  std::vector<std::string> rest;  // words after a verb that parses them itself
  std::function<void()> run;      // runs the chosen verb; fails with the exit code
};

void add_bench(CLI::App& app, Program& program);
void add_chat(CLI::App& app, Program& program);
void add_compress(CLI::App& app, Program& program);
void add_generate(CLI::App& app, Program& program);
void add_inspect(CLI::App& app, Program& program);
void add_logits(CLI::App& app, Program& program);
void add_perplexity(CLI::App& app, Program& program);
void add_plan(CLI::App& app, Program& program);
void add_serve(CLI::App& app, Program& program);
void add_verify(CLI::App& app, Program& program);
void add_version(CLI::App& app, Program& program);

// Version, instruction set, threads and build, for people.
std::string version_text();

// Fails with Exit::usage on an unknown verb or long option, and names the nearest one. CLI11 itself
// would report the value that the misspelt option left behind. Returns the number of words for
// CLI11: words after a verb with its own grammar (prefix_command) are excluded.
size_t check_spelling(const CLI::App& app, const std::vector<std::string>& words);

// The whole program: parses the command line, runs the verb, reports errors on standard error.
int run_program(int argc, char** argv);

}  // namespace quern::cli
