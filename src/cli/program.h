// What the verbs of the program share. Each verb is one file: it declares its options, and says
// what to run when it was chosen.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

namespace quern::cli {

// Options that every verb knows.
struct Program {
  int threads = 0;  // 0: all cores
  bool json = false;
  std::string color = "auto";
  std::vector<std::string> rest;  // words behind a verb that reads them itself
  std::function<void()> run;      // the chosen verb; fails with the exit code
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

// Fails with Exit::usage on a verb or a long option that does not exist, naming the nearest. CLI11
// itself would complain about whatever the misspelt word left without a value. Returns how many
// words are for CLI11: those behind a verb with a grammar of its own (prefix_command) are not.
size_t check_spelling(const CLI::App& app, const std::vector<std::string>& words);

// The whole program: reads the command line, runs the verb, reports what failed on standard error.
int run_program(int argc, char** argv);

}  // namespace quern::cli
