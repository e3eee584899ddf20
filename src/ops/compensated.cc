#include "ops/compensated.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "ops/float_matrix.h"
#include "quant/float_type.h"
#include "quant/matrix_rows.h"
#include "quant/rows.h"

namespace quern::ops {
namespace {

constexpr int64_t kLanes = kernels::kCompensatedRows;
// Rows that one item takes through all columns: with 4096 columns 1 MB, which stays in L2.
constexpr int64_t kTileRows = 64;

// A tile of rows in the factor's order of columns, and the loop over blocks of columns. What
// happens to a block is the caller's.
class Tile {
 public:
  Tile(const InverseFactor& factor, const CompensatedOptions& options, int64_t rows)
      : factor_(factor),
        options_(options),
        rows_(rows),
        columns_(std::ssize(factor.order)),
        weights_(static_cast<size_t>(rows * columns_)) {}

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  const float* row(int64_t row) const { return weights_.data() + row * columns_; }

  // A row of the weight.
  void set(int64_t row, const float* weight) {
    float* to = weights_.data() + row * columns_;
    for (int64_t i = 0; i < columns_; ++i) {
      const int64_t column = factor_.order[static_cast<size_t>(i)];
      to[i] = factor_.dead[static_cast<size_t>(column)] ? 0.0f : weight[column];
    }
    if (!options_.keep_zeros) return;
    if (unpruned_.empty()) unpruned_.resize(weights_.size());
    for (int64_t i = 0; i < columns_; ++i)
      unpruned_[static_cast<size_t>(row * columns_ + i)] = to[i] == 0 ? 0.0f : 1.0f;
  }

  struct Block {
    int64_t begin, end;  // columns
    int64_t row, rows;   // of the tile, at most 16
    kernels::CompensatedColumns kernel;
  };

  // Blocks of columns from the first on, each for 16 rows after 16. Returns the loss.
  template <class Body>
  double run(const Body& body) {
    double loss = 0;
    for (int64_t begin = 0; begin < columns_; begin += options_.block) loss += step(begin, body);
    return loss;
  }

  // One block of columns, and what it takes from those after it.
  template <class Body>
  double step(int64_t begin, const Body& body) {
    const int64_t end = std::min(columns_, begin + options_.block), width = end - begin;
    lanes_.resize(static_cast<size_t>(3 * width * kLanes));
    errors_.resize(static_cast<size_t>(rows_ * width));
    double loss = 0;
    for (int64_t first = 0; first < rows_; first += kLanes) {
      const int64_t rows = std::min(kLanes, rows_ - first);
      float *w = lanes_.data(), *errors = w + width * kLanes, *unpruned = errors + width * kLanes;
      into_lanes(weights_, first, rows, begin, end, w);
      if (options_.keep_zeros) into_lanes(unpruned_, first, rows, begin, end, unpruned);
      body(Block{begin,
                 end,
                 first,
                 rows,
                 {width, upper(begin, begin), columns_, w, errors,
                  options_.keep_zeros ? unpruned : nullptr}});
      for (int64_t lane = 0; lane < rows; ++lane) {
        for (int64_t i = 0; i < width; ++i) {
          const float error = errors[i * kLanes + lane];
          weights_[static_cast<size_t>((first + lane) * columns_ + begin + i)] =
              w[i * kLanes + lane];
          errors_[static_cast<size_t>((first + lane) * width + i)] = -error;
          loss += 0.5 * double{error} * error;
        }
      }
    }
    update(begin, end);
    return loss;
  }

 private:
  const float* upper(int64_t row, int64_t column) const {
    return factor_.upper.const_data_ptr<float>() + row * columns_ + column;
  }

  void into_lanes(const std::vector<float>& from, int64_t first, int64_t rows, int64_t begin,
                  int64_t end, float* to) const {
    std::fill_n(to, (end - begin) * kLanes, 0.0f);
    for (int64_t lane = 0; lane < rows; ++lane)
      for (int64_t i = begin; i < end; ++i)
        to[(i - begin) * kLanes + lane] = from[static_cast<size_t>((first + lane) * columns_ + i)];
  }

  // weights -= errors U of the columns after the block.
  void update(int64_t begin, int64_t end) {
    const int64_t width = end - begin, rest = columns_ - end;
    if (rest == 0) return;
    const bool masked = options_.keep_zeros;
    if (masked) changes_.resize(static_cast<size_t>(rows_ * rest));
    float* to = weights_.data() + end;
    float_product({rows_,
                   rest,
                   width,
                   {errors_.data(), width},
                   {upper(begin, end), columns_},
                   masked ? changes_.data() : to,
                   masked ? rest : columns_,
                   /*accumulate=*/!masked});
    if (!masked) return;
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t i = 0; i < rest; ++i)
        to[row * columns_ + i] += changes_[static_cast<size_t>(row * rest + i)] *
                                  unpruned_[static_cast<size_t>(row * columns_ + end + i)];
    }
  }

  const InverseFactor& factor_;
  const CompensatedOptions& options_;
  int64_t rows_, columns_;
  std::vector<float> weights_, unpruned_;
  std::vector<float> lanes_, errors_, changes_;  // scratch; errors [rows, block], negative
};

CompensatedOptions within(CompensatedOptions options, int64_t columns) {
  QUERN_CHECK(options.block > 0);
  options.block = std::min(options.block, columns);
  return options;
}

Tile tile_of(const Tensor& weight, const InverseFactor& factor, const CompensatedOptions& options,
             int64_t first, int64_t last) {
  const quant::MatrixRows rows(weight, "weight");
  std::vector<float> numbers(static_cast<size_t>(rows.columns()));
  Tile tile(factor, options, last - first);
  for (int64_t row = first; row < last; ++row) {
    quant::widen(rows[row], weight.scalar_type(), rows.columns(), numbers.data());
    tile.set(row - first, numbers.data());
  }
  return tile;
}

// Scales and zeros of a block, number by number.
class GridLanes {
 public:
  GridLanes(const InverseFactor& factor, const quant::QuantWeight& start)
      : factor_(factor),
        scales_(start.scales.to(at::kFloat).contiguous()),
        zeros_(start.zeros),
        middle_(start.scheme.element->middle()),
        type_(quant::float_type(start.scheme.scale_dtype)),
        groups_(scales_.size(-1)),
        group_(start.columns / groups_) {}

  // first_row: of the weight.
  kernels::CompensatedGrid of(const Tile::Block& block, int64_t first_row) {
    const int64_t count = (block.end - block.begin) * kLanes;
    scale_.assign(static_cast<size_t>(count), 1.0f);
    zero_.assign(static_cast<size_t>(count), 0.0f);
    for (int64_t i = block.begin; i < block.end; ++i) {
      const int64_t group = factor_.order[static_cast<size_t>(i)] / group_;
      for (int64_t lane = 0; lane < block.rows; ++lane) {
        const int64_t at = (first_row + block.row + lane) * groups_ + group;
        const auto to = static_cast<size_t>((i - block.begin) * kLanes + lane);
        scale_[to] = scales_.const_data_ptr<float>()[at];
        if (zeros_.defined())
          zero_[to] = static_cast<float>(zeros_.const_data_ptr<uint8_t>()[at] - middle_);
      }
    }
    return {middle_, scale_.data(), zero_.data(), type_};
  }

 private:
  const InverseFactor& factor_;
  Tensor scales_, zeros_;
  int middle_;
  kernels::FloatType type_;
  int64_t groups_, group_;
  std::vector<float> scale_, zero_;
};

}  // namespace

CompensatedCodes compensated_codes(const Tensor& weight, const InverseFactor& factor,
                                   const quant::QuantWeight& start,
                                   const CompensatedOptions& given) {
  QUERN_CHECK(weight.dim() == 2 && std::ssize(factor.order) == weight.size(1) &&
              start.rows() == weight.size(0) && start.columns == weight.size(1));
  const quant::Element& element = *start.scheme.element;
  const int64_t rows = weight.size(0), columns = weight.size(1),
                tiles = (rows + kTileRows - 1) / kTileRows;
  const CompensatedOptions options = within(given, columns);
  CompensatedCodes out{start, 0};
  out.weight.codes = at::empty_like(start.codes);
  std::vector<double> losses(static_cast<size_t>(tiles));
  parallel_for(tiles, [&](int64_t t) {
    const int64_t first = t * kTileRows, last = std::min(rows, first + kTileRows);
    Tile tile = tile_of(weight, factor, options, first, last);
    GridLanes grid(factor, start);
    std::vector<uint8_t> codes(static_cast<size_t>((last - first) * columns)),
        lanes(static_cast<size_t>(options.block * kLanes));
    losses[static_cast<size_t>(t)] = tile.run([&](const Tile::Block& block) {
      kernels::cpu_kernels().compensate.round(block.kernel, grid.of(block, first), lanes.data());
      for (int64_t lane = 0; lane < block.rows; ++lane) {
        uint8_t* row = codes.data() + (block.row + lane) * columns;
        for (int64_t i = block.begin; i < block.end; ++i)
          row[factor.order[static_cast<size_t>(i)]] =
              lanes[static_cast<size_t>((i - block.begin) * kLanes + lane)];
      }
    });
    for (int64_t row = first; row < last; ++row)
      element.pack(codes.data() + (row - first) * columns, columns,
                   out.weight.codes.data_ptr<uint8_t>() + row * out.weight.codes.size(1));
  });
  out.loss = std::accumulate(losses.begin(), losses.end(), 0.0);
  return out;
}

namespace {

// What every weight of a block of columns costs when it becomes zero, [rows, width], up to a
// factor.
std::vector<float> costs_of(const std::vector<Tile>& tiles, const InverseFactor& factor,
                            int64_t begin, int64_t end) {
  const int64_t width = end - begin, columns = std::ssize(factor.order);
  const float* upper = factor.upper.const_data_ptr<float>();
  std::vector<float> costs(tiles.size() * static_cast<size_t>(kTileRows * width));
  parallel_for(std::ssize(tiles), [&](int64_t t) {
    const Tile& tile = tiles[static_cast<size_t>(t)];
    for (int64_t row = 0; row < tile.rows(); ++row) {
      for (int64_t i = begin; i < end; ++i)
        costs[static_cast<size_t>((t * kTileRows + row) * width + i - begin)] =
            kernels::pruning_cost(tile.row(row)[i], upper[i * columns + i]);
    }
  });
  costs.resize(
      static_cast<size_t>(((std::ssize(tiles) - 1) * kTileRows + tiles.back().rows()) * width));
  return costs;
}

// The cost up to which weights become zero, so that `share` of them and one do.
float threshold(std::vector<float> costs, double share) {
  const auto nth = costs.begin() + static_cast<int64_t>(static_cast<double>(costs.size()) * share);
  std::ranges::nth_element(costs, nth);
  return *nth;
}

// The numbers of a tile's block as [columns][16].
void mark(const std::vector<float>& costs, float most, const Tile::Block& block, int64_t first_row,
          std::vector<uint8_t>& marks) {
  const int64_t width = block.end - block.begin;
  marks.assign(static_cast<size_t>(width * kLanes), 0);
  for (int64_t lane = 0; lane < block.rows; ++lane) {
    const float* row = costs.data() + (first_row + block.row + lane) * width;
    for (int64_t i = 0; i < width; ++i)
      marks[static_cast<size_t>(i * kLanes + lane)] = row[i] <= most;
  }
}

}  // namespace

PrunedWeight pruned(const Tensor& weight, const InverseFactor& factor, const Pruning& pruning,
                    const CompensatedOptions& given) {
  QUERN_CHECK(weight.dim() == 2 && std::ssize(factor.order) == weight.size(1));
  QUERN_CHECK(
      pruning.of <= kernels::kMaxPattern &&
      (pruning.of == 0 || (given.block % pruning.of == 0 && weight.size(1) % pruning.of == 0)));
  const int64_t rows = weight.size(0), columns = weight.size(1);
  const CompensatedOptions options = within(given, columns);
  std::vector<Tile> tiles;
  for (int64_t first = 0; first < rows; first += kTileRows)
    tiles.push_back(tile_of(weight, factor, options, first, std::min(rows, first + kTileRows)));
  std::vector<double> losses(tiles.size());
  for (int64_t begin = 0; begin < columns; begin += options.block) {
    const int64_t end = std::min(columns, begin + options.block);
    std::vector<float> costs;
    if (pruning.of == 0) costs = costs_of(tiles, factor, begin, end);
    const float most = pruning.of == 0 ? threshold(costs, pruning.share) : 0;
    parallel_for(std::ssize(tiles), [&](int64_t t) {
      std::vector<uint8_t> marks;
      losses[static_cast<size_t>(t)] +=
          tiles[static_cast<size_t>(t)].step(begin, [&](const Tile::Block& block) {
            const kernels::CompensateKernels& kernel = kernels::cpu_kernels().compensate;
            if (pruning.of > 0)
              return kernel.prune_pattern(block.kernel, pruning.zeros, pruning.of);
            mark(costs, most, block, t * kTileRows, marks);
            kernel.prune(block.kernel, marks.data());
          });
    });
  }
  PrunedWeight out{at::empty({rows, columns}, weight.options()),
                   std::accumulate(losses.begin(), losses.end(), 0.0)};
  parallel_for(std::ssize(tiles), [&](int64_t t) {
    const Tile& tile = tiles[static_cast<size_t>(t)];
    std::vector<float> numbers(static_cast<size_t>(columns));
    for (int64_t row = 0; row < tile.rows(); ++row) {
      for (int64_t i = 0; i < columns; ++i)
        numbers[static_cast<size_t>(factor.order[static_cast<size_t>(i)])] = tile.row(row)[i];
      quant::narrow(
          numbers.data(), columns, weight.scalar_type(),
          static_cast<char*>(out.weight.data_ptr()) +
              (t * kTileRows + row) * columns * static_cast<int64_t>(weight.element_size()));
    }
  });
  return out;
}

}  // namespace quern::ops
