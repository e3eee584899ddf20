#include "eval/sample_text.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "base/json.h"
#include "prompt/chat_template.h"

namespace quern::eval {
namespace {

namespace fs = std::filesystem;

// Questions with answers, simple enough for a model with a few million parameters, because
// divergence means little for text that the source cannot predict.
constexpr std::string_view kChats = R"([
["Compute 36 + 22.", "36 + 22 = 58\n#### 58"],
["Cora has 24 apples. She buys 13 more. How many apples does Cora have now?",
 "Cora gets 13 more apples. 24 + 13 = 37.\n#### 37"],
["Facts: Uma lives in Paris. Finn works as a baker. Uma has a pet rabbit.\nWhere does Uma live?", "Paris"],
["What is the last word of this list? river, lamp, stone, window", "window"],
["Ben has 45 coins but loses 12 of them. How many coins does Ben have now?",
 "12 coins are gone. 45 - 12 = 33.\n#### 33"],
["Return JSON with the fields name, age, job, pet for this text: Rosa works as a nurse. She has a pet cat. She is 34 years old.",
 "{\"name\": \"Rosa\", \"age\": 34, \"job\": \"nurse\", \"pet\": \"cat\"}"],
["Passage: The ladder is in the garden. Paul works as a farmer. The drum is in the attic.\nWhere is the drum?", "attic"],
["Sam has 6 boxes with 4 pencils in each. How many pencils are there in all?",
 "There are 6 boxes of 4 pencils. 6 * 4 = 24.\n#### 24"],
["Compute 81 - 30.", "81 - 30 = 51\n#### 51"],
["What is the first word of this list? bread, cloud, garden", "bread"],
["Read this: Uma likes to eat soup. Emil works as a pilot. The code of the box is 352. Uma lives in Rome.\nWhat is the job of Emil? Answer with one word.", "pilot"],
["Ella shares 24 cards equally among 6 friends. How many cards does each friend get?",
 "24 cards are shared by 6 friends. 24 / 6 = 4.\n#### 4"],
["Hugo has 3 shelves with 8 books in each. Then Hugo finds 15 more. How many books are there in the end?",
 "There are 3 shelves of 8 books. 3 * 8 = 24.\nThen Hugo gets 15 more books. 24 + 15 = 39.\n#### 39"],
["Facts: Ella has a pet dog. The kettle is in the kitchen. Jack lives in Berlin. Ella works as a painter.\nWhat is the pet of Ella?", "dog"],
["Compute 7 * 8.", "7 * 8 = 56\n#### 56"],
["Return JSON with the fields name, age, job, pet for this text: Hugo is 51 years old. He works as a singer. He has a pet parrot.",
 "{\"name\": \"Hugo\", \"age\": 51, \"job\": \"singer\", \"pet\": \"parrot\"}"],
["Ella has 52 stickers. She gives 21 of them to Finn and buys 10 more. How many stickers does Ella have now?",
 "Ella gives away 21 stickers. 52 - 21 = 31.\nThen Ella gets 10 more stickers. 31 + 10 = 41.\n#### 41"],
["What is the last word of this list? coin, kite, snow, ocean, door", "door"],
["Passage: Rosa lives in Sydney. Rosa likes to eat fish. Carlos works as a tailor.\nWhat does Rosa like to eat?", "fish"],
["Dan has 18 marbles. He finds 40 more. How many marbles does Dan have now?",
 "Dan gets 40 more marbles. 18 + 40 = 58.\n#### 58"]
])";

bool has_template(const fs::path& folder) {
  if (fs::exists(folder / "chat_template.jinja")) return true;
  const fs::path config = folder / "tokenizer_config.json";
  return fs::exists(config) && read_json(config).contains("chat_template");
}

// The question as the model reads it, optionally with the answer.
std::string rendered(const prompt::ChatTemplate* chat_template, const JsonValue& chat,
                     bool answer) {
  if (!chat_template) {
    return chat[0].get<std::string>() + "\n" + (answer ? chat[1].get<std::string>() + "\n\n" : "");
  }
  JsonValue messages = {{{"role", "user"}, {"content", chat[0]}}};
  if (answer) messages.push_back({{"role", "assistant"}, {"content", chat[1]}});
  return chat_template->render(messages, {.add_generation_prompt = !answer});
}

}  // namespace

SampleText sample_text(const fs::path& folder) {
  std::optional<prompt::ChatTemplate> chat_template;
  if (has_template(folder)) chat_template = prompt::ChatTemplate::of_folder(folder);
  const prompt::ChatTemplate* renderer = chat_template ? &*chat_template : nullptr;
  const JsonValue chats = parse_json(kChats, "the sample conversations");
  SampleText sample;
  for (const JsonValue& chat : chats) sample.text += rendered(renderer, chat, /*answer=*/true);
  sample.question = rendered(renderer, chats[1], /*answer=*/false);
  return sample;
}

}  // namespace quern::eval
