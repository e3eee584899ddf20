// Something to say to a model when its user has no text at hand.
#pragma once

#include <filesystem>
#include <string>

namespace quern::eval {

struct SampleText {
  std::string text;      // about 3 KB of short conversations, one after another
  std::string question;  // one of them as far as the model's turn
};

// As the chat template of the model's folder renders them; plain questions and answers when it has
// no template.
SampleText sample_text(const std::filesystem::path& folder);

}  // namespace quern::eval
