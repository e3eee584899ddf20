// What `serve`, `chat` and `bench` share: a server made from arguments.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "serve/server.h"
#include "serve/settings.h"

namespace quern::cli {

std::optional<std::string> environment(const std::string& name);

// Loads the model that the arguments name and lets `server` answer for it.
void load_model(serve::Server& server, const serve::Arguments& arguments);

}  // namespace quern::cli
