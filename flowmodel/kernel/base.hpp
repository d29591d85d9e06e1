// The distribution of the noise: its log-density, and draws from standard normal numbers that come in from outside.
//
// The formulas are those of flowmodel/distributions/base_folded.py. Draws are made in float64, each tail from its own side.
#pragma once

enum Family { normal, laplace, student_t, uniform, normal_mixture };

static const double root_half = 0.7071067811865476, log_two = 0.6931471805599453;

static inline double normal_cdf(double z) { return 0.5 * std::erfc(-z * root_half); }

// log Phi(-z) for z of at least 1. Where erfc underflows, by its asymptotic series in t = z / sqrt(2).
static inline double log_upper_tail(double z) {
  if (!(z > 35)) return std::log(std::erfc(z * root_half)) - log_two;
  const double square = 0.5 * z * z, u = 0.5 / square;
  return std::log1p(u * (u * (3 - 15 * u) - 1)) - square - std::log(z * 2.5066282746310002);
}

static inline double log_normal_cdf(double z) {
  return z < -1 ? log_upper_tail(-z) : std::log1p(-0.5 * std::erfc(z * root_half));
}

template <typename T> struct Base {
  Family family = normal;
  int dims = 0, noise_size = 0;
  std::vector<T> location, scale, degrees;  // [D]; the lower and upper ends of the uniform
  T log_normaliser = 0;
  // Of a mixture: G blocks of E dimensions, K components each.
  int blocks = 0, components = 0, block_size = 0;
  std::vector<T> log_factor;   // [G][K]; location and scale are [G][K][E]
  std::vector<double> bounds;  // [G][K - 1], where the next component begins

  // Dimension d of a draw from one row of noise.
  T draw(const double* noise, int d) const {
    const double z = noise[d];
    switch (family) {
      case normal: return location[d] + scale[d] * (T)z;
      case laplace: {
        const double size = std::fabs(z);
        const double log_tail = size < 1 ? std::log1p(-std::erf(size * root_half)) : log_upper_tail(size) + log_two;
        return location[d] + scale[d] * (T)(z < 0 ? log_tail : -log_tail);
      }
      case student_t: {
        // Bailey, "Polar generation of random variates with the t-distribution", Math. Comp. 62 (1994).
        const double nu = degrees[d], radius = std::sqrt(nu * std::expm1(-2 * log_normal_cdf(z) / nu));
        return location[d] + scale[d] * (T)(radius * std::cos(6.283185307179586 * normal_cdf(noise[dims + d])));
      }
      case uniform: {
        const double low = location[d], high = scale[d], step = (high - low) * normal_cdf(-std::fabs(z));
        // The upper end itself lies outside, and rounding may reach it.
        return std::min((T)(z < 0 ? low + step : high - step), std::nextafter(scale[d], location[d]));
      }
      default: {
        const int block = d / block_size, last = components - 1;
        const double u = normal_cdf(noise[dims + block]), *bound = bounds.data() + (size_t)block * last;
        int component = 0;
        for (int k = 0; k < last; k++) component += u >= bound[k];
        const size_t at = ((size_t)block * components + component) * block_size + d % block_size;
        return location[at] + scale[at] * (T)z;
      }
    }
  }

  // Log-density of the noise in a tile.
  void log_prob(Tile<T>& tile, T* log_prob) const {
    for (int r = 0; r < tile.rows; r += Lanes<T>::count) store<T>(log_prob + r, log_prob_of(tile, r));
  }

  Vec<T> log_prob_of(Tile<T>& tile, int r) const {
    if (family == normal_mixture) return mixture_log_prob(tile, r);
    Vec<T> sum = all<T>(T(0));
    Bits<T> outside{};
    for (int d = 0; d < dims; d++) {
      const Vec<T> x = load<T>(tile.feature(d) + r);
      if (family == uniform) {
        outside |= (x < location[d]) | (x >= scale[d]);
        sum += x != x ? x : all<T>(T(0));
        continue;
      }
      const Vec<T> z = (x - location[d]) / scale[d];
      if (family == normal) sum = z * z + sum;
      else if (family == laplace) sum += absolute<T>(z);
      else sum = log1p_of_any<T>(z * z / degrees[d]) * (T(0.5) * (degrees[d] + T(1))) + sum;
    }
    if (family == normal) return sum * T(-0.5) - log_normaliser;
    return outside ? all<T>(-std::numeric_limits<T>::infinity()) : -sum - log_normaliser;
  }

  // By the largest term of each block, so that no exponential overflows.
  Vec<T> mixture_log_prob(Tile<T>& tile, int r) const {
    const Vec<T> nothing = all<T>(-std::numeric_limits<T>::infinity());
    Vec<T> total = all<T>(T(0));
    for (int block = 0; block < blocks; block++) {
      auto term = [&](int k) {
        Vec<T> sum = all<T>(T(0));
        for (int e = 0; e < block_size; e++) {
          const size_t at = ((size_t)block * components + k) * block_size + e;
          const Vec<T> z = (load<T>(tile.feature(block * block_size + e) + r) - location[at]) / scale[at];
          sum = z * z + sum;
        }
        return sum * T(-0.5) + log_factor[(size_t)block * components + k];
      };
      Vec<T> most = nothing, sum = all<T>(T(0));
      for (int k = 0; k < components; k++) {
        const Vec<T> t = term(k);
        most = t > most ? t : most;
      }
      const Vec<T> by = most == nothing ? all<T>(T(0)) : most;
      for (int k = 0; k < components; k++) sum += exp<T>(term(k) - by);
      total += by + log_of_any<T>(sum);
    }
    return total;
  }
};
