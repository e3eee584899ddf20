// Turns rows into the token windows of calibration, packed as llm-compressor and AutoRound pack
// theirs.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "data/row_file.h"
#include "nn/media.h"
#include "nn/model.h"
#include "prompt/chat_template.h"
#include "prompt/media.h"
#include "prompt/tokenizer.h"

namespace quern::compress {

enum class Packing {
  // Rows are joined without a separator and cut every `seqlen` tokens; the remainder at the end is
  // dropped (llm-compressor's concatenate_data).
  concat,
  // One window per row, cut at `seqlen`; shorter rows stay short (llm-compressor's default).
  truncate,
  // One window per row, cut at `seqlen`; shorter rows are dropped, and so are windows more than
  // half of which repeat the last token (AutoRound).
  drop,
};

// "concat", "truncate" or "drop".
Packing parse_packing(const std::string& name);

// Whether a row's `tools` column is used.
enum class Tools { use, ignore };

// What is needed to read rows with pictures.
struct CalibrationImages {
  const prompt::ImageReader* reader;
  const nn::Vision* tower;
  // The bytes of the file `name` that row `row` refers to.
  std::function<std::string(int64_t row, const std::string& name)> file;
};

// The template for conversations, and what rows with pictures need. The first row that needs one
// loads it, from any thread. Null: the model has none.
struct CalibrationParts {
  std::function<const prompt::ChatTemplate*()> chat = nullptr;
  std::function<const CalibrationImages*()> images = nullptr;
};

struct CalibrationOptions {
  int64_t seqlen = 2048;
  int64_t samples = 512;  // windows, at most
  Packing packing = Packing::concat;
  // The order of datasets.shuffle(seed); without a seed, the order of the rows.
  std::optional<uint64_t> shuffle_seed = 42;
  Tools tools = Tools::use;
  JsonValue variables = JsonValue::object();  // for the chat template
  // Rows of the model's embedding, the bound of the ids in a row's input_ids; 0: the tokenizer's
  // size.
  int64_t vocabulary = 0;
};

struct CalibrationReport {
  int64_t rows = 0;          // given
  int64_t rows_read = 0;     // tokenized, until there were enough windows
  int64_t rows_dropped = 0;  // of those read; no token went into a window
  int64_t windows = 0;
  int64_t short_windows = 0;   // fewer than `seqlen` tokens
  int64_t tokens_read = 0;     // of the rows read
  int64_t tokens_used = 0;     // in windows
  int64_t tokens_dropped = 0;  // cut off, left over, or in dropped rows
  int64_t images = 0;          // in windows
  int64_t tokens_padded = 0;   // none: short windows stay short, because blocks take ragged input
};

// One line for people.
std::string to_text(const CalibrationReport& report);

struct CalibrationWindows {
  std::vector<std::vector<int32_t>> windows;
  // Pictures of each window; the window's end may cut the last one. Empty if no row has a picture.
  std::vector<std::vector<nn::PlacedImage>> images;
  CalibrationReport report;
};

// A row is one of these, in order of preference:
//   input_ids            used unchanged
//   messages [+ tools]   rendered by the chat template, add_generation_prompt off; parts may be
//                        pictures (prompt/chat_images.h), unless rows are joined
//   conversations        the same in ShareGPT's form, {from: human | gpt | ..., value}. The column
//   [+ system] [+ tools] `system` becomes the first turn, unless the conversation has one
//   prompt, completion   two lists of messages, or two texts to join
//   text                 with the special tokens that the tokenizer adds
// Arguments of tool calls may be JSON in a string (prompt/tool_calls.h).
// Rows are parsed on demand, until there are enough windows. Fails when a row has none of these
// forms (naming file and row), when a row needs a part that is null, and when no window results.
CalibrationWindows calibration_windows(const data::Rows& rows, const prompt::Tokenizer& tokenizer,
                                       const CalibrationParts& parts,
                                       const CalibrationOptions& options = {});

}  // namespace quern::compress
