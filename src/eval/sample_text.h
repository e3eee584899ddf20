// A default text and question for verify.
#pragma once

#include <filesystem>
#include <string>

namespace quern::eval {

struct SampleText {
  std::string text;      // about 3 KB of short conversations
  std::string question;  // one of them, up to the model's turn
};

// Rendered by the chat template of the model's folder; plain questions and answers if it has no
// template.
SampleText sample_text(const std::filesystem::path& folder);

}  // namespace quern::eval
