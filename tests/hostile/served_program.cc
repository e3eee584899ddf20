#include "tests/hostile/served_program.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <thread>

namespace quern::hostile {
namespace {

constexpr int kServerCore = 0;
constexpr auto kPatience = std::chrono::seconds(60);

std::string read_all(const std::string& file) {
  std::ifstream in(file);
  return {std::istreambuf_iterator<char>(in), {}};
}

int64_t kilobytes(const std::string& status, const std::string& field) {
  const size_t at = status.find(field + ":");
  return at == std::string::npos ? 0 : std::stoll(status.substr(at + field.size() + 1)) * 1024;
}

}  // namespace

void stay_on_core(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  sched_setaffinity(0, sizeof set, &set);  // with one core only, all share it
}

ServedProgram::ServedProgram(const std::string& program, const std::string& model,
                             const std::vector<std::string>& options) {
  std::vector<std::string> words = {program, "serve", model, "--port", "0"};
  words.insert(words.end(), options.begin(), options.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const std::string log = (scratch_ / "log").string();
  pid_ = ::fork();
  if (pid_ == 0) {
    const int file = ::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ::dup2(file, STDERR_FILENO);
    ::dup2(file, STDOUT_FILENO);
    stay_on_core(kServerCore);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  const std::string ready = "READY url=http://127.0.0.1:";
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < until && runs()) {
    const std::string text = said();
    const size_t at = text.find(ready);
    if (at != std::string::npos && text.find(' ', at + ready.size()) != std::string::npos) {
      port_ = static_cast<uint16_t>(std::stoi(text.substr(at + ready.size())));
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  throw std::runtime_error("the server did not start: " + said());
}

ServedProgram::~ServedProgram() {
  if (!runs()) return;
  ::kill(pid_, SIGTERM);
  for (int i = 0; i < 100 && runs(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  if (!runs()) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

bool ServedProgram::runs() {
  if (pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) != 0) pid_ = -1;
  return pid_ > 0;
}

Usage ServedProgram::usage() const {
  if (pid_ < 0) return {};
  const std::string place = "/proc/" + std::to_string(pid_);
  const std::string status = read_all(place + "/status");
  Usage usage{kilobytes(status, "VmRSS"), kilobytes(status, "VmHWM")};
  std::error_code ignored;
  for (const auto& file : std::filesystem::directory_iterator(place + "/fd", ignored)) {
    (void)file;
    ++usage.files;
  }
  return usage;
}

void ServedProgram::forget_peak() const {
  std::ofstream("/proc/" + std::to_string(pid_) + "/clear_refs") << 5;
}

std::string ServedProgram::said() const { return read_all((scratch_ / "log").string()); }

}  // namespace quern::hostile
