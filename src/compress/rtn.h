// Round to nearest, also for weights that do not affect the block's output.
#pragma once

#include "compress/method.h"
#include "quant/format.h"

namespace quern::compress {

const Method& rtn_method();

// Rounds a task's weight on the grid of its step (Method::grid) or of the format.
Outcome nearest(const Task& task, const Step& step, const quant::Format& format);

}  // namespace quern::compress
