// Rows -> the token windows that calibration runs through the model, packed as the peers pack
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
  // Rows are joined without a separator and cut every `seqlen` tokens; what is left at the end is
  // dropped (llm-compressor's concatenate_data).
  concat,
  // One window a row, cut at `seqlen`; shorter rows stay short (llm-compressor's default).
  truncate,
  // One window a row, cut at `seqlen`; shorter rows, and windows of which the last token makes up
  // more than half, are dropped (AutoRound).
  drop,
};

// "concat", "truncate" or "drop".
Packing parse_packing(const std::string& name);

// What becomes of a row's `tools` column.
enum class Tools { use, ignore };

// What rows with pictures need.
struct CalibrationImages {
  const prompt::ImageReader* reader;
  const nn::Vision* tower;
  // The bytes of a file that a row of this number names.
  std::function<std::string(int64_t row, const std::string& name)> file;
};

// The template for rows that are conversations and what rows with pictures need: both are asked for
// by the first such row, from any thread, so that nothing is loaded in vain. Null: there is none.
struct CalibrationParts {
  std::function<const prompt::ChatTemplate*()> chat = nullptr;
  std::function<const CalibrationImages*()> images = nullptr;
};

struct CalibrationOptions {
  int64_t seqlen = 2048;
  int64_t samples = 512;  // windows, at most
  Packing packing = Packing::concat;
  // The order of datasets.shuffle(seed); the order of the rows when absent.
  std::optional<uint64_t> shuffle_seed = 42;
  Tools tools = Tools::use;
  JsonValue variables = JsonValue::object();  // for the chat template
  // Rows of the model's embedding, which bounds ids that rows bring along; the tokenizer's when 0.
  int64_t vocabulary = 0;
};

struct CalibrationReport {
  int64_t rows = 0;          // given
  int64_t rows_read = 0;     // tokenized, until there were windows enough
  int64_t rows_dropped = 0;  // of those read: gave no token to any window
  int64_t windows = 0;
  int64_t short_windows = 0;   // fewer than `seqlen` tokens
  int64_t tokens_read = 0;     // of the rows read
  int64_t tokens_used = 0;     // in windows
  int64_t tokens_dropped = 0;  // cut off, left over, or of dropped rows
  int64_t images = 0;          // in windows
  int64_t tokens_padded = 0;   // none: short windows stay short, because blocks take ragged input
};

// One line for people.
std::string to_text(const CalibrationReport& report);

struct CalibrationWindows {
  std::vector<std::vector<int32_t>> windows;
  // Pictures of each window, of which the last may be cut by its end; empty if no row has any.
  std::vector<std::vector<nn::PlacedImage>> images;
  CalibrationReport report;
};

// A row is one of, in this order of preference:
//   input_ids            taken as they are
//   messages [+ tools]   rendered by the chat template, add_generation_prompt off; parts may be
//                        pictures (prompt/chat_images.h), unless rows are joined
//   conversations        the same, in ShareGPT's form: {from: human | gpt | ..., value}; the text
//   of
//   [+ system] [+ tools] a column `system` comes first, unless the conversation begins with its own
//   prompt, completion   two lists of messages, or two texts that are joined
//   text                 with the special tokens that the tokenizer adds
// Arguments of tool calls may be JSON in a text (prompt/tool_calls.h).
// Rows are parsed when their turn comes, until there are windows enough. Fails when a row is none
// of these, naming file and row, when a row needs a part that is null, and when no window results.
CalibrationWindows calibration_windows(const data::Rows& rows, const prompt::Tokenizer& tokenizer,
                                       const CalibrationParts& parts,
                                       const CalibrationOptions& options = {});

}  // namespace quern::compress
