#include "compress/smoothing.h"

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "base/threads.h"

namespace quern::compress {
namespace {

constexpr std::string_view kWeight = ".weight";

// Changed matrices of weights; a stack of experts changes once for all of its matrices.
class Edits {
 public:
  Tensor& of(const nn::LinearSite& site) {
    auto known =
        std::ranges::find_if(edits_, [&](const Edit& edit) { return edit.weight.is(site.weight); });
    if (known == edits_.end()) {
      edits_.push_back({site.weight, site.weight.dense()->all()});
      known = edits_.end() - 1;
    }
    return known->matrices[static_cast<size_t>(site.matrix)];
  }

  void carry_out() {
    for (Edit& edit : edits_)
      edit.weight.become(std::make_shared<ops::DenseStack>(std::move(edit.matrices)));
  }

 private:
  struct Edit {
    nn::Weight weight;
    std::vector<Tensor> matrices;
  };
  std::vector<Edit> edits_;
};

Tensor scaled(const Tensor& matrix, const Tensor& scale, DType dtype) {
  return matrix.to(at::kFloat).mul(scale).to(dtype);
}

// Divides the norm by `scale`, as far as its stored numbers allow, and returns by how much.
Tensor divide(const nn::NormSite& site, const Tensor& scale) {
  const Tensor factor = site.norm.factor();
  const double offset = site.plus_one ? 1 : 0;
  const Tensor stored = (factor / scale - offset).to(site.dtype).to(at::kFloat);
  Tensor made = stored + offset;
  Tensor quotient = factor / made;
  // A channel that the norm sets to zero, or that would overflow, keeps its scale.
  const Tensor sound = quotient.isfinite() & (quotient > 0);
  made = at::where(sound, made, factor);
  site.norm.become(made);
  return at::where(sound, quotient, at::ones_like(quotient));
}

}  // namespace

std::string Smoothing::name() const {
  return norm ? norm->tensor.substr(0, norm->tensor.size() - kWeight.size()) : linear->name;
}

std::vector<Smoothing> smoothings_of(const Sites& sites) {
  std::unordered_map<std::string_view, std::vector<const nn::LinearSite*>> by_input;
  std::unordered_map<std::string_view, const nn::LinearSite*> by_name;
  for (const nn::LinearSite& site : sites.linears) {
    by_input[site.input].push_back(&site);
    by_name[site.name] = &site;
  }
  std::vector<Smoothing> all;
  for (const nn::NormSite& norm : sites.norms) {
    Smoothing smoothing{.norm = &norm, .readers = {}};
    for (const std::string& input : norm.readers) {
      const auto& readers = by_input[input];
      smoothing.readers.insert(smoothing.readers.end(), readers.begin(), readers.end());
    }
    if (!smoothing.readers.empty()) all.push_back(std::move(smoothing));
  }
  for (const nn::LinearSite& site : sites.linears) {
    // A producer that the checkpoint stores as a part of another matrix is not a site.
    const auto producer = by_name.find(site.producer);
    if (producer != by_name.end()) all.push_back({.linear = producer->second, .readers = {&site}});
  }
  return all;
}

const nn::LinearSite& probe(const Smoothing& smoothing) {
  const auto all_tokens = std::ranges::find_if(
      smoothing.readers, [](const auto* reader) { return reader->weight.matrices() == 1; });
  return all_tokens == smoothing.readers.end() ? *smoothing.readers[0] : **all_tokens;
}

std::vector<nn::Weight> weights_that_read(const Sites& sites, const std::string& input) {
  std::vector<nn::Weight> weights;
  for (const nn::LinearSite& site : sites.linears) {
    const auto same = [&](const nn::Weight& weight) { return weight.is(site.weight); };
    if (site.input == input && std::ranges::none_of(weights, same)) weights.push_back(site.weight);
  }
  return weights;
}

std::vector<Tensor> scaled_columns(const ops::DenseStack& stack, const Tensor& scale, DType dtype) {
  std::vector<Tensor> matrices(static_cast<size_t>(stack.matrices()));
  parallel_for(stack.matrices(), [&](int64_t i) {
    at::NoGradGuard no_grad;
    matrices[static_cast<size_t>(i)] = scaled(stack.matrix(i), scale, dtype);
  });
  return matrices;
}

void move_scales(const std::vector<Smoothing>& smoothings, const std::vector<Tensor>& scales) {
  QUERN_CHECK(smoothings.size() == scales.size());
  at::NoGradGuard no_grad;
  Edits edits;
  for (size_t i = 0; i < scales.size(); ++i) {
    if (!scales[i].defined()) continue;
    Tensor scale = scales[i];
    if (smoothings[i].norm) {
      scale = divide(*smoothings[i].norm, scale);
    } else {
      Tensor& rows = edits.of(*smoothings[i].linear);
      rows = scaled(rows, scale.reciprocal().unsqueeze(1), rows.scalar_type());
    }
    for (const nn::LinearSite* reader : smoothings[i].readers) {
      Tensor& matrix = edits.of(*reader);
      matrix = scaled(matrix, scale, matrix.scalar_type());
    }
  }
  edits.carry_out();
}

}  // namespace quern::compress
