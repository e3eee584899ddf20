// Round to nearest: what a method does where nothing judges a weight.
#pragma once

#include "compress/method.h"
#include "quant/format.h"

namespace quern::compress {

const Method& rtn_method();

// Of a task's weight, on the grid of the step that chose it (Method::grid) or of the format.
Outcome nearest(const Task& task, const Step& step, const quant::Format& format);

}  // namespace quern::compress
