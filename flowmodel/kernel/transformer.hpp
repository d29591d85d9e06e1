// Transformers, y = f(x; theta): a strictly increasing function of one number, given P parameters for each row.
//
// The formulas are those of flowmodel/bijectors/{affine_transformer,rational_spline}.py, which derive them. Everything is
// done a vector of rows at a time, without branches: what does not apply to a row is computed beside, and not selected.
#pragma once

enum Scale { bounded, exp_, softplus_scale, sigmoid_scale };
enum Form { affine_form, linear_spline, quadratic_spline };

template <typename T> static inline Vec<T> log_scale(Vec<T> u, int scale) {
  switch (scale) {
    case bounded: {
      Vec<T> share = u / T(6.907755278982137);
      return u / square_root<T>(share * share + T(1));
    }
    case exp_: return u;
    case softplus_scale: {
      // Far below 0, log log(1 + e^u) = u - e^u / 2 + O(e^2u); there softplus itself underflows.
      Vec<T> above = u < T(-20) ? all<T>(T(-20)) : u, below = u > T(-20) ? all<T>(T(-20)) : u;
      return u < T(-20) ? u - exp<T>(below) * T(0.5) : log<T>(softplus<T>(above));
    }
    default: return (u < T(0) ? u : all<T>(T(0))) - log1p<T>(exp<T>(-absolute<T>(u)));
  }
}

template <typename T> struct Transformer {
  int form = affine_form, size = 2;  // size: P, the parameters of one dimension
  int scale = bounded;               // of the affine form
  bool clamps = false;
  T low = 0, high = 0;
  int bins = 0;                      // of the splines
  T bound = 0, slope_shift = 0;
};

// A number for each row and a log-slope beside it.
template <typename T> struct Mapped { Vec<T> value, log_slope; };

// Raw lengths of K bins to the upper ends of the bins, in place; no bin is shorter than 1e-3 of the whole.
template <typename T> static inline void lengths_to_knots(T* raw, int stride, int bins, T bound) {
  Vec<T> most = load<T>(raw), sum = all<T>(T(0)), passed = all<T>(T(0));
  for (int k = 1; k < bins; k++) {
    Vec<T> length = load<T>(raw + (size_t)k * stride);
    most = length > most ? length : most;
  }
  for (int k = 0; k < bins; k++) {
    Vec<T> e = exp<T>(load<T>(raw + (size_t)k * stride) - most);
    store<T>(raw + (size_t)k * stride, e);
    sum += e;
  }
  Vec<T> share = T(1 - 1e-3 * bins) / sum;
  for (int k = 0; k < bins - 1; k++) {
    passed += load<T>(raw + (size_t)k * stride) * share + T(1e-3);
    store<T>(raw + (size_t)k * stride, passed * (2 * bound) - bound);
  }
  store<T>(raw + (size_t)(bins - 1) * stride, all<T>(bound));
}

// Turns the raw parameters of a vector of rows, P of them `stride` apart, into what map_value() reads, in place:
// mu and log sigma, or the upper ends of the bins in x and in y, the slopes there, and lambda.
template <typename T> static inline void prepare(const Transformer<T>& f, T* params, int stride) {
  auto at = [&](int p) { return params + (size_t)p * stride; };
  if (f.form == affine_form) {
    Vec<T> u = load<T>(at(1));
    if (f.clamps) {
      u = u < f.low ? all<T>(f.low) : u;
      u = u > f.high ? all<T>(f.high) : u;
    }
    store<T>(at(1), log_scale<T>(u, f.scale));
    return;
  }
  const int bins = f.bins;
  lengths_to_knots<T>(at(0), stride, bins, f.bound);
  lengths_to_knots<T>(at(bins), stride, bins, f.bound);
  for (int p = 2 * bins; p < 3 * bins - 1; p++)
    store<T>(at(p), softplus<T>(load<T>(at(p)) + f.slope_shift) + T(1e-3));
  if (f.form == linear_spline)
    for (int p = 3 * bins - 1; p < 4 * bins - 1; p++)
      store<T>(at(p), sigmoid<T>(load<T>(at(p))) * T(0.95) + T(0.025));
}

// The bin of one spline that a row's number lies in.
template <typename T> struct Bin { Vec<T> x_low, x_high, y_low, y_high, slope_low, slope_high, share; };

template <typename T>
static inline Bin<T> find_bin(const Transformer<T>& f, const T* params, int stride, Vec<T> value, bool inverse) {
  const int bins = f.bins;
  const bool linear = f.form == linear_spline;
  auto at = [&](int p) { return load<T>(params + (size_t)p * stride); };
  const Vec<T> least = all<T>(-f.bound), one = all<T>(T(1));
  Bin<T> bin{least, at(0), least, at(bins), one, at(2 * bins), linear ? at(3 * bins - 1) : one};
  for (int k = 1; k < bins; k++) {
    const Vec<T> x = at(k - 1), y = at(bins + k - 1);
    const auto passed = value >= (inverse ? y : x);
    bin.x_low = passed ? x : bin.x_low;
    bin.y_low = passed ? y : bin.y_low;
    bin.x_high = passed ? at(k) : bin.x_high;
    bin.y_high = passed ? at(bins + k) : bin.y_high;
    bin.slope_low = passed ? at(2 * bins + k - 1) : bin.slope_low;
    bin.slope_high = passed ? (k < bins - 1 ? at(2 * bins + k) : one) : bin.slope_high;
    if (linear) bin.share = passed ? at(3 * bins - 1 + k) : bin.share;
  }
  return bin;
}

// A distance from the near end of a bin, to a number: from the lower end, or down from the upper one. The terms of the sum
// are chosen, and not one of two sums, so that every instruction set fuses it alike.
template <typename T> static inline Vec<T> reflected(Bits<T> upper, Vec<T> low, Vec<T> high, Vec<T> distance) {
  return (upper ? high : low) + (upper ? -distance : distance);
}

// The half of length L and height H next to a knot of weight w maps a distance t from that knot, in widths, to
// g = w_c H t / (w (L - t) + w_c t), and back by t = w L g / (w_c (H - g) + w g); the upper half is the lower reflected.
template <typename T> static inline Mapped<T> linear_piece(const Bin<T>& bin, Vec<T> value, bool inverse) {
  const Vec<T> width = bin.x_high - bin.x_low, height = bin.y_high - bin.y_low, rest = T(1) - bin.share;
  const Vec<T> weight_high = square_root<T>(bin.slope_low / bin.slope_high);
  const Vec<T> weight_middle =
      (bin.share * bin.slope_low + rest * weight_high * bin.slope_high) * width / height;
  const Vec<T> unit = height / (bin.share * weight_high + rest);
  const Vec<T> height_low = unit * bin.share * weight_high;
  const Vec<T> low = inverse ? bin.y_low : bin.x_low, high = inverse ? bin.y_high : bin.x_high;
  const auto second = value - low > (inverse ? height_low : bin.share * width);
  const Vec<T> near = second ? high - value : value - low;
  const Vec<T> length = second ? rest : bin.share;
  auto weighted = [&](Vec<T> distance) { return second ? weight_high * distance : distance; };
  const Vec<T> half_height = second ? unit * rest : height_low;
  const Vec<T> steepness = weighted(weight_middle * half_height * length);
  if (inverse) {
    const Vec<T> denominator = weight_middle * (half_height - near) + weighted(near);
    const Vec<T> far = weighted(width * length * near) / denominator;
    return {reflected<T>(second, bin.x_low, bin.x_high, far), log<T>(steepness * width) - T(2) * log<T>(denominator)};
  }
  const Vec<T> t = near / width;
  const Vec<T> denominator = weight_middle * t + weighted(length - t);
  const Vec<T> far = weight_middle * half_height * t / denominator;
  return {reflected<T>(second, bin.y_low, bin.y_high, far), log<T>(steepness / width) - T(2) * log<T>(denominator)};
}

// With r and s the slopes at the near and the far knot over the bin's mean slope, t maps to
// gamma = (t^2 + r t (1 - t)) / (1 + (r + s - 2) t (1 - t)), and back by alpha t^2 + (1 - alpha) t = gamma with
// alpha = 1 - r + gamma (r + s - 2), of whose roots and discriminants that form is taken which adds.
template <typename T> static inline Mapped<T> quadratic_piece(const Bin<T>& bin, Vec<T> value, bool inverse) {
  const Vec<T> width = bin.x_high - bin.x_low, height = bin.y_high - bin.y_low, mean_slope = height / width;
  const Vec<T> low = inverse ? bin.y_low : bin.x_low, high = inverse ? bin.y_high : bin.x_high;
  const auto upper = value - low > high - value;
  const Vec<T> near = upper ? high - value : value - low;
  const Vec<T> r = (upper ? bin.slope_high : bin.slope_low) / mean_slope;
  const Vec<T> s = (upper ? bin.slope_low : bin.slope_high) / mean_slope;
  Vec<T> t = near / (inverse ? height : width);
  if (inverse) {
    const Vec<T> alpha = (T(1) - r) + t * (r + s - T(2)), other = T(1) - t;
    const Vec<T> beta = (r * other - s * t) + T(2) * t;
    const Vec<T> squared = alpha < T(0) ? alpha + T(1) : beta, factor = alpha < T(0) ? -other : t;
    const Vec<T> root = square_root<T>(squared * squared + T(4) * alpha * factor);
    t = (beta < T(0) ? root - beta : T(2) * t) / (beta < T(0) ? T(2) * alpha : beta + root);
  }
  const Vec<T> rest = T(1) - t, both = t * rest;
  const Vec<T> denominator = (r + s) * both + (T(1) - T(2) * both);
  const Vec<T> numerator = (s * t * t + T(2) * both) + r * rest * rest;
  const Vec<T> log_slope = log<T>(mean_slope * numerator) - T(2) * log<T>(denominator);
  if (inverse) {
    const Vec<T> far = width * t;
    return {reflected<T>(upper, bin.x_low, bin.x_high, far), -log_slope};
  }
  const Vec<T> far = height * t * (r * rest + t) / denominator;
  return {reflected<T>(upper, bin.y_low, bin.y_high, far), log_slope};
}

// f or its inverse at a vector of rows, by parameters that prepare() has been given.
template <typename T>
static inline Mapped<T> map_value(const Transformer<T>& f, const T* params, int stride, Vec<T> value, bool inverse) {
  if (f.form == affine_form) {
    const Vec<T> mu = load<T>(params), log_sigma = load<T>(params + stride);
    if (inverse) return {(value - mu) * exp<T>(-log_sigma), -log_sigma};
    return {exp<T>(log_sigma) * value + mu, log_sigma};
  }
  // Outside [-bound, bound] the identity; a NaN is inside, and stays what it is.
  const Vec<T> least = all<T>(-f.bound), most = all<T>(f.bound);
  const Vec<T> inside = value < least ? least : (value > most ? most : value);
  const Bin<T> bin = find_bin<T>(f, params, stride, inside, inverse);
  const Mapped<T> piece =
      f.form == linear_spline ? linear_piece<T>(bin, inside, inverse) : quadratic_piece<T>(bin, inside, inverse);
  const auto outside = (value < least) | (value > most);
  return {outside ? value : piece.value, outside ? all<T>(T(0)) : piece.log_slope};
}

// One dimension: its raw parameters, P of them `stride` apart for each of the rows, are used up; x or y is given, the
// other one found, and the log-slope of the map taken goes into the log-determinant. Compiled once for few rows and many,
// so that both round alike.
template <typename T>
static __attribute__((noinline, noclone)) void finish_dimension(const Transformer<T>& f, T* params, int stride, const T* given, T* found,
                                                       T* log_det, int rows, bool inverse) {
  for (int r = 0; r < rows; r += Lanes<T>::count) {
    prepare<T>(f, params + r, stride);
    const Mapped<T> mapped = map_value<T>(f, params + r, stride, load<T>(given + r), inverse);
    store<T>(found + r, mapped.value);
    store<T>(log_det + r, load<T>(log_det + r) + mapped.log_slope);
  }
}
