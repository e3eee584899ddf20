// What a client can do to a server. Every attack is bounded in time and number and ends by itself.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace quern::hostile {

// Where the attack goes to, and how long it may take.
struct Target {
  uint16_t port;
  std::chrono::steady_clock::time_point until;

  bool over() const { return std::chrono::steady_clock::now() >= until; }
};

// What a server owes the others while it is attacked.
enum class Promise {
  // A new answer begins in twice the quiet time and 250 ms.
  answers,
  // The engine itself hangs: /health and other routes answer in 250 ms, and answers wait.
  routes,
};

struct Attack {
  std::string name;
  std::string about;
  void (*run)(const Target& target);
  std::vector<std::string> options = {};  // of the server, beyond the usual ones
  Promise promise = Promise::answers;
  int64_t memory_bytes = 0;  // that it may make the server take, beyond what it had
};

// The key that the innocent client has, and one that attackers have.
inline constexpr const char* kInnocentKey = "innocent";
inline constexpr const char* kAttackersKey = "attacker";

std::span<const Attack> attacks();

}  // namespace quern::hostile
