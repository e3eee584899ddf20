// Runs the real program, without a shell, and reads its output.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/scratch.h"

namespace quern::cli {

namespace fs = std::filesystem;

inline std::string slurp(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct Ran {
  int code = -1;  // -1: ended by a signal
  std::string out, err;
};

// A running program; its output goes to files, because a pipe could fill up.
class Running {
 public:
  Running(const std::vector<std::string>& args, const std::string& input,
          const std::vector<std::string>& environment)
      : out_(scratch_ / "out"), err_(scratch_ / "err") {
    const std::string in = scratch_.write("in", input);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    const int create = O_WRONLY | O_CREAT | O_TRUNC;
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, in.c_str(), O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, out_.c_str(), create, 0600);
    posix_spawn_file_actions_addopen(&files, STDERR_FILENO, err_.c_str(), create, 0600);
    std::vector<char*> argv = {const_cast<char*>(QUERN_PROGRAM)};
    for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
    argv.push_back(nullptr);
    std::vector<char*> envp;
    for (char** variable = environ; *variable; ++variable) envp.push_back(*variable);
    for (const std::string& variable : environment)
      envp.push_back(const_cast<char*>(variable.c_str()));
    envp.push_back(nullptr);
    const int failed = posix_spawn(&pid_, QUERN_PROGRAM, &files, nullptr, argv.data(), envp.data());
    posix_spawn_file_actions_destroy(&files);
    if (failed) throw std::runtime_error(std::string("cannot run ") + QUERN_PROGRAM);
  }
  ~Running() {
    if (!waited_) kill(pid_, SIGKILL), wait();
  }

  void send(int signal) const { kill(pid_, signal); }
  std::string err_so_far() const { return slurp(err_); }

  Ran wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    waited_ = true;
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, slurp(out_), slurp(err_)};
  }

  // Waits until standard error contains `text`; false if the program ends first or after ten
  // minutes.
  bool says(const std::string& text) {
    for (int i = 0; i < 12'000; ++i) {
      if (err_so_far().find(text) != std::string::npos) return true;
      siginfo_t ended{};
      if (waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
          ended.si_pid == pid_)
        return err_so_far().find(text) != std::string::npos;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return false;
  }

 private:
  Scratch scratch_;
  fs::path out_, err_;
  pid_t pid_ = 0;
  bool waited_ = false;
};

inline Ran quern(const std::vector<std::string>& args, const std::string& input = "",
                 const std::vector<std::string>& environment = {}) {
  return Running(args, input, environment).wait();
}

inline fs::path test_data(const std::string& name) {
  return fs::path(QUERN_SOURCE_DIR) / "tests/data" / name;
}

inline std::string model() { return test_data("tiny-qwen3.6").string(); }

// A copy of a model folder, to be damaged.
inline std::string copy_of(const fs::path& folder, const fs::path& to) {
  fs::copy(folder, to, fs::copy_options::recursive);
  for (const auto& entry : fs::recursive_directory_iterator(to))
    fs::permissions(entry, fs::perms::owner_all);
  return to.string();
}

}  // namespace quern::cli
