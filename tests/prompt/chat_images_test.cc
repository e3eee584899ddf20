// Pictures in messages: every way to write one, and what is refused.
#include "prompt/chat_images.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace quern::prompt {
namespace {

// A message whose content is one part.
JsonValue message(JsonValue part) {
  return {{{"role", "user"}, {"content", JsonValue::array({std::move(part)})}}};
}

std::string file(const std::string& name) { return "bytes of " + name; }

std::string refusal(const JsonValue& messages) {
  try {
    take_images(messages, file);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::invalid_input);
    return error.what();
  }
  return "";
}

TEST(ChatImagesTest, EveryWayToWriteOne) {
  const JsonValue ways[] = {
      {{"type", "image"}, {"image", "a.png"}},
      {{"type", "image"}, {"url", "a.png"}},
      {{"type", "image"}, {"path", "a.png"}},
      {{"type", "image_url"}, {"image_url", "a.png"}},
      {{"type", "image_url"}, {"image_url", {{"url", "a.png"}, {"detail", "high"}}}},
  };
  for (const JsonValue& part : ways) {
    const ChatImages taken = take_images(message(part), file);
    EXPECT_EQ(taken.images, std::vector<std::string>{"bytes of a.png"}) << part;
    EXPECT_EQ(taken.messages, message({{"type", "image"}})) << part;
    EXPECT_TRUE(has_images(message(part)));
  }
}

TEST(ChatImagesTest, DataUrlsAndBase64) {
  const std::pair<const char*, std::string> cases[] = {
      {"", ""},
      {"TQ==", "M"},
      {"TWE=", "Ma"},
      {"TWFu", "Man"},
      {"AP/+", std::string("\0\xff\xfe", 3)},
  };
  for (const auto& [text, bytes] : cases) {
    const JsonValue url = {{"type", "image_url"},
                           {"image_url", {{"url", std::string("data:image/png;base64,") + text}}}};
    EXPECT_EQ(take_images(message(url), file).images.at(0), bytes) << text;
    const JsonValue bare = {{"type", "image"}, {"base64", text}};
    EXPECT_EQ(take_images(message(bare), file).images.at(0), bytes) << text;
  }
}

TEST(ChatImagesTest, OrderIsThatOfTheParts) {
  const JsonValue messages = {
      {{"role", "user"},
       {"content",
        {{{"type", "text"}, {"text", "two"}},
         {{"type", "image"}, {"path", "a"}},
         {{"type", "image"}, {"path", "b"}}}}},
      {{"role", "assistant"}, {"content", "text"}},
      {{"role", "user"}, {"content", {{{"type", "image"}, {"path", "c"}}}}},
  };
  const ChatImages taken = take_images(messages, file);
  EXPECT_EQ(taken.images, (std::vector<std::string>{"bytes of a", "bytes of b", "bytes of c"}));
  EXPECT_EQ(taken.messages[0]["content"][0], messages[0]["content"][0]);
  EXPECT_EQ(taken.messages[1], messages[1]);
}

TEST(ChatImagesTest, TextIsLeftAlone) {
  const JsonValue messages = {{{"role", "user"}, {"content", "plain"}},
                              {{"role", "user"}, {"content", nullptr}},
                              {{"role", "user"}}};
  EXPECT_EQ(take_images(messages, file).messages, messages);
  EXPECT_FALSE(has_images(messages));
  EXPECT_FALSE(has_images("no list"));
}

TEST(ChatImagesTest, Refusals) {
  auto expect = [](const JsonValue& part, const char* why) {
    const std::string message_text = refusal(message(part));
    EXPECT_NE(message_text.find(why), std::string::npos) << message_text;
    EXPECT_NE(message_text.find("messages[0].content[0]"), std::string::npos) << message_text;
  };
  auto url = [](const char* text) {
    return JsonValue{{"type", "image_url"}, {"image_url", {{"url", text}}}};
  };
  expect(url("https://example.org/a.png"), "not fetched");
  expect(url("http://127.0.0.1/a.png"), "not fetched");
  expect(url("file:///etc/passwd"), "not fetched");
  expect(url("data:image/png,abc"), "must be like data:");
  expect(url("data:image/png;base64"), "must be like data:");
  expect(url("data:image/png;base64,AAA"), "groups of four");
  expect(url("data:image/png;base64,AA*A"), "not a base64 character");
  expect(url("data:image/png;base64,===="), "not a base64 character");
  expect(url("data:image/png;base64,A=AA"), "not a base64 character");
  expect({{"type", "image"}}, "no picture: it needs");
  expect({{"type", "image_url"}, {"image_url", 7}}, "image_url");
  expect({{"type", "video"}, {"video", "a.mp4"}}, "video is not implemented");
  expect({{"type", "input_audio"}}, "input_audio is not implemented");
}

}  // namespace
}  // namespace quern::prompt
