#include "base/error.h"

#include <gtest/gtest.h>

namespace quern {
namespace {

TEST(Errors, CarryACodeAndAMessage) {
  try {
    fail(Exit::disk, "{}: {} bytes", "a", 3);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::disk);
    EXPECT_STREQ(error.what(), "a: 3 bytes");
  }
  try {
    fail("{} is missing", "key");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::invalid_input);
    EXPECT_STREQ(error.what(), "key is missing");
  }
}

// The codes are part of the interface: docs/cli.md lists them.
TEST(Errors, ExitCodesStay) {
  EXPECT_EQ(static_cast<int>(Exit::internal), 1);
  EXPECT_EQ(static_cast<int>(Exit::usage), 2);
  EXPECT_EQ(static_cast<int>(Exit::infeasible), 3);
  EXPECT_EQ(static_cast<int>(Exit::invalid_input), 4);
  EXPECT_EQ(static_cast<int>(Exit::verification_failed), 5);
  EXPECT_EQ(static_cast<int>(Exit::interrupted), 6);
  EXPECT_EQ(static_cast<int>(Exit::disk), 7);
  EXPECT_EQ(static_cast<int>(Exit::memory), 8);
  EXPECT_EQ(static_cast<int>(Exit::device), 9);
}

TEST(Errors, AFailedCheckIsOurs) {
  int evaluated = 0;
  QUERN_CHECK(++evaluated == 1);
  EXPECT_EQ(evaluated, 1);
  try {
    QUERN_CHECK(evaluated == 2);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::internal);
    const std::string text = error.what();
    EXPECT_NE(text.find("error_test.cc"), std::string::npos) << text;
    EXPECT_NE(text.find("evaluated == 2 does not hold"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace quern
