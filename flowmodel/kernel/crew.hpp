// Who computes beside the calling thread in training.

// Calls its first argument with its second in every thread of an OpenMP team, whose size is the third, or the caller's
// own choice where that is 0.
using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

// Torch's own team, if it has one. Its threads go on spinning for milliseconds after each of torch's operations, so that
// threads of ours would have to share their cores with them.
static std::atomic<Parallel> crew{nullptr};

// work(i) for each i below count, in as many threads as there are to be had.
template <typename Work> void fan_out(int count, Work work) {
  std::atomic<int> next{0};
  auto take_part = [&] {
    for (int i; (i = next++) < count;) work(i);
  };
  const Parallel parallel = crew;
  if (count > 1 && parallel) {
    // Of the size that torch asks for: a team that shrinks ends threads, and torch would have to start them again.
    parallel([](void* part) { (*(decltype(take_part)*)part)(); }, &take_part, 0, 0);
    return;
  }
  std::vector<std::thread> threads;
  try {
    for (threads.reserve(count); (int)threads.size() + 1 < count;) threads.emplace_back(take_part);
  } catch (const std::system_error&) {  // no thread to be had: those there are do all the work
  }
  take_part();
  for (auto& thread : threads) thread.join();
}
