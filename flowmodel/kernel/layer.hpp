// One autoregressive layer, y_i = f(x_i; theta_i(x_<i)), in both directions by one walk over the degrees.
//
// Hidden units are sorted by degree. Once x_1 .. x_t are known, exactly the units of degree t can be computed, and they
// are all that the parameters of dimension t + 1 still lack. Each weight that the mask leaves is used once, so both
// directions cost half a dense pass. Solving for x or being given it differs in the transformer alone.
//
// A coupling layer is one of these, all of whose units have the degree of the dimensions that it keeps.
#pragma once

enum Activation { relu, tanh_, elu, leaky_relu, sigmoid_, softplus_ };

template <typename T> static inline Vec<T> activate(Vec<T> z, int activation) {
  switch (activation) {
    case relu: return z < T(0) ? all<T>(T(0)) : z;
    case tanh_: return tanh<T>(z);
    case elu: return z > T(0) ? z : expm1<T>(z);
    case leaky_relu: return z > T(0) ? z : z * T(0.01);
    case sigmoid_: return sigmoid<T>(z);
    default: return softplus<T>(z);
  }
}

// A loop of its own for each activation.
template <typename T, int A> static void activate_as(T* at, size_t count) {
  for (size_t i = 0; i < count; i += Lanes<T>::count) store<T>(at + i, activate<T>(load<T>(at + i), A));
}

template <typename T> static inline void activate_all(T* at, size_t count, int activation) {
  switch (activation) {
    case relu: return activate_as<T, relu>(at, count);
    case tanh_: return activate_as<T, tanh_>(at, count);
    case elu: return activate_as<T, elu>(at, count);
    case leaky_relu: return activate_as<T, leaky_relu>(at, count);
    case sigmoid_: return activate_as<T, sigmoid_>(at, count);
    default: return activate_as<T, softplus_>(at, count);
  }
}

// A masked linear map whose units and inputs are sorted by degree, so that each unit reads its first few inputs.
template <typename T> struct Linear {
  int units = 0, inputs = 0, padded = 0;
  Numbers<T> by_panel;  // [panels][inputs][PANEL], as many rows read it
  Numbers<T> by_input;  // [inputs][padded], as few rows read it
  Numbers<T> bias;      // [padded]

  Linear() = default;
  Linear(int units, int inputs, const T* weight, const T* bias_of) : units(units), inputs(inputs) {
    const int lanes = Lanes<T>::count, panels = (units + PANEL - 1) / PANEL;
    padded = (units + lanes - 1) / lanes * lanes + lanes;
    by_panel.assign((size_t)panels * inputs * PANEL, T(0));
    by_input.assign((size_t)inputs * padded, T(0));
    for (int u = 0; u < units; u++)
      for (int k = 0; k < inputs; k++) {
        T w = weight[(size_t)u * inputs + k];
        by_panel[((size_t)(u / PANEL) * inputs + k) * PANEL + u % PANEL] = w;
        by_input[(size_t)k * padded + u] = w;
      }
    bias.assign(bias_of, bias_of + units);
    bias.resize(padded, T(0));
  }
};

// out[u] += sum_k weight[u][k] in[k] for U units and Q registers of rows, k from `from` to before `to`: one running sum
// for each unit and row, k ascending. A sum that goes on from an earlier call is the same sum; one that starts here
// starts at the bias. The weights of neighbouring units, and of neighbouring inputs, are the two strides apart.
template <typename T, int U, int Q>
static inline void panel(const T* weight, int unit_stride, int input_stride, const T* bias, const T* in, int from, int to, T* out, int rows) {
  typedef Register<T> R;
  typedef typename R::vec vec;
  vec sum[U][Q];
  if (bias) {
#pragma GCC unroll 8
    for (int u = 0; u < U; u++)
#pragma GCC unroll 8
      for (int q = 0; q < Q; q++) sum[u][q] = vec{} + bias[u];
  } else {
#pragma GCC unroll 8
    for (int u = 0; u < U; u++)
#pragma GCC unroll 8
      for (int q = 0; q < Q; q++) sum[u][q] = *(const vec*)(out + (size_t)u * rows + q * R::count);
  }
  weight += (size_t)from * input_stride;
  in += (size_t)from * rows;
#pragma GCC unroll 2
  for (int k = from; k < to; k++, weight += input_stride, in += rows) {
    __builtin_prefetch(weight + AHEAD * input_stride);
    vec h[Q];
#pragma GCC unroll 8
    for (int q = 0; q < Q; q++) h[q] = *(const vec*)(in + q * R::count);
#pragma GCC unroll 8
    for (int u = 0; u < U; u++) {
      T w = weight[(size_t)u * unit_stride];
#pragma GCC unroll 8
      for (int q = 0; q < Q; q++) sum[u][q] = h[q] * w + sum[u][q];
    }
  }
#pragma GCC unroll 8
  for (int u = 0; u < U; u++)
#pragma GCC unroll 8
    for (int q = 0; q < Q; q++) *(vec*)(out + (size_t)u * rows + q * R::count) = sum[u][q];
}

// The same for weights that are not in panels: [units][stride], the first `known` inputs.
template <typename T, int Q>
static inline void units_of(const T* weight, int stride, const T* in, int known, T* out, int rows, int units) {
  int u = 0;
  for (; u + PANEL <= units; u += PANEL)
    panel<T, PANEL, Q>(weight + (size_t)u * stride, stride, 1, nullptr, in, 0, known, out + (size_t)u * rows, rows);
  for (; u + 2 <= units; u += 2)
    panel<T, 2, Q>(weight + (size_t)u * stride, stride, 1, nullptr, in, 0, known, out + (size_t)u * rows, rows);
  for (; u < units; u++)
    panel<T, 1, Q>(weight + (size_t)u * stride, stride, 1, nullptr, in, 0, known, out + (size_t)u * rows, rows);
}

// U units of a panel and all rows.
template <typename T, int U>
static void piece(const T* weight, const T* bias, const T* in, int from, int to, T* out, int rows) {
  const int step = Register<T>::count;
  int r = 0;
  for (; r + VECTORS * step <= rows; r += VECTORS * step)
    panel<T, U, VECTORS>(weight, 1, PANEL, bias, in + r, from, to, out + r, rows);
#if VECTORS > 3
  for (; r + 3 * step <= rows; r += 3 * step) panel<T, U, 3>(weight, 1, PANEL, bias, in + r, from, to, out + r, rows);
#endif
  for (; r + 2 * step <= rows; r += 2 * step) panel<T, U, 2>(weight, 1, PANEL, bias, in + r, from, to, out + r, rows);
  for (; r < rows; r += step) panel<T, U, 1>(weight, 1, PANEL, bias, in + r, from, to, out + r, rows);
}

// Adds inputs `from` to before `to` to the sums of units `start` to before `stop`; `opens` starts them at their biases.
// `in` is [inputs][rows] and `out` [units][rows], `rows` a multiple of Lanes<T>::count.
template <typename T>
static void add_units(const Linear<T>& l, int start, int stop, bool opens, int from, int to, const T* in, T* out, int rows) {
  if (from >= to && !opens) return;
  for (int u = start; u < stop;) {
    int place = u % PANEL, units = std::min(PANEL - place, stop - u);
    const T* weight = &l.by_panel[(size_t)(u - place) * l.inputs + place];
    const T* bias = opens ? &l.bias[u] : nullptr;
    T* at = out + (size_t)u * rows;
    switch (units) {
      case 1: piece<T, 1>(weight, bias, in, from, to, at, rows); break;
      case 2: piece<T, 2>(weight, bias, in, from, to, at, rows); break;
      case 3: piece<T, 3>(weight, bias, in, from, to, at, rows); break;
      case 4: piece<T, 4>(weight, bias, in, from, to, at, rows); break;
      case 5: piece<T, 5>(weight, bias, in, from, to, at, rows); break;
      default: piece<T, PANEL>(weight, bias, in, from, to, at, rows);
    }
    u += units;
  }
}

template <typename T> struct Layer {
  int dims = 0, kept = 0, params_per_dim = 2, context_size = 0, activation = 0;  // kept: of coupling, the first dimensions
  std::vector<Linear<T>> linear;           // the hidden layers and the outputs: P rows for each dimension
  std::vector<std::vector<int>> offsets;   // of each hidden layer, for each t the units with a degree of at most t
  Linear<T> context, skip;                 // from the context to the first layer, from x to the outputs; of 0 units if absent
  std::vector<int> blocks;                 // where each block of degrees starts, and `dims`

  // Degree t computes units begin to before end of layer l, which read the first `known` of its inputs.
  int begin(int l, int t) const { return l == hidden() ? params_per_dim * t : t ? offsets[l][t - 1] : 0; }
  int end(int l, int t) const { return l == hidden() ? params_per_dim * (t + 1) : offsets[l][t]; }
  int known(int l, int t) const { return l ? end(l - 1, t) : t; }
  int known_before(int l, int t) const { return l ? begin(l - 1, t) : t; }  // of which earlier degrees computed these
  int hidden() const { return (int)offsets.size(); }

  // Degrees are taken in blocks: what came before a block is added to all of its units at once, by whole panels.
  void set_blocks() {
    blocks.assign(1, 0);
    for (int t = 1; t < dims; t++) {
      // All that a coupling layer computes is known from its first degree on.
      bool couples = kept && (t == kept || t == kept + 1);
      if (couples || end(0, t - 1) - begin(0, blocks.back()) >= BLOCK_UNITS || t - blocks.back() >= BLOCK_DEGREES)
        blocks.push_back(t);
    }
    blocks.push_back(dims);
  }

  // Numbers that a walk over one row needs to keep.
  size_t workspace() const {
    size_t n = dims + context_size + skip.padded + params_per_dim;
    for (auto& l : linear) n += l.padded;
    return n;
  }
};
