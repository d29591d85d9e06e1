// One affine autoregressive layer in training: both directions, what they keep, and their gradient. The C interface.
//
// Compiled into the same libraries as flow.cpp. Parameters are read, and gradients written, where torch holds them. A
// row's answer does not depend on what it is batched with; sums over rows depend on the number of threads.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

#include "registers.hpp"

namespace {
#include "lanes.hpp"
#include "transformer.hpp"
#include "layer.hpp"
#include "crew.hpp"
#include "network.hpp"
#include "sweep.hpp"
#include "weight_gradient.hpp"

// Multiplications for which another thread is worth starting.
constexpr double WORTH_A_THREAD = 4e6;

// Numbers of a group of tiles whose adjoints are kept before weight gradients are added, to stay within the cache.
constexpr size_t GROUP = 1 << 16;

// Uninitialised numbers on a boundary of a cache line. The block that a call gave back last serves the next one, for fresh
// memory costs a page fault every few thousand bytes.
struct Block {
  std::unique_ptr<char[]> own;
  size_t size;
  explicit Block(size_t size) : own(new char[size]), size(size) {}
};
static std::atomic<Block*> idle{nullptr};

template <typename T> class Scratch {
  std::unique_ptr<Block> block;

 public:
  T* at;
  explicit Scratch(size_t count) : block(idle.exchange(nullptr)) {
    const size_t size = count * sizeof(T) + 64;
    if (!block || block->size < size) block.reset(new Block(size));
    at = (T*)(((uintptr_t)block->own.get() + 63) & ~(uintptr_t)63);
  }
  Scratch(const Scratch&) = delete;
  ~Scratch() { delete idle.exchange(block.release()); }
};

// Fresh memory in huge pages where the system has any: a fault for each of the small ones takes as long as computing what
// goes there.
static void in_huge_pages(void* at, size_t bytes) {
#ifdef __linux__
  const uintptr_t page = 1 << 21, begin = ((uintptr_t)at + page - 1) & ~(page - 1), end = ((uintptr_t)at + bytes) & ~(page - 1);
  if (at && begin < end) madvise((void*)begin, end - begin, MADV_HUGEPAGE);
#endif
}

// Cut a size up to whole cache lines.
template <typename T> size_t lines(size_t count) { return (count + 64 / sizeof(T) - 1) / (64 / sizeof(T)) * (64 / sizeof(T)); }

// Tiles of rows, and which thread takes which of them.
template <typename T> struct Tiles {
  int rows;
  int64_t count, total;
  int threads;

  Tiles(const Network<T>& net, int64_t total, int most_threads) : total(total) {
    const int lanes = Lanes<T>::count;
    rows = total > 2 * lanes ? 4 * lanes : lanes;
    count = (total + rows - 1) / rows;
    double worth = std::min((double)count, net.work() * total / WORTH_A_THREAD);
    threads = (int)std::max(1.0, std::min((double)most_threads, worth));
  }

  int64_t first(int thread) const { return count * thread / threads; }
  int64_t start(int64_t tile) const { return tile * rows; }
  int used(int64_t tile) const { return (int)std::min<int64_t>(rows, total - tile * rows); }
};

// Rows [used][size] of a row-major matrix as [size][rows], column k at place k or that of `order`; lanes past the last
// row repeat it, or are zero.
template <typename T>
void take(const T* from, int size, const int64_t* order, int used, int rows, bool repeats, T* to) {
  for (int k = 0; k < size; k++) {
    const T* column = from + (order ? order[k] : k);
    T* out = to + (size_t)k * rows;
    for (int r = 0; r < used; r++) out[r] = column[(size_t)r * size];
    std::fill(out + used, out + rows, repeats ? out[used - 1] : T(0));
  }
}

// The inverse of take.
template <typename T> void give(const T* from, int size, const int64_t* order, int used, int rows, T* to) {
  for (int k = 0; k < size; k++)
    for (int r = 0; r < used; r++) to[(size_t)r * size + (order ? order[k] : k)] = from[(size_t)k * rows + r];
}

template <typename T>
void forward(const Network<T>& net, bool solve, const T* given, const T* context, int64_t total, int most_threads,
             T* found, T* log_det, T* saved) {
  const Tiles<T> tiles(net, total, most_threads);
  const int rows = tiles.rows;
  const size_t kept_size = net.kept() * rows, own = lines<T>(((size_t)net.dims + net.context_size + 2 * net.block + 1) * rows);
  const size_t step = own + (saved ? 0 : lines<T>(kept_size));
  Scratch<T> scratch(step * tiles.threads);
  in_huge_pages(saved, kept_size * tiles.count * sizeof(T));
  fan_out(tiles.threads, [&](int thread) {
    T *other = scratch.at + step * thread, *of_context = other + (size_t)net.dims * rows;
    T *outputs = of_context + (size_t)net.context_size * rows, *sums = outputs + (size_t)2 * net.block * rows;
    for (int64_t tile = tiles.first(thread); tile < tiles.first(thread + 1); tile++) {
      const int used = tiles.used(tile);
      const size_t start = tiles.start(tile);
      Kept<T> kept(net, saved ? saved + kept_size * tile : scratch.at + step * thread + own, rows);
      T *taken = solve ? other : kept.x, *result = solve ? kept.x : other;
      take<T>(given + start * net.dims, net.dims, net.order, used, rows, true, taken);
      if (net.context_size)
        take<T>(context + start * net.context_size, net.context_size, nullptr, used, rows, true, of_context);
      walk_forward<T>(net, solve, kept, taken, result, sums, of_context, outputs, rows);
      give<T>(result, net.dims, net.order, used, rows, found + start * net.dims);
      std::copy(sums, sums + used, log_det + start);
    }
  });
}

template <typename T>
void backward(const Network<T>& net, bool solve, const T* context, const T* saved, int64_t total, int most_threads,
              const T* found_bar, const T* log_det_bar, T* given_bar, T* context_bar, void* const* gradients) {
  const Tiles<T> tiles(net, total, most_threads);
  const int rows = tiles.rows, size = net.dims;
  const size_t kept_size = net.kept() * rows, adjoints_size = Adjoints<T>::size(net) * rows;
  const Sums<T> layout(net);
  const int group = gradients ? (int)std::max<size_t>(1, std::min<size_t>(8, GROUP / adjoints_size)) : 1;
  const size_t contexts_size = (size_t)net.context_size * rows, bars_size = lines<T>((size_t)(2 * size + 1) * rows + contexts_size);
  const size_t by_row_size = gradients ? (size_t)group * rows * Product<T>::wide : 0;
  const size_t sums_size = gradients ? lines<T>(layout.size) : 0;
  const size_t step = lines<T>(group * (adjoints_size + contexts_size) + by_row_size) + bars_size;
  const size_t weights_size = lines<T>(Transposed<T>::size(net));
  Scratch<T> scratch(weights_size + (sums_size + step) * tiles.threads);
  const Transposed<T> by_input(net, scratch.at);
  T *sums = scratch.at + weights_size, *rest = sums + sums_size * tiles.threads;
  fan_out(tiles.threads, [&](int thread) {
    T *bars = rest + step * thread, *back = bars + (size_t)size * rows, *log_det = back + (size_t)size * rows;
    T *of_context = log_det + rows, *adjoints_at = bars + bars_size, *contexts = adjoints_at + group * adjoints_size;
    T *by_row = contexts + group * contexts_size, *own = sums + sums_size * thread;
    std::fill(own, own + sums_size, T(0));
    const int64_t stop = tiles.first(thread + 1);
    for (int64_t base = tiles.first(thread); base < stop; base += group) {
      const int taken = (int)std::min<int64_t>(group, stop - base);
      for (int i = 0; i < taken; i++) {
        const int used = tiles.used(base + i);
        const size_t start = tiles.start(base + i);
        const Kept<T> kept(net, (T*)saved + kept_size * (base + i), rows);
        const Adjoints<T> adjoints(net, adjoints_at + i * adjoints_size, rows);
        if (found_bar) take<T>(found_bar + start * size, size, net.order, used, rows, false, bars);
        else std::fill(bars, bars + (size_t)size * rows, T(0));
        if (log_det_bar) take<T>(log_det_bar + start, 1, nullptr, used, rows, false, log_det);
        else std::fill(log_det, log_det + rows, T(0));
        sweep_back<T>(net, by_input, solve, kept, bars, log_det, back, adjoints, rows);
        if (given_bar) give<T>(back, size, net.order, used, rows, given_bar + start * size);
        if (context_bar) {
          add_products<T>(by_input.context, net.width(0), by_input.zeros.data(), adjoints.of[0], net.width(0), of_context,
                          net.context_size, rows);
          give<T>(of_context, net.context_size, nullptr, used, rows, context_bar + start * net.context_size);
        }
        if (gradients && net.context_size)
          take<T>(context + start * net.context_size, net.context_size, nullptr, used, rows, true, contexts + i * contexts_size);
        if (gradients)
          for (int l = 0; l <= net.hidden; l++) add_bias<T>(adjoints.of[l], net.width(l), rows, own + layout.bias_offset[l]);
      }
      if (!gradients) continue;
      const Kept<T> first(net, (T*)saved + kept_size * base, rows);
      const Adjoints<T> adjoints(net, adjoints_at, rows);
      size_t next = 0;
      auto add = [&](const T* adjoint, const T* input, size_t input_step) {
        add_tiles<T>(layout.products[next], adjoint, adjoints_size, input, input_step, taken, rows, by_row,
                     own + layout.offset[next]);
        next++;
      };
      for (int l = 0; l <= net.hidden; l++) add(adjoints.of[l], l ? first.hidden[l - 1] : first.x, kept_size);
      if (net.context_size) add(adjoints.of[0], contexts, contexts_size);
      if (net.skips) add(adjoints.of[net.hidden], first.x, kept_size);
    }
  });
  if (!gradients) return;
  const int layers = net.hidden + 1;
  auto finish_at = [&](size_t product, int place) {
    finish<T>(layout.products[product], sums + layout.offset[product], sums_size, tiles.threads, (T*)gradients[place]);
  };
  for (int l = 0; l < layers; l++) {
    finish_at(l, l);
    finish_bias<T>(sums + layout.bias_offset[l], sums_size, net.width(l), tiles.threads, (T*)gradients[layers + l]);
  }
  if (net.context_size) finish_at(layers, 2 * layers);
  if (net.skips) finish_at(layout.products.size() - 1, 2 * layers + 1);
}

template <typename T> int64_t saved_size(const Network<T>& net, int64_t rows) {
  const Tiles<T> tiles(net, rows, 1);
  return (int64_t)net.kept() * tiles.rows * tiles.count;
}
}  // namespace

#pragma GCC visibility push(default)
// shape: is_double, dims, context_size, hidden layers, activation, scale, clamps, skips, widths, order, offsets of each layer.
// tensors, gradients: weights, biases, context weight, skip weight, the last two null if there are none.
extern "C" {
// Share rows by this function, of GOMP_parallel's type, from now on.
void layer_crew(void* parallel) { crew = (Parallel)parallel; }

// How many numbers layer_forward saves for layer_backward.
int64_t layer_saved_size(const int64_t* shape, int64_t rows) {
  // Sizes alone are read.
  const double limits[2] = {};
  const std::vector<const void*> none(2 * shape[3] + 4);
  return shape[0] ? saved_size(Network<double>(shape, limits, none.data()), rows)
                  : saved_size(Network<float>(shape, limits, none.data()), rows);
}

// Returns 0, or 1 if there was no memory.
int layer_forward(const int64_t* shape, const double* limits, const void* const* tensors, int solve, const void* given,
                  const void* context, int64_t rows, int threads, void* found, void* log_det, void* saved) {
  try {
    if (shape[0])
      forward<double>({shape, limits, tensors}, solve, (const double*)given, (const double*)context, rows, threads,
                      (double*)found, (double*)log_det, (double*)saved);
    else
      forward<float>({shape, limits, tensors}, solve, (const float*)given, (const float*)context, rows, threads,
                     (float*)found, (float*)log_det, (float*)saved);
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

// Any adjoint may be null: of the results, it is zero; of what was given, it is not wanted.
int layer_backward(const int64_t* shape, const double* limits, const void* const* tensors, int solve, const void* context,
                   const void* saved, int64_t rows, int threads, const void* found_bar, const void* log_det_bar,
                   void* given_bar, void* context_bar, void* const* gradients) {
  try {
    if (shape[0])
      backward<double>({shape, limits, tensors}, solve, (const double*)context, (const double*)saved, rows, threads,
                       (const double*)found_bar, (const double*)log_det_bar, (double*)given_bar, (double*)context_bar, gradients);
    else
      backward<float>({shape, limits, tensors}, solve, (const float*)context, (const float*)saved, rows, threads,
                      (const float*)found_bar, (const float*)log_det_bar, (float*)given_bar, (float*)context_bar, gradients);
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}
}
