#include "compress/rtn.h"

#include "base/threads.h"
#include "compress/compress.h"

namespace quern::compress {
namespace {

// The largest distance of a code from w / s + z. The checker allows extra for the rounding of the
// quotient (eval/matrix_check.cc).
constexpr double kDistance = 0.5;

Results run(const Step& step, const BlockWork& work) {
  Results results;
  for (const Task& task : work.tasks)
    results.outcomes.push_back(nearest(task, step, work.options.format));
  return results;
}

}  // namespace

Outcome nearest(const Task& task, const Step& step, const quant::Format& format) {
  quant::RtnOptions rtn;
  rtn.grid = step.method->grid.value_or(format.grid);
  rtn.observer = task.verdict->observer;
  rtn.shrink = task.verdict->shrink;
  Outcome outcome{task,
                  std::vector<quant::QuantWeight>(static_cast<size_t>(task.weight.matrices())),
                  {quant::Bound::Kind::code_distance, kDistance}};
  const auto dense = task.weight.dense();
  // A single matrix still uses all threads: a loop of one item leaves them free for its rows.
  parallel_for(task.weight.matrices(), [&](int64_t matrix) {
    quant::RtnOptions options = rtn;
    options.name = task.modules[matrix];
    outcome.matrices[matrix] = quant::round_to_nearest(dense->matrix(matrix), task.scheme, options);
  });
  return outcome;
}

const Method& rtn_method() {
  static const Method kMethod = {
      .modifier = "QuantizationModifier",
      .option = "rtn",
      .read = [](const Json&, Step&) {},
      .write = [](const Step&, JsonValue&) {},
      .from_options = [](const RecipeOptions&, Step&) {},
      .text = [](const Step&) { return std::string("rounds to nearest"); },
      .run = run};
  return kMethod;
}

}  // namespace quern::compress
