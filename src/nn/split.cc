#include "nn/split.h"

#include "base/error.h"

namespace quern::nn {
namespace {

// Converts pieces of columns to units of `width` columns.
std::vector<Range> in_units(const std::vector<Range>& pieces, int64_t width,
                            const std::string& name) {
  std::vector<Range> units;
  for (const Range& piece : pieces) {
    if (piece.begin % width != 0 || piece.size % width != 0)
      fail(Exit::infeasible,
           "{}: columns {} to {} of a rank cut a group of {}; use fewer ranks, or quantize with "
           "smaller groups",
           name, piece.begin, piece.begin + piece.size, width);
    units.push_back({piece.begin / width, piece.size / width});
  }
  return units;
}

}  // namespace

int64_t Axis::size() const {
  int64_t all = 0;
  for (const Heads& heads : lists_) all += heads.size();
  return all;
}

void Axis::append(const Axis& more) {
  lists_.insert(lists_.end(), more.lists_.begin(), more.lists_.end());
}

std::vector<Range> Axis::share(const Rank& rank, const std::string& name) const {
  std::vector<Range> pieces;
  int64_t begin = 0;
  for (const Heads& heads : lists_) {
    const bool several = heads.count >= rank.count;
    if (several ? heads.count % rank.count != 0 : rank.count % heads.count != 0)
      fail(Exit::infeasible, "{}: {} heads cannot be divided among {} ranks", name, heads.count,
           rank.count);
    const int64_t each = several ? heads.count / rank.count : 1;
    pieces.push_back(
        {begin + rank.index * heads.count / rank.count * heads.width, each * heads.width});
    begin += heads.size();
  }
  return pieces;
}

Tensor pick(const Tensor& x, int64_t dim, const std::vector<Range>& pieces) {
  std::vector<Tensor> parts;
  for (const Range& piece : pieces) parts.push_back(x.narrow(dim, piece.begin, piece.size));
  return parts.size() == 1 ? parts[0] : at::cat(parts, dim);
}

quant::QuantWeight pick(const quant::QuantWeight& weight, int64_t dim,
                        const std::vector<Range>& pieces, const std::string& name) {
  quant::QuantWeight some = weight;
  if (dim == 0) {
    some.codes = pick(weight.codes, 0, pieces);
    some.scales = pick(weight.scales, 0, pieces);
    if (weight.zeros.defined()) some.zeros = pick(weight.zeros, 0, pieces);
    return some;
  }
  const std::vector<Range> groups = in_units(pieces, weight.columns / weight.scales.size(-1), name);
  some.codes = pick(weight.codes, 1, in_units(pieces, 2, name));
  some.scales = pick(weight.scales, 1, groups);
  if (weight.zeros.defined()) some.zeros = pick(weight.zeros, 1, groups);
  some.columns = 0;
  for (const Range& piece : pieces) some.columns += piece.size;
  return some;
}

}  // namespace quern::nn
