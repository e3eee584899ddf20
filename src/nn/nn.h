// All headers that a model file needs.
#pragma once

#include "base/json.h"
#include "nn/experts.h"
#include "nn/linear.h"
#include "nn/model.h"
#include "nn/pass.h"
#include "nn/weights.h"
#include "ops/norm.h"
#include "ops/rope.h"
#include "ops/routing.h"
