#include "cli/tensor_tree.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoint/dtype.h"

namespace quern::cli {
namespace {

std::vector<std::string> components(const std::string& name) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    parts.push_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

bool is_index(const std::string& part) {
  return !part.empty() && part.size() <= 9 &&
         std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

void TensorTree::add(const checkpoint::TensorInfo& tensor) {
  Node* node = &root_;
  node->bytes += tensor.bytes();
  for (const std::string& part : components(checkpoint::printable(tensor.name))) {
    const std::string name = is_index(part) ? "*" : part;
    auto found = std::find_if(node->below.begin(), node->below.end(),
                              [&](const auto& child) { return child->name == name; });
    if (found == node->below.end()) {
      node->below.push_back(std::make_unique<Node>());
      found = node->below.end() - 1;
      (*found)->name = name;
    }
    node = found->get();
    node->bytes += tensor.bytes();
    if (name == "*") node->numbers.insert(std::stoll(part));
  }
  const std::string dtype(checkpoint::dtype_name(tensor.dtype));
  auto group = std::find_if(node->groups.begin(), node->groups.end(), [&](const Group& known) {
    return known.shape == tensor.shape && known.dtype == dtype;
  });
  if (group == node->groups.end()) group = node->groups.insert(group, {tensor.shape, dtype, 0, 0});
  ++group->count;
  group->bytes += tensor.bytes();
}

std::string TensorTree::Node::label() const {
  if (name != "*") return name;
  const int64_t first = *numbers.begin(), last = *numbers.rbegin();
  if (first == last) return std::to_string(first);
  if (static_cast<int64_t>(numbers.size()) == last - first + 1)
    return fmt::format("{{{}..{}}}", first, last);
  return fmt::format("{{{} of {}..{}}}", numbers.size(), first, last);
}

void TensorTree::write_text(const Node& node, const std::string& prefix, int depth,
                            std::vector<std::pair<std::string, std::string>>& lines) {
  const std::string name = prefix + node.label();
  const std::string indent(static_cast<size_t>(2 * depth), ' ');
  if (node.groups.empty() && node.below.size() == 1) {
    write_text(*node.below[0], name + ".", depth, lines);
    return;
  }
  for (const Group& group : node.groups)
    lines.emplace_back(
        indent + name,
        fmt::format("{:>6}  {:<5} {:<18} {:>10}",
                    group.count == 1 ? "" : count_text(group.count) + " x", group.dtype,
                    fmt::format("[{}]", fmt::join(group.shape, ", ")), bytes_text(group.bytes)));
  if (node.below.empty()) return;
  lines.emplace_back(indent + name, fmt::format("{:>43}", bytes_text(node.bytes)));
  for (const auto& child : node.below) write_text(*child, "", depth + 1, lines);
}

std::string TensorTree::text(const Terminal& terminal) const {
  std::vector<std::pair<std::string, std::string>> lines;
  for (const auto& child : root_.below) write_text(*child, "", 0, lines);
  size_t width = 0;
  for (const auto& line : lines) width = std::max(width, line.first.size());
  std::string text;
  for (const auto& [name, facts] : lines)
    text += fmt::format("{:<{}}  {}\n", name, width, terminal.dim(facts));
  return text;
}

void TensorTree::write_json(const Node& node, const std::string& path, JsonValue& list) {
  const std::string name = path.empty() ? node.name : path + "." + node.name;
  for (const Group& group : node.groups)
    list.push_back({{"pattern", name},
                    {"count", group.count},
                    {"shape", group.shape},
                    {"dtype", group.dtype},
                    {"bytes", group.bytes}});
  for (const auto& child : node.below) write_json(*child, name, list);
}

JsonValue TensorTree::json() const {
  JsonValue list = JsonValue::array();
  for (const auto& child : root_.below) write_json(*child, "", list);
  return list;
}

}  // namespace quern::cli
