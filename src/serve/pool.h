// A few threads for what takes longer than an I/O thread may: reading requests, rendering
// templates, tokenizing. Their queue is bounded; what finds it full is refused.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace quern::serve {

class Pool {
 public:
  Pool(int threads, size_t longest_queue);
  // Work that has not begun is dropped.
  ~Pool();

  // False when too much is waiting. `work` must not throw.
  bool run(std::function<void()> work);

 private:
  void work_on();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  size_t longest_queue_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace quern::serve
