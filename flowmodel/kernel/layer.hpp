// One affine autoregressive layer, y_i = mu_i(x_<i) + sigma_i(x_<i) x_i, in both directions by one walk over the degrees.
//
// Hidden units are sorted by degree. Once x_1 .. x_t are known, exactly the units of degree t can be computed, and they
// are all that mu and sigma of dimension t + 1 still lack. Each weight that the mask leaves is used once, so both
// directions cost half a dense pass. Solving for x or being given it differs in one line.
#pragma once

enum Activation { relu, tanh_, elu, leaky_relu, sigmoid_, softplus_ };
enum Scale { bounded, exp_, softplus_scale, sigmoid_scale };

template <typename T> static inline Vec<T> activate(Vec<T> z, int activation) {
  switch (activation) {
    case relu: return z > T(0) ? z : (z != z ? z : all<T>(T(0)));
    case tanh_: return tanh<T>(z);
    case elu: return z > T(0) ? z : expm1<T>(z);
    case leaky_relu: return z > T(0) ? z : z * T(0.01);
    case sigmoid_: return sigmoid<T>(z);
    default: return softplus<T>(z);
  }
}

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

template <typename T> struct Linear {
  int units = 0, inputs = 0;
  std::vector<T> by_unit, by_input;  // [units][inputs], [inputs][padded units]
  std::vector<T> bias;
  int padded = 0;

  Linear() = default;
  Linear(int units, int inputs, const T* weight, const T* bias_of)
      : units(units), inputs(inputs), by_unit(weight, weight + (size_t)units * inputs), bias(bias_of, bias_of + units) {
    const int lanes = Lanes<T>::count;
    padded = (units + lanes - 1) / lanes * lanes + lanes;
    by_input.assign((size_t)inputs * padded, T(0));
    for (int u = 0; u < units; u++)
      for (int k = 0; k < inputs; k++) by_input[(size_t)k * padded + u] = weight[(size_t)u * inputs + k];
    bias.resize(padded, T(0));
  }
};

// out[u] += sum_k weight[u][k] in[k] for U units, Q vectors of rows; one running sum for each row and unit, k ascending.
template <typename T, int U, int Q>
static inline void panel(const T* weight, int stride, const T* in, int known, T* out, int row_stride) {
  typedef Register<T> R;
  typedef typename R::vec vec;
  vec sum[U][Q];
#pragma GCC unroll 8
  for (int u = 0; u < U; u++)
#pragma GCC unroll 8
    for (int q = 0; q < Q; q++) sum[u][q] = *(const vec*)(out + (size_t)u * row_stride + q * R::count);
#pragma GCC unroll 2
  for (int k = 0; k < known; k++) {
    vec h[Q];
#pragma GCC unroll 8
    for (int q = 0; q < Q; q++) h[q] = *(const vec*)(in + (size_t)k * row_stride + q * R::count);
#pragma GCC unroll 8
    for (int u = 0; u < U; u++) {
      T w = weight[(size_t)u * stride + k];
#pragma GCC unroll 8
      for (int q = 0; q < Q; q++) sum[u][q] = h[q] * w + sum[u][q];
    }
  }
#pragma GCC unroll 8
  for (int u = 0; u < U; u++)
#pragma GCC unroll 8
    for (int q = 0; q < Q; q++) *(vec*)(out + (size_t)u * row_stride + q * R::count) = sum[u][q];
}

template <typename T, int Q>
static inline void units_of(const T* weight, int stride, const T* in, int known, T* out, int row_stride, int units) {
  int u = 0;
  for (; u + PANEL <= units; u += PANEL)
    panel<T, PANEL, Q>(weight + (size_t)u * stride, stride, in, known, out + (size_t)u * row_stride, row_stride);
  for (; u + 2 <= units; u += 2)
    panel<T, 2, Q>(weight + (size_t)u * stride, stride, in, known, out + (size_t)u * row_stride, row_stride);
  for (; u < units; u++)
    panel<T, 1, Q>(weight + (size_t)u * stride, stride, in, known, out + (size_t)u * row_stride, row_stride);
}

template <typename T> struct Layer {
  bool solves_in_pull = true;  // pull solves for x and push evaluates; under Invert the other way round
  int dims = 0, context_size = 0, activation = 0, scale = 0;
  bool clamps = false, natural = true;
  T low = 0, high = 0;
  std::vector<int> order;
  std::vector<Linear<T>> linear;           // the hidden layers and the outputs: rows 2 i, 2 i + 1 are mu and u of dimension i
  std::vector<std::vector<int>> offsets;   // of each hidden layer, for each t the units with a degree of at most t
  Linear<T> context, skip;                 // from the context to the first layer, from x to the outputs; of 0 units if absent

  // Numbers that a walk over one row needs to keep.
  size_t workspace() const {
    size_t n = dims + context_size + skip.padded;
    for (auto& l : linear) n += l.padded;
    return n;
  }
};
