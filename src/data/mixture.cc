#include "data/mixture.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/random.h"

namespace quern::data {
namespace {

int64_t count_rows(const std::filesystem::path& file) {
  auto rows = open_rows(file);
  Row row;
  int64_t count = 0;
  while (rows->next(row)) ++count;
  return count;
}

// How many rows each source gives; -1 for all of them.
std::vector<int64_t> plan(const std::vector<Source>& sources) {
  std::vector<int64_t> takes;
  double most = std::numeric_limits<double>::infinity();  // rows of a share of 1
  for (const Source& source : sources) {
    if (source.share) {
      most = std::min(most, static_cast<double>(count_rows(source.file)) / *source.share);
    }
  }
  for (const Source& source : sources) {
    const int64_t share = source.share ? std::llround(std::floor(most * *source.share)) : -1;
    takes.push_back(source.count.value_or(share));
  }
  return takes;
}

// Which rows of a file to take: their places in the file, ascending.
std::vector<int64_t> choose(const std::filesystem::path& file, int64_t take, uint64_t seed) {
  std::vector<int64_t> order = NumpyRandom(seed).permutation(count_rows(file));
  order.resize(std::min(order.size(), static_cast<size_t>(take)));
  std::sort(order.begin(), order.end());
  return order;
}

// Adds up what the rows take and stops before memory runs out.
class Budget {
 public:
  explicit Budget(size_t bytes) : left_(bytes), bytes_(bytes) {}

  void pay(const Row& row, const std::filesystem::path& file) {
    const size_t size = row.dump().size();
    if (size > left_) {
      fail("{}: the rows take more than {} MiB; take fewer with {}=COUNT", file.string(),
           bytes_ >> 20, file.string());
    }
    left_ -= size;
  }

 private:
  size_t left_;
  size_t bytes_;
};

}  // namespace

Source parse_source(const std::string& text) {
  const size_t mark = text.rfind('=');
  if (mark == std::string::npos || std::filesystem::exists(text)) return {.file = text};
  Source source{.file = text.substr(0, mark)};
  const std::string amount = text.substr(mark + 1);
  const char* end = amount.data() + amount.size();
  int64_t count = 0;
  double share = 0;
  if (auto [at, error] = std::from_chars(amount.data(), end, count);
      error == std::errc() && at == end && count > 0) {
    source.count = count;
  } else if (auto [stop, wrong] = std::from_chars(amount.data(), end, share);
             wrong == std::errc() && stop == end && share > 0 && share <= 1) {
    source.share = share;
  } else {
    fail("\"{}\": behind = stands a number of rows (200) or a share between 0 and 1 (0.5)", text);
  }
  return source;
}

std::vector<Row> read_mixture(const std::vector<Source>& sources, std::optional<uint64_t> seed,
                              size_t bytes, std::vector<size_t>* origins) {
  const std::vector<int64_t> takes = plan(sources);
  std::vector<Row> rows;
  Budget budget(bytes);
  for (size_t i = 0; i < sources.size(); ++i) {
    const auto& file = sources[i].file;
    const bool all = takes[i] < 0;
    std::vector<int64_t> places;
    if (!all && seed) places = choose(file, takes[i], *seed);
    const int64_t last = places.empty() ? takes[i] : places.back() + 1;
    auto reader = open_rows(file);
    Row row;
    size_t wanted = 0;
    for (int64_t place = 0; (all || place < last) && reader->next(row); ++place) {
      if (!places.empty()) {
        if (places[wanted] != place) continue;
        ++wanted;
      }
      budget.pay(row, file);
      rows.push_back(std::move(row));
      if (origins) origins->push_back(i);
    }
  }
  return rows;
}

}  // namespace quern::data
