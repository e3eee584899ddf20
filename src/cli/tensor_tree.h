// Thousands of tensors as a short tree: names that differ only in numbers (layers, experts) share
// one line.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "checkpoint/header.h"
#include "cli/terminal.h"

namespace quern::cli {

class TensorTree {
 public:
  void add(const checkpoint::TensorInfo& tensor);

  // Indented by depth; each place shows the total bytes total below this node.
  std::string text(const Terminal& terminal) const;
  // A flat list: {"pattern", "count", "shape", "dtype", "bytes"}, in the order of the tree.
  JsonValue json() const;

 private:
  // Equal tensors with one pattern.
  struct Group {
    std::vector<int64_t> shape;
    std::string dtype;
    int64_t count = 0;
    size_t bytes = 0;
  };
  struct Node {
    std::string name;                          // one component; "*" for numbers
    std::set<int64_t> numbers;                 // the numbers for "*"
    size_t bytes = 0;                          // below it
    std::vector<Group> groups;                 // tensors that end here
    std::vector<std::unique_ptr<Node>> below;  // in the order of first appearance

    std::string label() const;
  };

  static void write_text(const Node& node, const std::string& prefix, int depth,
                         std::vector<std::pair<std::string, std::string>>& lines);
  static void write_json(const Node& node, const std::string& path, JsonValue& list);

  Node root_;
};

}  // namespace quern::cli
