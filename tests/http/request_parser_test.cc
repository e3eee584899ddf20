// A request is the same however its bytes are cut, up to the limits of its head.
#include "http/request_parser.h"

#include <gtest/gtest.h>

namespace quern::http {
namespace {

// The status that refuses it, or 200; all bytes must be used.
int parse(std::string_view bytes, size_t piece, const RequestLimits& limits) {
  RequestParser parser(limits);
  size_t used = 0;
  try {
    while (!parser.done() && used < bytes.size()) {
      const std::string_view next = bytes.substr(used, piece);
      used += parser.feed(next);
    }
  } catch (const Fault& fault) {
    return fault.status();
  }
  EXPECT_EQ(used, bytes.size());
  return parser.done() ? 200 : 0;
}

std::string head_of(size_t size) {
  std::string head = "GET / HTTP/1.1\r\nHost: x\r\nX: ";
  head.resize(size - 4, 'y');
  return head + "\r\n\r\n";
}

TEST(RequestParserTest, EmptyLinesTakeNothingFromTheHead) {
  const RequestLimits limits{.head_bytes = 1024};
  for (size_t lines : {0, 1, 8})
    for (size_t size : {1000, 1020, 1024, 1028}) {
      std::string bytes;
      for (size_t i = 0; i < lines; ++i) bytes += "\r\n";
      bytes += head_of(size);
      for (size_t piece : {bytes.size(), size_t{1}, size_t{3}, size_t{17}, size_t{1000}})
        EXPECT_EQ(parse(bytes, piece, limits), 200) << lines << " " << size << " " << piece;
    }
}

TEST(RequestParserTest, AHeadBeyondTheLimitIsRefused) {
  const RequestLimits limits{.head_bytes = 1024};
  for (size_t piece : {1, 100, 5000}) EXPECT_EQ(parse(head_of(1040), piece, limits), 431);
}

TEST(RequestParserTest, HalfAnEmptyLineBeginsNoRequest) {
  for (size_t piece : {1, 100}) {
    EXPECT_EQ(parse("\rGET / HTTP/1.1\r\nHost: x\r\n\r\n", piece, {}), 400);
    EXPECT_EQ(parse("\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", piece, {}), 400);
  }
}

}  // namespace
}  // namespace quern::http
