// The common fields of every line of a benchmark: processor, threads, commit. A line is one JSON
// object on standard output.
#pragma once

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/threads.h"

namespace quern::bench {

using Line = nlohmann::ordered_json;

// Name, family and model: processors with the same name can differ by a factor of two.
inline std::string processor() {
  std::string name = "unknown", family, model;
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line) && !line.empty();) {
    const std::string value = line.substr(std::min(line.size(), line.find(':') + 2));
    if (line.starts_with("model name")) name = value;
    if (line.starts_with("cpu family")) family = value;
    if (line.starts_with("model\t")) model = value;
  }
  return family.empty() ? name : name + ", family " + family + ", model " + model;
}

// The current commit of the sources, from their git folder.
inline std::string commit() {
  const std::string git = std::string(QUERN_SOURCE_DIR) + "/.git/";
  std::string head;
  std::getline(std::ifstream(git + "HEAD") >> std::ws, head);
  if (head.starts_with("ref: ")) {
    std::string hash;
    std::getline(std::ifstream(git + head.substr(5)) >> std::ws, hash);
    head = hash;
  }
  return head.empty() ? "unknown" : head.substr(0, 10);
}

// Median, smallest and largest of repeated measurements.
inline Line spread(std::vector<double> values, double digits = 1000) {
  std::sort(values.begin(), values.end());
  const auto shown = [&](double x) { return static_cast<int64_t>(x * digits + 0.5) / digits; };
  return {{"median", shown(values[values.size() / 2])},
          {"min", shown(values.front())},
          {"max", shown(values.back())}};
}

inline void print(const std::string& bench, Line figures) {
  Line line = {
      {"bench", bench}, {"processor", processor()}, {"threads", threads()}, {"commit", commit()}};
  line.update(figures);
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

}  // namespace quern::bench
