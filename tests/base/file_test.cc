#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>

#include "base/error.h"
#include "tests/scratch.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

struct Failure {
  Exit code = Exit::ok;
  std::string message;
};

template <class Action>
Failure failure_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {};
}

// A disk that accepts only this many bytes of a file.
class SmallDisk {
 public:
  explicit SmallDisk(rlim_t bytes) : signal_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit small = {bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
  }
  ~SmallDisk() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, signal_);
  }

 private:
  void (*signal_)(int);
  rlimit before_{};
};

TEST(File, IsReadWhole) {
  const Scratch scratch;
  const std::string text("a\0b\n", 4);
  EXPECT_EQ(read_file(scratch.write("a", text)), text);
  EXPECT_EQ(read_file(scratch.write("empty", "")), "");
  EXPECT_EQ(read_file(scratch / "a", 4), text);
  EXPECT_EQ(failure_of([&] { read_file(scratch / "a", 3); }).message,
            (scratch / "a").string() + ": 4 bytes exceed the limit of 3");
}

TEST(File, AnInputThatCannotBeReadIsInvalid) {
  const Scratch scratch;
  const Failure absent = failure_of([&] { read_file(scratch / "none"); });
  EXPECT_EQ(absent.code, Exit::invalid_input);
  EXPECT_EQ(absent.message,
            (scratch / "none").string() + ": cannot open: No such file or directory");
  EXPECT_EQ(failure_of([&] { read_file(scratch.path()); }).code, Exit::invalid_input);
  EXPECT_EQ(failure_of([&] { MappedFile mapped(scratch / "none"); }).code, Exit::invalid_input);
  EXPECT_EQ(failure_of([&] { sha256_of_file(scratch / "none"); }).code, Exit::invalid_input);
}

TEST(File, WritingReplacesTheWholeFile) {
  const Scratch scratch;
  scratch.write("a", "a longer text that was there");
  write_file(scratch / "a", "new");
  EXPECT_EQ(read_file(scratch / "a"), "new");
  EXPECT_EQ(scratch.files(), std::vector<std::string>{"a"});
}

TEST(File, AFullDiskIsSaidAndLeavesTheOldFileAlone) {
  const Scratch scratch;
  scratch.write("a", "old");
  const Failure full = failure_of([&] {
    const SmallDisk disk(1000);
    write_file(scratch / "a", std::string(100'000, 'x'));
  });
  EXPECT_EQ(full.code, Exit::disk);
  EXPECT_NE(full.message.find("free space"), std::string::npos) << full.message;
  EXPECT_EQ(scratch.files(), std::vector<std::string>{"a"});
  EXPECT_EQ(read_file(scratch / "a"), "old");
}

TEST(File, AnOutputThatMayNotBeWrittenIsTheDisks) {
  const Scratch scratch;
  EXPECT_EQ(failure_of([] { write_file("/proc/quern", "x"); }).code, Exit::disk);
  EXPECT_EQ(failure_of([&] { write_file(scratch / "none/a", "x"); }).code, Exit::disk);
  EXPECT_EQ(failure_of([&] { sync_folder(scratch / "none"); }).code, Exit::disk);
  scratch.write("folder/a", "");
  EXPECT_EQ(failure_of([&] { write_file(scratch / "folder", "x"); }).code, Exit::disk);
  EXPECT_EQ(scratch.files(), std::vector<std::string>{"folder"});
}

// A link of another user is not followed.
TEST(File, WritingFollowsNoLink) {
  const Scratch scratch;
  scratch.write("victim", "theirs");
  fs::create_symlink(scratch / "victim", scratch / "a.part");
  EXPECT_EQ(failure_of([&] { write_file(scratch / "a", "x"); }).code, Exit::disk);
  EXPECT_EQ(read_file(scratch / "victim"), "theirs");
}

TEST(File, IsMapped) {
  const Scratch scratch;
  const std::string text(100'000, 'x');
  const MappedFile file(scratch.write("a", text));
  ASSERT_EQ(file.bytes().size(), text.size());
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file.bytes().data()), text.size()), text);
  file.release(0, text.size());
  EXPECT_EQ(file.bytes()[99'999], std::byte{'x'});
  EXPECT_TRUE(MappedFile(scratch.write("empty", "")).bytes().empty());
}

TEST(FileDeathTest, AMappedFileThatBecomesShorterIsNamed) {
  const Scratch scratch;
  const std::string shrinks = scratch.write("shrinks.safetensors", std::string(100'000, 'x'));
  const MappedFile before(scratch.write("other", "y"));
  EXPECT_EXIT(
      {
        const MappedFile file(shrinks);
        fs::resize_file(shrinks, 10);
        const volatile std::byte* bytes = file.bytes().data();
        (void)bytes[50'000];
      },
      testing::ExitedWithCode(static_cast<int>(Exit::invalid_input)),
      "error: .*shrinks.safetensors: became shorter while it was read");
}

// The handler only concerns mapped files.
TEST(FileDeathTest, OtherSignalsEndTheProgramAsBefore) {
  const Scratch scratch;
  const std::string name = scratch.write("a", "x");
  EXPECT_DEATH(
      {
        const MappedFile file(name);
        std::raise(SIGBUS);
      },
      "");
}

TEST(File, HashesAreSha256) {
  const Scratch scratch;
  const std::string abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  EXPECT_EQ(sha256("abc"), abc);
  EXPECT_EQ(sha256_of_file(scratch.write("a", "abc")), abc);
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  const std::string big(3'000'000, 'a');
  EXPECT_EQ(sha256_of_file(scratch.write("b", big)), sha256(big));
}

}  // namespace
}  // namespace quern
