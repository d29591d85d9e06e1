// A whole flow over rows: the C interface.
//
// Compiled once for each instruction set, into a library of its own; flowmodel/kernel/library.py loads the one that fits.
// No sum crosses rows and each has one order, so a row's answer does not depend on what it was batched with.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

// Degrees are taken in blocks of at least so many units of the first hidden layer, or of so many degrees.
#define BLOCK_UNITS 32
#define BLOCK_DEGREES 16

// Weights are asked for so many inputs before they are used: the processor itself foresees none beyond a page.
#define AHEAD 32

// Registers of sums that the inner loop keeps: PANEL units by VECTORS registers of rows.
#if defined(__AVX512F__)
#define REGISTER 64
#define PANEL 6
#define VECTORS 4
#elif defined(__AVX__)
#define REGISTER 32
#define PANEL 6
#define VECTORS 2
#else
#define REGISTER 16
#define PANEL 4
#define VECTORS 2
#endif

namespace {
#include "lanes.hpp"
#include "transformer.hpp"
#include "layer.hpp"
#include "walk.hpp"
#include "tiles.hpp"
#include "part.hpp"

struct Flow {
  const int dims, context_size;
  std::vector<double> location, scale, context_location, context_scale;  // standardisation, in float64; empty if there is none

  Flow(int dims, int context_size) : dims(dims), context_size(context_size) {}
  virtual ~Flow() = default;
  virtual void add_permutation(const int64_t* places) = 0;
  virtual void add_elementwise(int inverted) = 0;
  virtual void add_autoregressive(int inverted, int kept, int activation, const int64_t* order) = 0;
  virtual void set_affine(int scale, int clamps, double low, double high) = 0;
  virtual void set_spline(int linear, int bins, double bound, double slope_shift) = 0;
  virtual void set_values(const void* values) = 0;
  virtual void add_linear(int units, int inputs, const void* weight, const void* bias, const int64_t* offsets) = 0;
  virtual void set_context(const void* weight) = 0;
  virtual void set_skip(const void* weight) = 0;
  virtual void set_base(const void* location, const void* scale) = 0;
  virtual void log_prob(const void* rows, int rows_are_double, const double* context, int64_t count, int threads, void* log_prob) const = 0;
  virtual void sample(const double* noise, const double* context, int64_t count, int threads, void* rows, void* log_prob) const = 0;
};

template <typename T> struct FlowOf final : Flow {
  using Flow::Flow;
  std::vector<std::unique_ptr<Part<T>>> parts;  // from noise to data
  Transforming<T>* transforming = nullptr;      // what was added last, whatever it is
  Elementwise<T>* elementwise = nullptr;
  Autoregressive<T>* autoregressive = nullptr;
  std::vector<T> base_location, base_scale;
  T log_normaliser = 0, standard_log_det = 0;

  static constexpr int lanes = Lanes<T>::count;
  static constexpr int tile_rows = 4 * lanes;
  double products = 0;  // that a row's networks add up, roughly
  mutable IdleTiles<T> idle;

  void add_permutation(const int64_t* places) override { parts.push_back(std::make_unique<Permutation<T>>(places, dims)); }

  template <typename Added> Added* add_transforming(int inverted) {
    Added* added = new Added;
    parts.emplace_back(added);
    transforming = added;
    added->inverted = inverted;
    return added;
  }

  void add_elementwise(int inverted) override { elementwise = add_transforming<Elementwise<T>>(inverted); }

  void add_autoregressive(int inverted, int kept, int activation, const int64_t* order) override {
    autoregressive = add_transforming<Autoregressive<T>>(inverted);
    autoregressive->layer.kept = kept;
    autoregressive->layer.activation = activation;
    autoregressive->set_order(order, dims);
  }

  void set_affine(int scale_fn, int clamps, double low, double high) override {
    Transformer<T>& f = transforming->transformer;
    f.scale = scale_fn;
    f.clamps = clamps;
    f.low = (T)low;
    f.high = (T)high;
  }

  void set_spline(int linear, int bins, double bound, double slope_shift) override {
    Transformer<T>& f = transforming->transformer;
    f.form = linear ? linear_spline : quadratic_spline;
    f.size = linear ? 4 * bins - 1 : 3 * bins - 1;
    f.bins = bins;
    f.bound = (T)bound;
    f.slope_shift = (T)slope_shift;
  }

  void set_values(const void* values) override { elementwise->set_values((const T*)values, dims); }

  void add_linear(int units, int inputs, const void* weight, const void* bias, const int64_t* offsets) override {
    Layer<T>& layer = autoregressive->layer;
    products += 0.5 * units * inputs;
    layer.linear.emplace_back(units, inputs, (const T*)weight, (const T*)bias);
    if (offsets) layer.offsets.emplace_back(offsets, offsets + dims);
  }

  void set_context(const void* weight) override {
    Layer<T>& layer = autoregressive->layer;
    layer.context_size = context_size;
    layer.context = Linear<T>(layer.linear[0].units, context_size, (const T*)weight, layer.linear[0].bias.data());
  }

  void set_skip(const void* weight) override {
    const int units = autoregressive->transformer.size * dims;
    std::vector<T> none(units, T(0));
    autoregressive->layer.skip = Linear<T>(units, dims, (const T*)weight, none.data());
  }

  void set_base(const void* at, const void* width) override {
    for (auto& part : parts) part->finish();
    base_location.assign((const T*)at, (const T*)at + dims);
    base_scale.assign((const T*)width, (const T*)width + dims);
    double half_log_two_pi = 0.91893853320467274178, sum = dims * half_log_two_pi, log_det = 0;
    for (T s : base_scale) sum += std::log((double)s);
    for (double s : scale) log_det += std::log(s);
    log_normaliser = (T)sum;
    standard_log_det = (T)log_det;
  }

  std::unique_ptr<Tile<T>> new_tile() const {
    size_t work = 0;
    for (auto& part : parts) work = std::max(work, part->workspace());
    auto t = std::make_unique<Tile<T>>();
    t->value.resize((size_t)dims * tile_rows);
    t->swap.resize((size_t)dims * tile_rows);
    t->log_det.resize(tile_rows);
    t->context.resize((size_t)context_size * tile_rows);
    t->work.resize(work * tile_rows + lanes);
    return t;
  }

  // work(tile, start, used) for tiles of whole vectors of rows. Lanes past the last row repeat it.
  template <typename Work> void each_tile(int64_t count, int threads, Work work) const {
    // A thread is worth its start for some tens of microseconds of work.
    threads = (int)std::min<double>(threads, 1 + (products + 32.0 * dims * parts.size()) * count / 4e6);
    const int64_t vectors = (count + lanes - 1) / lanes;
    const int most = (int)std::min<int64_t>(tile_rows, (vectors + threads - 1) / threads * lanes);
    const int64_t tiles = (count + most - 1) / most;
    std::atomic<int64_t> next{0};
    in_threads((int)std::min<int64_t>(threads, tiles), [&] {
      std::unique_ptr<Tile<T>> t = idle.take();
      if (!t) t = new_tile();
      for (int64_t i; (i = next++) < tiles;) {
        const int used = (int)std::min<int64_t>(most, count - i * most);
        t->rows = (used + lanes - 1) / lanes * lanes;
        work(*t, i * most, used);
      }
      idle.give_back(std::move(t));
    });
  }

  void take_context(Tile<T>& t, const double* context, int used) const {
    for (int c = 0; c < context_size; c++)
      for (int r = 0; r < t.rows; r++) {
        double value = context[(size_t)std::min(r, used - 1) * context_size + c];
        t.context[(size_t)c * t.rows + r] = (T)((value - context_location[c]) / context_scale[c]);
      }
  }

  // Log-density of the noise in the tile under the base.
  void base_log_prob(const Tile<T>& t, T* log_prob) const {
    for (int r = 0; r < t.rows; r += lanes) {
      Vec<T> sum = all<T>(T(0));
      for (int d = 0; d < dims; d++) {
        Vec<T> z = (load<T>(&t.value[(size_t)d * t.rows + r]) - base_location[d]) / base_scale[d];
        sum = z * z + sum;
      }
      store<T>(log_prob + r, sum * T(-0.5) - log_normaliser);
    }
  }

  template <typename Given> void log_prob_of(const Given* rows, const double* context, int64_t count, int threads, T* log_prob) const {
    each_tile(count, threads, [&](Tile<T>& t, int64_t start, int used) {
      for (int d = 0; d < dims; d++)
        for (int r = 0; r < t.rows; r++) {
          Given y = rows[(size_t)(start + std::min(r, used - 1)) * dims + d];
          t.value[(size_t)d * t.rows + r] = scale.empty() ? (T)y : (T)(((double)y - location[d]) / scale[d]);
        }
      std::fill(t.log_det.begin(), t.log_det.end(), -standard_log_det);
      take_context(t, context + (size_t)start * context_size, used);
      for (size_t i = parts.size(); i-- > 0;) parts[i]->take(t, used, true);
      T of_base[tile_rows];
      base_log_prob(t, of_base);
      for (int r = 0; r < used; r++) log_prob[start + r] = of_base[r] + t.log_det[r];
    });
  }

  void log_prob(const void* rows, int rows_are_double, const double* context, int64_t count, int threads, void* log_prob) const override {
    if (rows_are_double) log_prob_of((const double*)rows, context, count, threads, (T*)log_prob);
    else log_prob_of((const float*)rows, context, count, threads, (T*)log_prob);
  }

  void sample(const double* noise, const double* context, int64_t count, int threads, void* rows_of, void* log_prob_of) const override {
    T *rows = (T*)rows_of, *log_prob = (T*)log_prob_of;
    each_tile(count, threads, [&](Tile<T>& t, int64_t start, int used) {
      for (int d = 0; d < dims; d++)
        for (int r = 0; r < t.rows; r++) {
          T z = (T)noise[(size_t)(start + std::min(r, used - 1)) * dims + d];
          t.value[(size_t)d * t.rows + r] = base_location[d] + base_scale[d] * z;
        }
      std::fill(t.log_det.begin(), t.log_det.end(), standard_log_det);
      take_context(t, context + (size_t)start * context_size, used);
      T of_base[tile_rows];
      base_log_prob(t, of_base);
      for (auto& part : parts) part->take(t, used, false);
      for (int r = 0; r < used; r++) {
        log_prob[start + r] = of_base[r] - t.log_det[r];
        for (int d = 0; d < dims; d++) {
          T x = t.value[(size_t)d * t.rows + r];
          rows[(size_t)(start + r) * dims + d] = scale.empty() ? x : (T)(location[d] + scale[d] * (double)x);
        }
      }
    });
  }
};
}  // namespace

#pragma GCC visibility push(default)
extern "C" {
void* flow_new(int is_double, int dims, int context_size) {
  return is_double ? (Flow*)new FlowOf<double>(dims, context_size) : new FlowOf<float>(dims, context_size);
}
void flow_delete(Flow* flow) { delete flow; }
void flow_permutation(Flow* flow, const int64_t* places) { flow->add_permutation(places); }
void flow_elementwise(Flow* flow, int inverted) { flow->add_elementwise(inverted); }
void flow_autoregressive(Flow* flow, int inverted, int kept, int activation, const int64_t* order) {
  flow->add_autoregressive(inverted, kept, activation, order);
}
// Of the part added last; first its transformer, then its numbers.
void flow_affine(Flow* flow, int scale, int clamps, double low, double high) { flow->set_affine(scale, clamps, low, high); }
void flow_spline(Flow* flow, int linear, int bins, double bound, double slope_shift) {
  flow->set_spline(linear, bins, bound, slope_shift);
}
void flow_values(Flow* flow, const void* values) { flow->set_values(values); }
void flow_linear(Flow* flow, int units, int inputs, const void* weight, const void* bias, const int64_t* offsets) {
  flow->add_linear(units, inputs, weight, bias, offsets);
}
void flow_context(Flow* flow, const void* weight) { flow->set_context(weight); }
void flow_skip(Flow* flow, const void* weight) { flow->set_skip(weight); }
void flow_standardize(Flow* flow, const double* location, const double* scale) {
  flow->location.assign(location, location + flow->dims);
  flow->scale.assign(scale, scale + flow->dims);
}
void flow_standardize_context(Flow* flow, const double* location, const double* scale) {
  flow->context_location.assign(location, location + flow->context_size);
  flow->context_scale.assign(scale, scale + flow->context_size);
}
void flow_base(Flow* flow, const void* location, const void* scale) { flow->set_base(location, scale); }  // last
void flow_log_prob(const Flow* flow, const void* rows, int rows_are_double, const double* context, int64_t count, int threads, void* log_prob) {
  flow->log_prob(rows, rows_are_double, context, count, threads, log_prob);
}
void flow_sample(const Flow* flow, const double* noise, const double* context, int64_t count, int threads, void* rows, void* log_prob) {
  flow->sample(noise, context, count, threads, rows, log_prob);
}
}
