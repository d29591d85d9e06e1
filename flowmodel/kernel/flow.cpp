// The C interface.
//
// Compiled once for each instruction set, into a library of its own; flowmodel/kernel/library.py loads the one that fits.
// No sum crosses rows and each has one order, so a row's answer does not depend on what it was batched with.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "registers.hpp"

namespace {
#include "lanes.hpp"
#include "transformer.hpp"
#include "layer.hpp"
#include "walk.hpp"
#include "tiles.hpp"
#include "part.hpp"
#include "fixed.hpp"
#include "columns.hpp"
#include "base.hpp"
#include "flow.hpp"
#include "noise.hpp"

// A flow of float32 or of float64.
struct AnyFlow {
  std::unique_ptr<Flow<float>> single;
  std::unique_ptr<Flow<double>> full;

  template <typename Use> void use(Use use) const {
    if (full) use(*full);
    else use(*single);
  }
};

template <typename F> using Number = typename std::decay_t<F>::Number;

// The numbers at a pointer that the caller knows to be of the flow's type.
template <typename F> const typename F::Number* numbers(const F&, const void* at) { return (const typename F::Number*)at; }

template <typename T> Interval<T> interval(const T* ends) { return {ends[0], ends[1], ends[2], ends[3], ends[4]}; }

// The transformer of the part added last.
template <typename F> auto& transformer(F& flow) {
  return flow.template last<Transforming<typename F::Number>>().transformer;
}

template <typename F> auto& layer(F& flow) { return flow.template last<Autoregressive<typename F::Number>>().layer; }
}  // namespace

#pragma GCC visibility push(default)
extern "C" {
void* flow_new(int is_double, int dims, int context_size) {
  AnyFlow* flow = new AnyFlow;
  if (is_double) flow->full = std::make_unique<Flow<double>>(dims, context_size);
  else flow->single = std::make_unique<Flow<float>>(dims, context_size);
  return flow;
}
void flow_delete(AnyFlow* flow) { delete flow; }

// Parts are added from noise to data, each followed by what it holds.
void flow_permutation(AnyFlow* flow, const int64_t* places) {
  flow->use([&](auto& f) { f.parts.push_back(std::make_unique<Permutation<Number<decltype(f)>>>(places, f.dims)); });
}

void flow_elementwise(AnyFlow* flow, int inverted) {
  flow->use([&](auto& f) { f.template add<Elementwise<Number<decltype(f)>>>(inverted); });
}

void flow_autoregressive(AnyFlow* flow, int inverted, int kept, int activation, const int64_t* order) {
  flow->use([&](auto& f) {
    auto& added = f.template add<Autoregressive<Number<decltype(f)>>>(inverted);
    added.layer.kept = kept;
    added.layer.activation = activation;
    added.set_order(order, f.dims);
  });
}

// The log-determinant of what has the same slope everywhere. For each column its support and four numbers, as Column has
// them, and the first and last numbers of its data.
void flow_columns(AnyFlow* flow, int inverted, int gives_exact, double log_det, const int64_t* supports, const double* of_columns,
                  const void* first, const void* last) {
  flow->use([&](auto& f) {
    auto& added = f.template add<Columns<Number<decltype(f)>>>(inverted);
    added.gives_exact = gives_exact;
    for (int d = 0; d < f.dims; d++) {
      const double* of = of_columns + 4 * d;
      added.columns.push_back({(int)supports[d], of[0], of[1], of[2], of[3]});
    }
    added.log_det = log_det;
    added.first.assign(numbers(f, first), numbers(f, first) + f.dims);
    added.last.assign(numbers(f, last), numbers(f, last) + f.dims);
  });
}

// Three numbers, and five of each interval, as Fixed and Interval have them.
void flow_fixed(AnyFlow* flow, int inverted, int function, const void* of_function, const void* domain, const void* codomain) {
  flow->use([&](auto& f) {
    auto& added = f.template add<Fixed<Number<decltype(f)>>>(inverted);
    added.function = function;
    added.dims = f.dims;
    std::copy(numbers(f, of_function), numbers(f, of_function) + 3, added.numbers);
    added.domain = interval(numbers(f, domain));
    added.codomain = interval(numbers(f, codomain));
  });
}

void flow_affine(AnyFlow* flow, int scale, int clamps, double low, double high) {
  flow->use([&](auto& f) {
    auto& of = transformer(f);
    of.scale = scale;
    of.clamps = clamps;
    of.low = low;
    of.high = high;
  });
}

void flow_spline(AnyFlow* flow, int linear, int bins, double bound, double slope_shift) {
  flow->use([&](auto& f) {
    auto& of = transformer(f);
    of.form = linear ? linear_spline : quadratic_spline;
    of.size = linear ? 4 * bins - 1 : 3 * bins - 1;
    of.bins = bins;
    of.bound = bound;
    of.slope_shift = slope_shift;
    f.products += 40.0 * bins * f.dims;
  });
}

void flow_values(AnyFlow* flow, const void* values) {
  flow->use([&](auto& f) { f.template last<Elementwise<Number<decltype(f)>>>().set_values(numbers(f, values), f.dims); });
}

void flow_linear(AnyFlow* flow, int units, int inputs, const void* weight, const void* bias, const int64_t* offsets) {
  flow->use([&](auto& f) {
    layer(f).linear.emplace_back(units, inputs, numbers(f, weight), numbers(f, bias));
    if (offsets) layer(f).offsets.emplace_back(offsets, offsets + f.dims);
    f.products += 0.5 * units * inputs;
  });
}

void flow_context(AnyFlow* flow, const void* weight) {
  flow->use([&](auto& f) {
    const auto& first = layer(f).linear[0];
    layer(f).context_size = f.context_size;
    layer(f).context = Linear<Number<decltype(f)>>(first.units, f.context_size, numbers(f, weight), first.bias.data());
  });
}

void flow_skip(AnyFlow* flow, const void* weight) {
  flow->use([&](auto& f) {
    const int units = transformer(f).size * f.dims;
    const std::vector<Number<decltype(f)>> none(units, 0);
    layer(f).skip = Linear<Number<decltype(f)>>(units, f.dims, numbers(f, weight), none.data());
  });
}

void flow_standardize_context(AnyFlow* flow, const double* location, const double* scale) {
  flow->use([&](auto& f) {
    f.context_location.assign(location, location + f.context_size);
    f.context_scale.assign(scale, scale + f.context_size);
  });
}

void flow_base(AnyFlow* flow, int family, const void* location, const void* scale, const void* degrees, double log_normaliser) {
  flow->use([&](auto& f) {
    f.base.family = (Family)family;
    f.base.dims = f.dims;
    f.base.noise_size = family == student_t ? 2 * f.dims : f.dims;
    f.base.location.assign(numbers(f, location), numbers(f, location) + f.dims);
    f.base.scale.assign(numbers(f, scale), numbers(f, scale) + f.dims);
    if (degrees) f.base.degrees.assign(numbers(f, degrees), numbers(f, degrees) + f.dims);
    f.base.log_normaliser = log_normaliser;
  });
}

void flow_mixture(AnyFlow* flow, int blocks, int components, const void* log_factor, const void* location, const void* scale,
                  const double* bounds) {
  flow->use([&](auto& f) {
    const int count = components * f.dims;
    f.base.family = normal_mixture;
    f.base.dims = f.dims;
    f.base.noise_size = f.dims + blocks;
    f.base.blocks = blocks;
    f.base.components = components;
    f.base.block_size = f.dims / blocks;
    f.base.log_factor.assign(numbers(f, log_factor), numbers(f, log_factor) + blocks * components);
    f.base.location.assign(numbers(f, location), numbers(f, location) + count);
    f.base.scale.assign(numbers(f, scale), numbers(f, scale) + count);
    f.base.bounds.assign(bounds, bounds + blocks * (components - 1));
  });
}

// Last: whether each column is whole, and whether a flow of float32 reads its data in float64.
void flow_finish(AnyFlow* flow, const int64_t* whole, int takes_float64) {
  flow->use([&](auto& f) {
    for (int d = 0; d < f.dims; d++)
      if (whole[d]) f.whole.push_back(d);
    f.finish(takes_float64);
  });
}

void flow_log_prob(const AnyFlow* flow, const void* rows, int rows_are_double, const double* context, int64_t count, int threads,
                   void* log_prob) {
  flow->use([&](const auto& f) {
    auto* result = (Number<decltype(f)>*)log_prob;
    if (rows_are_double) f.log_prob((const double*)rows, context, count, threads, result);
    else f.log_prob((const float*)rows, context, count, threads, result);
  });
}

void flow_sample(const AnyFlow* flow, const double* noise, const double* context, int64_t count, int threads, void* rows,
                 void* log_prob) {
  flow->use([&](const auto& f) {
    typedef Number<decltype(f)> T;
    f.sample(noise, context, count, threads, (T*)rows, (T*)log_prob);
  });
}

// draws: seed, start and count of each.
void noise_normal(const uint64_t* draws, int64_t draw_count, int64_t size, int threads, double* to) {
  normal_numbers((const Draw*)draws, draw_count, size, threads, to);
}
}
