#include "prompt/chat_images.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace quern::prompt {
namespace {

// The six bits of a base64 character, or -1.
int value_of(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

std::string from_base64(std::string_view text, const std::string& where) {
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  if (text.size() % 4 != 0) fail("{}: base64 must come in groups of four characters", where);
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3);
  uint32_t bits = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const int value = i < text.size() - padding ? value_of(text[i]) : 0;
    if (value < 0) fail("{}: character {} is not a base64 character", where, i);
    bits = bits << 6 | static_cast<uint32_t>(value);
    if (i % 4 != 3) continue;
    for (int shift : {16, 8, 0}) bytes.push_back(static_cast<char>(bits >> shift));
  }
  for (size_t i = 0; i < padding; ++i) bytes.pop_back();
  return bytes;
}

// RFC 2397: data:image/png;base64,AAAA
std::string from_data_url(std::string_view url, const std::string& where) {
  const size_t comma = url.find(',');
  if (comma == std::string_view::npos || !url.substr(0, comma).ends_with(";base64"))
    fail("{}: a data: URL must be like data:image/png;base64,AAAA", where);
  return from_base64(url.substr(comma + 1), where);
}

std::string fetch(const std::string& source, const std::string& where, const ImageFiles& files) {
  if (source.starts_with("data:")) return from_data_url(source, where);
  if (source.find("://") != std::string::npos) {
    fail("{}: pictures are not fetched from URLs ({}); give the name of a file or a data: URL",
         where, source.substr(0, 80));
  }
  return files(source);
}

bool is_image(const JsonValue& part) {
  if (!part.is_object() || !part.contains("type")) return false;
  return part["type"] == "image" || part["type"] == "image_url";
}

bool is_other_media(const JsonValue& part) {
  constexpr std::array kOther = {"video", "video_url", "audio", "audio_url", "input_audio"};
  if (!part.is_object() || !part.contains("type")) return false;
  return std::find(kOther.begin(), kOther.end(), part["type"]) != kOther.end();
}

std::string bytes_of(const Json& part, const ImageFiles& files) {
  if (part.has("base64")) return from_base64(part.get<std::string>("base64"), part.path());
  for (const char* key : {"image_url", "image", "url", "path"}) {
    if (!part.has(key)) continue;
    const Json given = part.at(key);
    return fetch(given.is_object() ? given.get<std::string>("url") : given.as<std::string>(),
                 given.path(), files);
  }
  fail("{}: no picture: it needs image_url, image, url, path or base64", part.path());
}

}  // namespace

bool has_images(const JsonValue& messages) {
  if (!messages.is_array()) return false;
  return std::any_of(messages.begin(), messages.end(), [](const JsonValue& message) {
    if (!message.is_object() || !message.contains("content")) return false;
    const JsonValue& content = message["content"];
    return content.is_array() && std::any_of(content.begin(), content.end(), is_image);
  });
}

ChatImages take_images(const JsonValue& messages, const ImageFiles& files) {
  ChatImages taken{messages, {}};
  for (size_t m = 0; m < taken.messages.size(); ++m) {
    JsonValue& message = taken.messages[m];
    if (!message.is_object() || !message.contains("content") || !message["content"].is_array())
      continue;
    for (size_t p = 0; p < message["content"].size(); ++p) {
      JsonValue& part = message["content"][p];
      const std::string where = fmt::format("messages[{}].content[{}]", m, p);
      if (is_other_media(part))
        fail("{}: {} is not implemented", where, part["type"].get<std::string>());
      if (!is_image(part)) continue;
      taken.images.push_back(bytes_of(Json(part, where), files));
      part = {{"type", "image"}};
    }
  }
  return taken;
}

}  // namespace quern::prompt
