// quern version: describes this program, for bug reports.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/threads.h"
#include "cli/program.h"
#include "cli/terminal.h"
#include "kernels/kernels.h"
#include "models/models.h"

namespace quern::cli {
namespace {

JsonValue version_json() {
  return {{"version", QUERN_VERSION},
          {"isa", kernels::cpu_kernels().name},
          {"threads", threads()},
          {"build", QUERN_BUILD},
          {"compiler", __VERSION__},
          {"kernel_compiler", QUERN_KERNEL_COMPILER},
          {"architectures", models::architectures()}};
}

}  // namespace

std::string version_text() {
  return fmt::format(
      "quern {}\n  instruction set  {}\n  threads          {}\n  build            {}, "
      "compiler {}\n  kernels made by  {}\n",
      QUERN_VERSION, kernels::cpu_kernels().name, threads(), QUERN_BUILD, __VERSION__,
      QUERN_KERNEL_COMPILER);
}

void add_version(CLI::App& app, Program& program) {
  CLI::App* verb = app.add_subcommand("version", "Version, instruction set, threads and build");
  verb->callback([&program] {
    program.run = [&program] { print(program.json ? to_text(version_json()) : version_text()); };
  });
}

}  // namespace quern::cli
