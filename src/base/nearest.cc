#include "base/nearest.h"

#include <algorithm>
#include <cctype>
#include <limits>
#include <numeric>
#include <unordered_map>

namespace quern {
namespace {

// The number of edits that turn `a` into `b`, or into the closest part of `b` if `anywhere`.
int edits(std::string_view a, std::string_view b, bool anywhere) {
  std::vector<int> row(b.size() + 1, 0);
  if (!anywhere) std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      int replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return anywhere ? *std::ranges::min_element(row) : row.back();
}

std::string without_numbers(std::string_view name) {
  std::string text;
  for (char c : name) {
    bool digit = std::isdigit(static_cast<unsigned char>(c)) != 0;
    if (!digit) {
      text += c;
    } else if (text.empty() || text.back() != '#') {
      text += '#';
    }
  }
  return text;
}

}  // namespace

int edit_distance(std::string_view a, std::string_view b) { return edits(a, b, false); }

std::string did_you_mean(std::string_view word, const std::vector<std::string>& known) {
  int least = std::numeric_limits<int>::max();
  const std::string* closest = nullptr;
  for (const std::string& candidate : known) {
    const int distance = edit_distance(word, candidate);
    if (distance >= least) continue;
    least = distance;
    closest = &candidate;
  }
  if (!closest) return {};
  const int size = static_cast<int>(closest->size());
  if (least > std::max(size / 3, std::min(2, size / 2))) return {};
  return "; did you mean " + *closest + "?";
}

std::vector<std::string> names_like(std::string_view part, const std::vector<std::string>& names) {
  std::unordered_map<std::string, bool> seen;
  std::vector<std::pair<int, std::string>> ranked;
  for (const std::string& name : names) {
    std::string shape = without_numbers(name);
    if (!seen.emplace(shape, true).second) continue;
    ranked.emplace_back(edits(without_numbers(part), shape, true), name);
  }
  std::ranges::stable_sort(ranked, {}, &std::pair<int, std::string>::first);
  std::vector<std::string> closest;
  for (size_t i = 0; i < std::min<size_t>(3, ranked.size()); ++i) {
    closest.push_back(ranked[i].second);
  }
  return closest;
}

}  // namespace quern
