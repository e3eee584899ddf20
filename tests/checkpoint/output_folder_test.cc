#include "checkpoint/output_folder.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "tests/checkpoint/scratch.h"

namespace quern::checkpoint {
namespace {
namespace fs = std::filesystem;

size_t entries(const fs::path& folder) {
  return static_cast<size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

void put(const fs::path& file, const std::string& text) { std::ofstream(file) << text; }

TEST(OutputFolder, AppearsOnlyWhenItIsComplete) {
  Scratch scratch;
  {
    OutputFolder output(scratch / "OUT");
    put(output.path() / "config.json", "{}");
    EXPECT_FALSE(fs::exists(scratch / "OUT"));
    EXPECT_EQ(output.path().parent_path(), scratch.path());
    output.publish();
  }
  EXPECT_EQ(slurp(scratch / "OUT/config.json"), "{}");
  EXPECT_EQ(entries(scratch.path()), 1u);
}

TEST(OutputFolder, AFailureLeavesNothing) {
  Scratch scratch;
  {
    OutputFolder output(scratch / "OUT/");
    put(output.path() / "config.json", "{}");
  }
  EXPECT_TRUE(fs::is_empty(scratch.path()));
}

TEST(OutputFolder, WhatFailsVerificationIsCalledRejected) {
  Scratch scratch;
  for (const char* text : {"first", "second"}) {
    OutputFolder output(scratch / "OUT");
    put(output.path() / "config.json", text);
    EXPECT_EQ(output.reject(), scratch / "OUT.rejected");
    EXPECT_EQ(slurp(scratch / "OUT.rejected/config.json"), text);
  }
  EXPECT_EQ(entries(scratch.path()), 1u);
}

TEST(OutputFolder, AnExistingOneIsRefusedUnlessForced) {
  Scratch scratch;
  scratch.write("OUT/config.json", "old");
  Exit code = Exit::ok;
  EXPECT_NE(error_of([&] { OutputFolder output(scratch / "OUT"); }, &code)
                .find("already exists; choose another -o, or --force"),
            std::string::npos);
  EXPECT_EQ(code, Exit::usage);
  {
    OutputFolder output(scratch / "OUT", {.force = true});
    put(output.path() / "config.json", "new");
    EXPECT_EQ(slurp(scratch / "OUT/config.json"), "old") << "stays until the new one is complete";
    output.publish();
  }
  EXPECT_EQ(slurp(scratch / "OUT/config.json"), "new");
  EXPECT_EQ(entries(scratch.path()), 1u);
}

TEST(OutputFolder, ForceNeverReplacesWhatIsNoModel) {
  Scratch scratch;
  scratch.write("home/thesis.tex", "");
  scratch.write("file", "");
  fs::create_directories(scratch / "elsewhere");
  fs::create_symlink(scratch / "elsewhere", scratch / "link");
  for (const char* name : {"home", "file", "link"})
    EXPECT_NE(error_of([&] {
                OutputFolder output(scratch / name, {.force = true});
              }).find("is not a model folder"),
              std::string::npos)
        << name;
}

TEST(OutputFolder, TheSourceIsNeverTouched) {
  Scratch scratch;
  scratch.write("model/config.json", "{}");
  fs::create_symlink(scratch / "model", scratch / "alias");
  for (const char* out : {"model", "model/int4", "alias", "alias/int4", "."}) {
    Exit code = Exit::ok;
    EXPECT_NE(error_of(
                  [&] {
                    OutputFolder output(scratch / out,
                                        {.source = scratch / "model", .force = true});
                  },
                  &code)
                  .find("overlaps the source"),
              std::string::npos)
        << out;
    EXPECT_EQ(code, Exit::usage);
  }
  OutputFolder beside(scratch / "model-int4", {.source = scratch / "model"});
}

TEST(OutputFolder, TooLittleRoomIsSaidAtOnce) {
  Scratch scratch;
  Exit code = Exit::ok;
  EXPECT_NE(
      error_of([&] { OutputFolder output(scratch / "OUT", {.needed_bytes = size_t{1} << 60}); },
               &code)
          .find("the output needs 1152921504.61 GB"),
      std::string::npos);
  EXPECT_EQ(code, Exit::disk);
  EXPECT_TRUE(fs::is_empty(scratch.path()));
  EXPECT_NE(error_of([&] {
              OutputFolder output(scratch / "no" / "OUT");
            }).find("does not exist; create it"),
            std::string::npos);
}

// A child fills a folder and is killed.
void leave_a_part(const fs::path& out, const std::string& text) {
  const pid_t child = fork();
  if (child == 0) {
    OutputFolder output(out);
    put(output.path() / "half", text);
    raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
}

TEST(OutputFolder, WhatAKilledRunLeftIsNoOutputAndIsCleanedByTheNext) {
  Scratch scratch;
  leave_a_part(scratch / "OUT", "half");
  EXPECT_FALSE(fs::exists(scratch / "OUT"));
  EXPECT_EQ(entries(scratch.path()), 1u);
  {
    OutputFolder other(scratch / "OUT2");
    EXPECT_EQ(entries(scratch.path()), 2u) << "another output's leftovers are not ours";
  }
  OutputFolder output(scratch / "OUT");
  EXPECT_FALSE(output.resumed());
  EXPECT_EQ(entries(scratch.path()), 1u);
  EXPECT_TRUE(fs::is_empty(output.path()));
}

TEST(OutputFolder, WhatAnInterruptedRunLeftCanBeTakenUp) {
  Scratch scratch;
  leave_a_part(scratch / "OUT", "half");
  {
    OutputFolder output(scratch / "OUT", {.resume = true});
    EXPECT_TRUE(output.resumed());
    EXPECT_EQ(slurp(output.path() / "half"), "half");
    output.keep();
  }
  OutputFolder again(scratch / "OUT", {.resume = true});
  EXPECT_TRUE(again.resumed());
  again.publish();
  EXPECT_EQ(slurp(scratch / "OUT/half"), "half");
}

TEST(OutputFolder, TwoRunsDoNotWriteOneOutput) {
  Scratch scratch;
  OutputFolder first(scratch / "OUT");
  EXPECT_NE(error_of([&] {
              OutputFolder second(scratch / "OUT");
            }).find("another process is writing this output"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              OutputFolder second(scratch / "OUT", {.resume = true});
            }).find("another process"),
            std::string::npos);
  EXPECT_TRUE(fs::exists(first.path()));
}

// Constructs the output again and again; ends with 0 when every failure was "another process".
[[noreturn]] void insist_on(const fs::path& out) {
  int made = 0;
  for (int i = 0; i < 500; ++i) {
    Exit code = Exit::ok;
    const std::string message = error_of(
        [&] {
          OutputFolder output(out);
          put(output.path() / "config.json", "{}");
          if (!fs::exists(output.path() / "config.json")) throw Error(Exit::internal, "it is gone");
          ++made;
        },
        &code);
    const bool plain = code == Exit::ok || (code == Exit::usage &&
                                            message.find("another process") != std::string::npos);
    if (plain) continue;
    fprintf(stderr, "%s\n", message.c_str());
    _exit(1);
  }
  _exit(made > 0 ? 0 : 2);
}

TEST(OutputFolder, RunsThatBeginAtOnceDoNotTakeEachOthersFolder) {
  Scratch scratch;
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    const pid_t child = fork();
    if (child == 0) insist_on(scratch / "OUT");
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  EXPECT_TRUE(fs::is_empty(scratch.path()));
}

// Another program creates OUT while the job runs: the work of hours must not be lost.
TEST(OutputFolder, AnOutputThatCannotBeNamedIsKept) {
  Scratch scratch;
  fs::path part;
  {
    OutputFolder output(scratch / "OUT");
    part = output.path();
    scratch.write("OUT/config.json", "theirs");
    EXPECT_NE(
        error_of([&] { output.publish(); }).find("the complete output is in " + part.string()),
        std::string::npos);
  }
  EXPECT_TRUE(fs::exists(part));
  EXPECT_EQ(slurp(scratch / "OUT/config.json"), "theirs");
}

}  // namespace
}  // namespace quern::checkpoint
