// Finds the pictures in messages, and removes them for the template.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/json.h"

namespace quern::prompt {

// Returns the bytes of a file that a message names. The function decides which names it may open.
using ImageFiles = std::function<std::string(const std::string& name)>;

struct ChatImages {
  JsonValue messages;               // their image parts are {"type": "image"}, as templates expect
  std::vector<std::string> images;  // the bytes of each, in the order of the parts
};

// Parts {"type": "image", "image" | "url" | "path": TEXT} or with "base64", and OpenAI's {"type":
// "image_url", "image_url": {"url": TEXT}}: a data: URL, or the name of a file. Fails on http and
// other URLs, and on parts of other media (video, audio), and names the part.
ChatImages take_images(const JsonValue& messages, const ImageFiles& files);
bool has_images(const JsonValue& messages);

}  // namespace quern::prompt
