#include "data/mixture.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "base/random.h"

namespace quern::data {
namespace {

// The number of rows from each source; -1: all.
std::vector<int64_t> plan(const std::vector<RowSource>& sources,
                          const std::vector<std::unique_ptr<RowFile>>& files) {
  std::vector<int64_t> takes;
  double most = std::numeric_limits<double>::infinity();  // rows for a share of 1
  for (size_t i = 0; i < sources.size(); ++i) {
    if (sources[i].share)
      most = std::min(most, static_cast<double>(files[i]->size()) / *sources[i].share);
  }
  for (const RowSource& source : sources) {
    const int64_t share = source.share ? std::llround(std::floor(most * *source.share)) : -1;
    takes.push_back(source.count.value_or(share));
  }
  return takes;
}

// The places of the rows taken from a file, ascending; all rows if `take` is -1.
std::vector<int64_t> choose(int64_t rows, int64_t take, std::optional<uint64_t> seed) {
  std::vector<int64_t> places(static_cast<size_t>(rows));
  std::iota(places.begin(), places.end(), 0);
  if (take < 0 || take >= rows) return places;
  if (seed) places = NumpyRandom(*seed).permutation(rows);
  places.resize(static_cast<size_t>(take));
  std::sort(places.begin(), places.end());
  return places;
}

// Opens a source. Rows beyond those needed are not indexed.
std::unique_ptr<RowFile> open_source(const RowSource& source, bool shuffled) {
  RowLimits limits;
  if (source.count && !shuffled) limits.rows = *source.count;
  return open_rows(source.file, limits);
}

}  // namespace

RowSource parse_source(const std::string& text) {
  const size_t mark = text.rfind('=');
  if (mark == std::string::npos || std::filesystem::exists(text)) return {.file = text};
  RowSource source{.file = text.substr(0, mark)};
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
    fail("\"{}\": expected a number of rows (200) or a share between 0 and 1 (0.5) after =", text);
  }
  return source;
}

Mixture::Mixture(const std::vector<RowSource>& sources, std::optional<uint64_t> seed,
                 size_t held_bytes) {
  std::vector<std::unique_ptr<RowFile>> files;
  for (const RowSource& source : sources) files.push_back(open_source(source, seed.has_value()));
  const std::vector<int64_t> takes = plan(sources, files);
  int64_t begin = 0;
  for (size_t i = 0; i < sources.size(); ++i) {
    Part part{std::move(files[i]), {}, begin};
    part.places = choose(part.file->size(), takes[i], seed);
    held_bytes -= part.file->prepare(part.places, held_bytes);
    begin += std::ssize(part.places);
    parts_.push_back(std::move(part));
  }
}

int64_t Mixture::size() const {
  return parts_.empty() ? 0 : parts_.back().begin + std::ssize(parts_.back().places);
}

size_t Mixture::source(int64_t i) const {
  QUERN_CHECK(i >= 0 && i < size());
  const auto after =
      std::upper_bound(parts_.begin(), parts_.end(), i,
                       [](int64_t row, const Part& part) { return row < part.begin; });
  return static_cast<size_t>(after - parts_.begin() - 1);
}

Row Mixture::row(int64_t i) const {
  const Part& part = parts_[source(i)];
  return part.file->row(part.places[static_cast<size_t>(i - part.begin)]);
}

std::string Mixture::where(int64_t i) const {
  const Part& part = parts_[source(i)];
  return part.file->where(part.places[static_cast<size_t>(i - part.begin)]);
}

}  // namespace quern::data
