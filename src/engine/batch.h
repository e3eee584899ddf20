// One pass of a model in plain numbers. A runner needs no other knowledge of the requests, so it
// may be another process.
#pragma once

#include <cstdint>
#include <vector>

namespace quern::engine {

// Between slots of recurrent state; from < 0: `to` is filled with zeros.
struct StateCopy {
  int32_t from, to;

  bool operator==(const StateCopy&) const = default;
};

struct Batch {
  // The blocks of all sequences in one group of layers: those of sequence i are blocks[begins[i]]
  // and the following, in the order of its tokens; -1 where the layers have forgotten them.
  struct Table {
    std::vector<int32_t> blocks = {};
    std::vector<int64_t> begins = {};
  };

  std::vector<StateCopy> copies = {};  // to be done first, in this order
  std::vector<int32_t> ids = {};       // tokens of all sequences, one sequence after another
  std::vector<int64_t> bounds = {0};   // sequence i has tokens [bounds[i], bounds[i + 1])
  std::vector<int64_t> past = {};      // by sequence: its tokens before these
  std::vector<Table> tables = {};      // by group
  std::vector<int32_t> slots = {};     // by sequence: of its recurrent state; -1: there is none
  // By sequence: the number under which the runner has its pictures; -1: it has none.
  std::vector<int64_t> pictures = {};
  std::vector<int64_t> rows = {};  // tokens whose logits are wanted, ascending

  int64_t sequences() const { return static_cast<int64_t>(past.size()); }
  int64_t tokens() const { return bounds.back(); }
};

}  // namespace quern::engine
