// Rows in tiles: one after another in the calling thread, and in as many beside it as the caller allows.
#pragma once

// A tile of rows, feature-major: feature f of row r at [f * rows + r].
template <typename T> struct Tile {
  int rows = 0;
  Numbers<T> value, swap, log_det, context, work;
  Numbers<double> exact;  // in place of the values, where a column of a flow of float32 is read in float64

  T* feature(int d) { return &value[(size_t)d * rows]; }
  void move(int from, int to) { std::memcpy(&swap[(size_t)to * rows], feature(from), sizeof(T) * rows); }
};

// Tiles that no call uses at the moment, kept so that the next ones need not allocate.
template <typename T> class IdleTiles {
  std::mutex mutex;
  std::vector<std::unique_ptr<Tile<T>>> idle;

 public:
  // One that was given back, or nullptr.
  std::unique_ptr<Tile<T>> take() {
    std::lock_guard<std::mutex> lock(mutex);
    if (idle.empty()) return nullptr;
    std::unique_ptr<Tile<T>> tile = std::move(idle.back());
    idle.pop_back();
    return tile;
  }

  void give_back(std::unique_ptr<Tile<T>> tile) {
    std::lock_guard<std::mutex> lock(mutex);
    idle.push_back(std::move(tile));
  }
};

// Threads that compute at the moment, of all calls together: the callers and their helpers.
static std::atomic<int> computing{0};

// Calls work() in this thread, and in helpers as long as no more than `threads` compute in this process. A thread costs
// less to start than any call that is worth dividing, and none is left to meet a fork.
template <typename Work> static void in_threads(int threads, const Work& work) {
  std::vector<std::thread> helpers;
  computing++;
  for (int i = 1; i < threads; i++) {
    if (computing++ >= threads) {
      computing--;
      break;
    }
    try {
      helpers.emplace_back([&work] {
        work();
        computing--;
      });
    } catch (const std::system_error&) {  // the system has no more threads: those there are do all the work
      computing--;
      break;
    }
  }
  work();
  computing--;
  for (std::thread& helper : helpers) helper.join();
}
