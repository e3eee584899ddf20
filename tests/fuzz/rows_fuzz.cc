// Row files: the first byte chooses the format, the rest is the file.
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>

#include "base/error.h"
#include "data/row_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quern;
  static const char* kKinds[] = {".jsonl", ".json", ".csv", ".txt", ".parquet"};
  if (size == 0) return 0;
  const std::filesystem::path file =
      std::filesystem::temp_directory_path() /
      ("rows_fuzz_" + std::to_string(getpid()) + kKinds[data[0] % 5]);
  std::ofstream(file, std::ios::binary)
      .write(reinterpret_cast<const char*>(data + 1), static_cast<std::streamsize>(size - 1));
  try {
    auto rows = data::open_rows(file, {.row_bytes = 1 << 16, .text_bytes = 1 << 20});
    std::vector<int64_t> places(static_cast<size_t>(std::min<int64_t>(rows->size(), 1000)));
    std::iota(places.begin(), places.end(), 0);
    rows->prepare(places, 1 << 20);
    for (const int64_t place : places) (void)rows->row(place);
  } catch (const Error&) {
  }
  std::filesystem::remove(file);
  return 0;
}
