// Columns of data each mapped from the line in a way of its own, in float64: standardisation and supports.
//
// The formulas are those of flowmodel/bijectors/{standardize,support_maps}.py. What is near a bound is measured from it.
#pragma once

enum Support { standard, real, one_bound, two_bounds, circle };

typedef Vec<double> Wide;

static inline Wide log_normal(Wide z) { return z * z * -0.5 - 0.9189385332046727; }

static inline Wide evaluate(const double (&coefficients)[8], Wide r) {
  Wide sum = all<double>(coefficients[7]);
  for (int i = 6; i >= 0; i--) sum = sum * r + coefficients[i];
  return sum;
}

// The normal quantile of p up to 1/2: Wichura, "The percentage points of the normal distribution", Appl. Statist. 37
// (1988), algorithm AS 241, whose relative error is below 1e-15.
static inline Wide lower_quantile(Wide p) {
  static const double a[8] = {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
                              4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3};
  static const double b[8] = {1, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
                              2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3};
  static const double c[8] = {1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
                              1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4};
  static const double d[8] = {1, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
                              1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9};
  static const double e[8] = {6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
                              2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7};
  static const double f[8] = {1, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
                              7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15};
  const Wide q = p - 0.5, central = 0.180625 - q * q;
  const Wide r = square_root<double>(-log_of_any<double>(p));
  const Wide near = r - 1.6, far = r - 5.0;
  const Wide tail = r > 5.0 ? evaluate(e, far) / evaluate(f, far) : evaluate(c, near) / evaluate(d, near);
  return q < -0.425 ? -tail : q * (evaluate(a, central) / evaluate(b, central));
}

template <typename Of> static inline Wide each_lane(Wide x, Of of) {
  double each[Lanes<double>::count];
  store<double>(each, x);
  for (double& value : each) value = of(value);
  return load<double>(each);
}

static inline double remainder_of(double value, double divisor) {
  const double rest = std::fmod(value, divisor);
  return rest < 0 ? rest + divisor : rest;
}

// standard: low is the location and high the scale; one_bound: low is the bound and high the sign, 1 or -1.
struct Column {
  int support;
  double low, high, cut, least;  // least: the least share of the width told from none

  double width() const { return high - low; }

  // The line to data; log_det takes the logarithm of the slope.
  Wide push(Wide x, Wide& log_det) const {
    switch (support) {
      case standard: return x * high + low;
      case real: return x;
      case one_bound:
        log_det += x;
        return exp<double>(x) * high + low;
    }
    const Wide tail = each_lane(absolute<double>(x), [](double z) { return 0.5 * std::erfc(z * 0.7071067811865476); });
    const Wide part = tail * width();
    log_det += log_normal(x) + std::log(width());
    const Wide y = (x < 0.0 ? all<double>(low) : all<double>(high)) + (x < 0.0 ? part : -part);
    if (support == two_bounds) return y;
    return each_lane(y, [this](double value) { return low + remainder_of(value - low + (cut - low), width()); });
  }

  // Data to the line; outside takes where y is none of the data.
  Wide pull(Wide y, Wide& log_det, Bits<double>& outside) const {
    if (support == standard) return (y - low) / high;
    const auto infinite = absolute<double>(y) == std::numeric_limits<double>::infinity();
    if (support == real) {
      outside |= infinite;
      return infinite ? all<double>(0) : y;
    }
    if (support == one_bound) {
      const auto out = infinite | (y * high <= all<double>(low * high));
      outside |= out;
      const Wide x = log_of_any<double>((out ? all<double>(1) : (y - low) * high));
      log_det -= x;
      return x;
    }
    const Bits<double> out = support == circle ? infinite : infinite | (y <= low) | (y >= high);
    outside |= out;
    const Wide inside = out ? all<double>(low + 0.5 * width()) : y;
    Wide above = inside - low, below = high - inside;
    if (support == circle) {
      above = each_lane(inside, [this](double value) { return remainder_of(value - cut, width()); });
      below = width() - above;
    }
    const auto nearer_low = above <= below;
    const Wide share = (nearer_low ? above : below) / width();
    const Wide tail = lower_quantile(share < least ? all<double>(least) : share);
    log_det -= log_normal(tail) + std::log(width());
    return nearer_low ? tail : -tail;
  }
};

template <typename T> static inline Wide widen(const T* from) {
  double wide[Lanes<double>::count];
  for (int i = 0; i < Lanes<double>::count; i++) wide[i] = from[i];
  return load<double>(wide);
}

template <typename T> static inline void narrow(Wide values, T* to) {
  double wide[Lanes<double>::count];
  store<double>(wide, values);
  for (int i = 0; i < Lanes<double>::count; i++) to[i] = (T)wide[i];
}

template <typename T> struct Columns final : Part<T> {
  std::vector<Column> columns;
  std::vector<T> first, last;  // the ends of each column's data, of numbers of type T
  T log_det = 0;               // of standardisation, from noise to data
  bool inverted = false;
  // Pulling, whether the tile's exact numbers are read in place of its values, and whether they are written.
  bool reads_exact = false, writes_exact = false, gives_exact = false;

  void take(Tile<T>& tile, int, bool pulls) const override {
    const bool to_line = pulls != inverted;
    const double out_of_data = -std::numeric_limits<double>::infinity();
    for (int r = 0; r < tile.rows; r += Lanes<double>::count) {
      Wide sum = all<double>(0);
      Bits<double> outside{};
      for (size_t d = 0; d < columns.size(); d++) {
        T* value = tile.feature(d) + r;
        double* exact = &tile.exact[reads_exact || writes_exact ? d * tile.rows + r : 0];
        const Wide given = pulls && reads_exact ? load<double>(exact) : widen<T>(value);
        if (to_line) {
          const Wide x = columns[d].pull(given, sum, outside);
          if (writes_exact) store<double>(exact, x);
          else narrow<T>(x, value);
        } else {
          narrow<T>(columns[d].push(given, sum), value);
          for (int i = 0; i < Lanes<double>::count; i++) {
            value[i] = value[i] < first[d] ? first[d] : value[i];
            value[i] = value[i] > last[d] ? last[d] : value[i];
          }
        }
      }
      T of_rows[Lanes<double>::count];
      narrow<T>(outside ? all<double>(out_of_data) : sum, of_rows);
      for (int i = 0; i < Lanes<double>::count; i++) tile.log_det[r + i] += of_rows[i] + (to_line ? -log_det : log_det);
    }
  }
};
