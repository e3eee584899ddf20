#include "compress/samples.h"

#include "base/error.h"
#include "base/threads.h"

namespace quern::compress {

Samples::Samples(std::vector<int64_t> lengths)
    : lengths_(std::move(lengths)), rows_(lengths_.size()), shared_(lengths_.size()) {}

Tensor Samples::read(const std::vector<int64_t>& which) const {
  QUERN_CHECK(!which.empty() && rows_[which[0]].defined());
  int64_t tokens = 0;
  std::vector<int64_t> begins;
  for (const int64_t sample : which) {
    begins.push_back(tokens);
    tokens += lengths_[sample];
  }
  Tensor rows = at::empty({tokens, rows_[which[0]].size(1)}, at::kFloat);
  parallel_for(std::ssize(which), [&](int64_t i) {
    at::NoGradGuard no_grad;
    rows.narrow(0, begins[i], lengths_[which[i]]).copy_(rows_[which[i]]);
  });
  return rows;
}

nn::Pass Samples::pass(const std::vector<int64_t>& which) const {
  std::vector<int64_t> lengths;
  std::vector<nn::Shared> shared;
  for (const int64_t sample : which) {
    lengths.push_back(lengths_[sample]);
    shared.push_back(shared_[sample]);
  }
  nn::Pass pass = nn::Pass::whole(lengths);
  pass.shared = nn::Shared::cat(shared).with_floats(at::kFloat);
  return pass;
}

void Samples::write(const std::vector<int64_t>& which, const Tensor& rows) {
  int64_t begin = 0;
  for (const int64_t sample : which) {
    rows_[sample] = rows.narrow(0, begin, lengths_[sample]).to(at::kBFloat16);
    begin += lengths_[sample];
  }
  QUERN_CHECK(begin == rows.size(0));
}

void Samples::tell(const std::vector<int64_t>& which, const nn::Shared& shared) {
  int64_t begin = 0;
  for (const int64_t sample : which) {
    shared_[sample].add(shared.narrow(begin, lengths_[sample]).with_floats(at::kBFloat16));
    begin += lengths_[sample];
  }
}

int64_t Samples::bytes(int64_t tokens, int64_t width) {
  return tokens * width * static_cast<int64_t>(c10::elementSize(at::kBFloat16));
}

}  // namespace quern::compress
