#include <algorithm>
#include <cmath>
#include <set>
#include <unordered_map>

#include "base/error.h"
#include "base/threads.h"
#include "checkpoint/dtype.h"
#include "eval/checks.h"

namespace quern::eval {
namespace {

using checkpoint::Files;
using checkpoint::TensorInfo;

std::string kind_of(const TensorInfo& tensor) {
  return fmt::format("{} {}", checkpoint::dtype_name(tensor.dtype), shape_text(tensor.shape));
}

// Describes the difference of two tensors of equal dtype and shape.
std::string difference(const Tensor& a, const Tensor& b) {
  const Tensor x = a.reshape({-1}), y = b.reshape({-1});
  if (!x.is_floating_point())
    return fmt::format("{} of {} numbers differ", x.ne(y).sum().item<int64_t>(), x.numel());
  const Tensor apart = (x.to(at::kDouble) - y.to(at::kDouble)).abs();
  // NaN is not equal to itself, so bytes are compared.
  const int64_t changed = apart.ne(0).sum().item<int64_t>();
  return fmt::format("{} of {} numbers differ, by {:.3g} at most", changed, x.numel(),
                     apart.max().item<double>());
}

bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

class TensorCheck {
 public:
  TensorCheck(const Pair& pair, VerifyReport& report)
      : source_(pair.source->files),
        artifact_(pair.artifact->files),
        unused_(pair.unused),
        changed_(pair.records ? pair.records->changed : std::map<std::string, std::string>()),
        report_(report) {
    for (const Module& module : pair.modules) modules_[module.source].push_back(&module);
  }

  void run() {
    report_.tensors = std::ssize(source_.names());
    for (const std::string& name : source_.names()) {
      check(name);
      source_.release(name);
    }
    for (const std::string& name : artifact_.names()) {
      if (expected_.contains(name)) continue;
      found(report_, name,
            "the source has no such tensor, and it is not a part of a quantized one");
    }
  }

 private:
  void check(const std::string& name) {
    auto held = modules_.find(name);
    const bool any_packed = held != modules_.end() && expect_packed(held->second) > 0;
    if (artifact_.has(name)) {
      expected_.insert(name);
      if (any_packed) found(report_, name, "exists both quantized and unquantized; remove one");
      return check_copy(name);
    }
    if (held == modules_.end()) {
      if (!unused_.contains(name)) return found(report_, name, "is missing");
      ++report_.dropped;
      return;
    }
    const bool stacked = source_.info(name).shape.size() == 3;
    for (const Module* module : held->second) {
      if (is_packed(artifact_, module->name)) continue;
      if (stacked) {
        check_slice(*module);
      } else {
        found(report_, name, "is missing, and not quantized either");
      }
    }
  }

  // Returns the number of packed modules; their tensors are expected from now on.
  int64_t expect_packed(const std::vector<const Module*>& modules) {
    int64_t count = 0;
    for (const Module* module : modules) {
      if (!is_packed(artifact_, module->name)) continue;
      ++count;
      for (const quant::Format* format : quant::formats())
        for (std::string_view part : format->parts)
          expected_.insert(fmt::format("{}.{}", module->name, part));
      if (nn::has_zero_bias(artifact_, module->name)) expected_.insert(module->name + ".bias");
    }
    return count;
  }

  void check_copy(const std::string& name) {
    const TensorInfo &a = source_.info(name), &b = artifact_.info(name);
    if (a.dtype != b.dtype || a.shape != b.shape) {
      return found(report_, name, "is {}, but {} in the source", kind_of(b), kind_of(a));
    }
    if (same_bytes(source_.bytes(name), artifact_.bytes(name))) {
      ++report_.copied;
    } else if (const auto changed = changed_.find(name); changed != changed_.end()) {
      check_changed(name, changed->second);
    } else {
      found(report_, name, "is not quantized, but differs from the source: {}",
            difference(source_.tensor(name), artifact_.tensor(name)));
    }
    artifact_.release(name);
  }

  void check_changed(const std::string& name, const std::string& digest) {
    ++report_.changed;
    const Tensor tensor = artifact_.tensor(name);
    if (quant::digest(tensor) != digest)
      found(report_, name, "is not what compress wrote: its hash differs from the one in {}",
            quant::kRecordFile);
    else if (!tensor.isfinite().all().item<bool>())
      found(report_, name, "has numbers that are not finite");
  }

  // A matrix of a stack, written separately and not quantized.
  void check_slice(const Module& module) {
    const std::string name = module.name + ".weight";
    if (!artifact_.has(name)) {
      return found(report_, module.name, "is missing: neither it nor {} is in the artifact",
                   module.source);
    }
    expected_.insert(name);
    const Tensor copy = artifact_.tensor(name), original = module.weight.contiguous();
    if (copy.sizes() != original.sizes() || copy.scalar_type() != original.scalar_type()) {
      found(report_, name, "is {}, but should be a part {} of {}", kind_of(artifact_.info(name)),
            shape_text(original), module.source);
    } else if (std::memcmp(copy.const_data_ptr(), original.const_data_ptr(), copy.nbytes()) != 0) {
      found(report_, name, "is not quantized, but differs from {}: {}", module.source,
            difference(original, copy));
    }
  }

  const Files &source_, &artifact_;
  const std::set<std::string>& unused_;
  const std::map<std::string, std::string> changed_;  // quant::Records::changed
  VerifyReport& report_;
  std::unordered_map<std::string, std::vector<const Module*>> modules_;  // key: the source's tensor
  std::set<std::string> expected_;
};

}  // namespace

bool is_packed(const Files& files, const std::string& module) {
  const auto has = [&](std::string_view part) {
    return files.has(fmt::format("{}.{}", module, part));
  };
  return std::ranges::any_of(quant::formats(), [&](const quant::Format* format) {
    return std::ranges::any_of(format->parts, has);
  });
}

void check_tensors(const Pair& pair, VerifyReport& report) { TensorCheck(pair, report).run(); }

}  // namespace quern::eval
