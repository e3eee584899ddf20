#include "serve/key_ring.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"

namespace quern::serve {
namespace {

namespace fs = std::filesystem;

class KeyRingTest : public testing::Test {
 protected:
  ~KeyRingTest() override { fs::remove(file_); }
  void write(const std::string& text) const { write_file(file_, text); }

  fs::path file_ = fs::temp_directory_path() / ("quern-keys-test-" + std::to_string(::getpid()));
};

TEST_F(KeyRingTest, ReadsKeysAndDigests) {
  write("- key: secret\n  name: alice\n  max-num-queued-reqs: 3\n- sha256: " + sha256("other") +
        "\n");
  const KeyRing ring({"line"}, file_);
  EXPECT_EQ(ring.size(), 3u);
  EXPECT_EQ(ring.find("secret")->name, "alice");
  EXPECT_EQ(ring.find("secret")->max_requests, 3);
  EXPECT_TRUE(ring.find("other"));
  EXPECT_TRUE(ring.find("line"));
  for (const char* wrong : {"", "secre", "secret ", "alice"})
    EXPECT_FALSE(ring.find(wrong)) << wrong;
}

// Requests in work stay counted, and a key that goes lives as long as somebody holds it.
TEST_F(KeyRingTest, ReloadsWithoutLosingCounts) {
  write("[{key: a, name: old}, {key: b}]");
  KeyRing ring({}, file_);
  const auto a = ring.find("a"), b = ring.find("b");
  a->requests = 5;
  write("[{key: a, max-num-queued-reqs: 7}, {key: c}]");
  ring.reload();
  EXPECT_EQ(ring.find("a"), a);
  EXPECT_EQ(ring.find("a")->requests, 5);
  EXPECT_EQ(ring.find("a")->max_requests, 7);
  EXPECT_FALSE(ring.find("b"));
  EXPECT_EQ(b->requests, 0);
  EXPECT_TRUE(ring.find("c"));
}

TEST_F(KeyRingTest, KeepsTheOldKeysWhenTheFileIsWrong) {
  write("[{key: a}]");
  KeyRing ring({}, file_);
  for (const char* wrong :
       {"", "[]", "a: b", "[a]", "[{}]", "[{key: a, sha256: b}]", "[{sha256: zz}]", "[{kei: a}]",
        "[{key: a}, {key: a}]", "[{key: b, max-num-queued-reqs: -1}]", "[{key: b, name: 5}]"}) {
    write(wrong);
    EXPECT_THROW(ring.reload(), Error) << wrong;
    EXPECT_TRUE(ring.find("a")) << wrong;
    EXPECT_EQ(ring.size(), 1u) << wrong;
    EXPECT_THROW(KeyRing({}, file_), Error) << wrong;
  }
  fs::remove(file_);
  EXPECT_THROW(ring.reload(), Error);
  EXPECT_TRUE(ring.find("a"));
}

}  // namespace
}  // namespace quern::serve
