// Elementwise functions without parameters to learn, as flowmodel/bijectors/fixed.py and its kin have them.
//
// What lies outside of an interval is mapped to something finite with the log-determinant -inf, and what is inside stays
// inside after rounding.
#pragma once

enum Function { exp_map, sigmoid_map, softplus_map, tanh_map, elu_map, leaky_relu_map, power_map, affine_map };

// An open interval: its ends, a point inside, and the first and last numbers within its finite ends.
template <typename T> struct Interval { T low, high, inside, first, last; };

template <typename T> static inline Vec<T> power(Vec<T> x, T exponent) {
  T each[Lanes<T>::count];
  store<T>(each, x);
  for (T& value : each) value = std::pow(value, exponent);
  return load<T>(each);
}

template <typename T> struct Fixed final : Part<T> {
  int function = exp_map, dims = 0;
  bool inverted = false;
  T numbers[3] = {};  // exponent and log |exponent|; or location, scale and log |scale|
  Interval<T> domain{}, codomain{};

  // f(x) and log |f'(x)|.
  Mapped<T> up(Vec<T> x) const {
    const Vec<T> zero = all<T>(T(0)), steep = -absolute<T>(x);
    switch (function) {
      case exp_map: return {exp<T>(x), x};
      case sigmoid_map: return {sigmoid<T>(x), steep - T(2) * log1p<T>(exp<T>(steep))};
      case softplus_map: {
        const Vec<T> rest = log1p<T>(exp<T>(steep));
        return {(x > T(0) ? x : zero) + rest, (x < T(0) ? x : zero) - rest};
      }
      case tanh_map: {
        const Vec<T> twice = steep + steep;
        return {tanh<T>(x), (twice + T(1.3862943611198906)) - T(2) * log1p<T>(exp<T>(twice))};
      }
      case elu_map: return {x > T(0) ? x : expm1<T>(x), x > T(0) ? zero : x};
      case leaky_relu_map: return {x < T(0) ? x * T(0.01) : x, x < T(0) ? all<T>(T(-4.605170185988091)) : zero};
      case power_map: return {power<T>(x, numbers[0]), log_of_any<T>(x) * (numbers[0] - T(1)) + numbers[1]};
      default: return {x * numbers[1] + numbers[0], all<T>(numbers[2])};
    }
  }

  // The inverse of f and the logarithm of its slope.
  Mapped<T> down(Vec<T> y) const {
    const Vec<T> zero = all<T>(T(0));
    switch (function) {
      case exp_map: {
        const Vec<T> x = log_of_any<T>(y);
        return {x, -x};
      }
      case sigmoid_map: {
        const Vec<T> log_y = log_of_any<T>(y), log_rest = log1p_of_any<T>(-y);
        return {log_y - log_rest, -log_y - log_rest};
      }
      case softplus_map: {
        const Vec<T> log_slope = -log_of_any<T>(-expm1<T>(-y));
        return {y - log_slope, log_slope};
      }
      case tanh_map: {
        const Vec<T> above = log1p_of_any<T>(y), below = log1p_of_any<T>(-y);
        return {(above - below) * T(0.5), -above - below};
      }
      case elu_map: {
        const Vec<T> negative = log1p_of_any<T>(y > T(0) ? zero : y);
        return {y > T(0) ? y : negative, -negative};
      }
      case leaky_relu_map: return {y < T(0) ? y / T(0.01) : y, y < T(0) ? all<T>(T(4.605170185988091)) : zero};
      case power_map: {
        const T root = T(1) / numbers[0];
        return {power<T>(y, root), log_of_any<T>(y) * (root - T(1)) - numbers[1]};
      }
      default: return {(y - numbers[0]) / numbers[1], all<T>(-numbers[2])};
    }
  }

  void take(Tile<T>& tile, int, bool pulls) const override {
    const bool ups = pulls == inverted;
    const Interval<T>&from = ups ? domain : codomain, &to = ups ? codomain : domain;
    for (int d = 0; d < dims; d++)
      for (int r = 0; r < tile.rows; r += Lanes<T>::count) {
        T* at = tile.feature(d) + r;
        const Vec<T> value = load<T>(at);
        const auto outside = (value <= from.low) | (value >= from.high);
        const Vec<T> inside = outside ? all<T>(from.inside) : value;
        const Mapped<T> mapped = ups ? up(inside) : down(inside);
        Vec<T> kept = mapped.value < to.first ? all<T>(to.first) : mapped.value;
        kept = kept > to.last ? all<T>(to.last) : kept;
        store<T>(at, kept);
        const Vec<T> log_slope = outside ? all<T>(-std::numeric_limits<T>::infinity()) : mapped.log_slope;
        store<T>(&tile.log_det[r], load<T>(&tile.log_det[r]) + log_slope);
      }
  }
};
