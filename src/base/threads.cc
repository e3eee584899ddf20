#include "base/threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"

namespace quern {
namespace {

thread_local bool inside_body = false;

class Pool {
 public:
  ~Pool() { stop(); }

  void resize(int threads) {
    QUERN_CHECK(threads >= 1 && !inside_body);
    std::lock_guard between_jobs(job_mutex_);
    stop();
    wanted_ = threads;
  }

  int size() const { return wanted_; }

  void run(int64_t items, const std::function<void(int64_t)>& body) {
    std::lock_guard one_job(job_mutex_);
    start();
    {
      std::lock_guard lock(mutex_);
      body_ = &body;
      items_ = items;
      next_ = 0;
      error_ = nullptr;
      open_ = true;
      ++generation_;
    }
    wake_.notify_all();
    work();
    // The job closes here: a worker that has not joined yet stays out, and the caller does not wait
    // for sleeping workers.
    std::unique_lock lock(mutex_);
    open_ = false;
    if (busy_ != 0) {
      lock.unlock();
      spin_until([&] { return busy_ == 0; });
      lock.lock();
    }
    done_.wait(lock, [&] { return busy_ == 0; });
    body_ = nullptr;
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void start() {
    while (static_cast<int>(workers_.size()) + 1 < wanted_)
      workers_.emplace_back([this, seen = generation_.load()] { loop(seen); });
  }

  void stop() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
    stopping_ = false;
  }

  void loop(uint64_t seen) {
    for (;;) {
      const auto news = [&] { return stopping_ || generation_ != seen; };
      spin_until(news);
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, news);
        if (stopping_) return;
        seen = generation_;
        if (!open_) continue;
        ++busy_;
      }
      work();
      std::lock_guard lock(mutex_);
      if (--busy_ == 0) done_.notify_one();
    }
  }

  // Waking a sleeping thread takes longer than many jobs, and the next job usually comes soon: spin
  // for some tens of microseconds, then sleep. Yielding leaves a busy machine to other programs.
  template <class Condition>
  static void spin_until(Condition condition) {
    for (int round = 0; round < 50; ++round) {
      for (int i = 0; i < 20; ++i) {
        if (condition()) return;
        __builtin_ia32_pause();
      }
      std::this_thread::yield();
    }
  }

  void work() {
    inside_body = true;
    for (;;) {
      int64_t item = next_.fetch_add(1);
      if (item >= items_) break;
      try {
        (*body_)(item);
      } catch (...) {
        std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
        next_ = items_;
      }
    }
    inside_body = false;
  }

  std::atomic<int> wanted_ = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::mutex job_mutex_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  const std::function<void(int64_t)>* body_ = nullptr;
  int64_t items_ = 0;
  std::atomic<int64_t> next_ = 0;
  std::exception_ptr error_;
  std::atomic<int> busy_ = 0;  // workers inside the job
  std::atomic<uint64_t> generation_ = 0;
  std::atomic<bool> stopping_ = false;
  bool open_ = false;  // a worker may still join the job
};

Pool& pool() {
  static Pool instance;
  return instance;
}

}  // namespace

void set_threads(int threads) { pool().resize(threads); }

int threads() { return pool().size(); }

void parallel_for(int64_t items, const std::function<void(int64_t)>& body) {
  if (items <= 0) return;
  if (inside_body || items == 1 || pool().size() == 1) {
    for (int64_t item = 0; item < items; ++item) body(item);
    return;
  }
  pool().run(items, body);
}

void parallel_pieces(int64_t total, int64_t piece,
                     const std::function<void(int64_t, int64_t)>& body) {
  QUERN_CHECK(piece > 0);
  parallel_for((total + piece - 1) / piece,
               [&](int64_t i) { body(i * piece, std::min(total, (i + 1) * piece)); });
}

}  // namespace quern
