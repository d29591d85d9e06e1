// The gradient of one layer over a tile of rows: adjoints from the last degree to the first.
//
// With a = y's adjoint, S the log-determinant of x to y and s its adjoint, the seeds at the outputs of dimension i are
// a_i for mu_i and (a_i sigma_i x_i + s) d log sigma_i / du_i for u_i. Where y was given, a = -lambda of the implicit
// gradient and has to be solved for, lambda_i = (x's adjoint + what comes back through the network) / sigma_i, which needs
// the seeds of later dimensions alone. Where x was given, a is known and what comes back is part of x's adjoint.
#pragma once

// The slope of an activation by its output.
template <typename T> static inline Vec<T> activation_slope(Vec<T> h, int activation) {
  const Vec<T> one = all<T>(T(1)), none = all<T>(T(0));
  switch (activation) {
    case relu: return h > T(0) ? one : none;
    case tanh_: return one - h * h;
    case elu: return h > T(0) ? one : h + T(1);
    case leaky_relu: return h > T(0) ? one : all<T>(T(0.01));
    case sigmoid_: return h * (one - h);
    default: return -expm1<T>(-h);
  }
}

// d log sigma / du.
template <typename T> static inline Vec<T> log_scale_slope(Vec<T> u, int scale) {
  switch (scale) {
    case bounded: {
      Vec<T> share = u / T(6.907755278982137), square = share * share + T(1);
      return T(1) / (square * square_root<T>(square));
    }
    case exp_: return all<T>(T(1));
    case softplus_scale: {
      Vec<T> above = u < T(-20) ? all<T>(T(-20)) : u, below = u > T(-20) ? all<T>(T(-20)) : u;
      return u < T(-20) ? T(1) - exp<T>(below) * T(0.5) : sigmoid<T>(above) / softplus<T>(above);
    }
    default: return sigmoid<T>(-u);
  }
}

// out[c][r] = in[r][c] for a block of one register by one register.
template <typename T> static inline void transpose_block(const T* in, size_t in_stride, T* out, size_t out_stride) {
  typedef typename Register<T>::vec vec;
  constexpr int n = Register<T>::count;
  typedef typename std::conditional<sizeof(T) == 8, int64_t, int32_t>::type index;
  typedef index places __attribute__((vector_size(REGISTER)));
  vec v[n];
#pragma GCC unroll 16
  for (int i = 0; i < n; i++) v[i] = *(const vec*)(in + i * in_stride);
#pragma GCC unroll 4
  for (int half = 1; half < n; half *= 2) {
    places low, high;
#pragma GCC unroll 16
    for (int j = 0; j < n; j++) {
      low[j] = j & half ? n + j - half : j;
      high[j] = j & half ? n + j : j + half;
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; i++)
      if (!(i & half)) {
        vec a = v[i], b = v[i + half];
        v[i] = __builtin_shuffle(a, b, low);
        v[i + half] = __builtin_shuffle(a, b, high);
      }
  }
#pragma GCC unroll 16
  for (int i = 0; i < n; i++) *(vec*)(out + i * out_stride) = v[i];
}

// out[c][r] = in[r][c] for `rows` by `columns` numbers.
template <typename T>
static void transpose(const T* in, size_t in_stride, int rows, int columns, T* out, size_t out_stride) {
  constexpr int n = Register<T>::count;
  for (int r = 0; r < rows; r += n)
    for (int c = 0; c < columns; c += n) {
      if (r + n <= rows && c + n <= columns) {
        transpose_block<T>(in + r * in_stride + c, in_stride, out + c * out_stride + r, out_stride);
        continue;
      }
      for (int i = r; i < std::min(r + n, rows); i++)
        for (int j = c; j < std::min(c + n, columns); j++) out[j * out_stride + i] = in[i * in_stride + j];
    }
}

// The weights by input, [inputs][width], for products that go from a layer to the one below.
template <typename T> struct Transposed {
  std::vector<T*> weight;
  std::vector<T> zeros;  // the biases that these products have not
  T *context = nullptr, *skip = nullptr;

  static size_t size(const Network<T>& net) {
    size_t n = (size_t)net.context_size * net.width(0) + (net.skips ? (size_t)2 * net.dims * net.dims : 0);
    for (int l = 0; l <= net.hidden; l++) n += (size_t)net.width(l) * net.inputs(l);
    return n;
  }

  Transposed(const Network<T>& net, T* at) {
    int most = std::max(net.context_size, net.dims);
    for (int l = 0; l < net.hidden; l++) most = std::max(most, net.width(l));
    zeros.assign(most, T(0));
    auto next = [&](const T* from, int units, int inputs) {
      T* to = at;
      transpose<T>(from, inputs, units, inputs, to, units);
      at += (size_t)units * inputs;
      return to;
    };
    for (int l = 0; l <= net.hidden; l++) weight.push_back(next(net.weight[l], net.width(l), net.inputs(l)));
    if (net.context_size) context = next(net.context, net.width(0), net.context_size);
    if (net.skips) skip = next(net.skip, 2 * net.dims, net.dims);
  }
};

// The adjoints of a tile: of the hidden layers' pre-activations, and last of the outputs.
template <typename T> struct Adjoints {
  std::vector<T*> of;

  static size_t size(const Network<T>& net) {
    size_t n = 0;
    for (int l = 0; l <= net.hidden; l++) n += net.width(l);
    return n;
  }

  Adjoints(const Network<T>& net, T* at, int rows) {
    for (int l = 0; l <= net.hidden; l++) {
      of.push_back(at);
      at += (size_t)net.width(l) * rows;
    }
  }
};

// The seeds of dimension t, from the adjoint of what was found and what came back through the network, [rows], which
// becomes the adjoint of what was given.
template <typename T>
static inline void seed_dimension(const Network<T>& net, bool solve, int t, const Kept<T>& kept, const T* found_bar,
                                  const T* log_det_bar, T* back, T* seeds, int rows) {
  for (int r = 0; r < rows; r += Lanes<T>::count) {
    const size_t at = (size_t)t * rows + r;
    Vec<T> u = load<T>(kept.u + at), sigma = exp<T>(log_scale<T>(u, net.scale)), slope = log_scale_slope<T>(u, net.scale);
    Vec<T> bar = load<T>(found_bar + at), s = load<T>(log_det_bar + r), a, given;
    if (solve) {
      given = (bar + load<T>(back + r)) / sigma;
      a = -given;
      s = -s;
    } else {
      given = bar * sigma + load<T>(back + r);
      a = bar;
    }
    store<T>(back + r, given);
    store<T>(seeds + r, a);
    store<T>(seeds + rows + r, (a * sigma * load<T>(kept.x + at) + s) * slope);
  }
}

// `found_bar` [dims][rows] and `log_det_bar` [rows] are the adjoints of what the walk returned; that of what it was given
// goes to `given_bar`.
template <typename T>
static void sweep_back(const Network<T>& net, const Transposed<T>& by_input, bool solve, const Kept<T>& kept,
                       const T* found_bar, const T* log_det_bar, T* given_bar, const Adjoints<T>& adjoints, int rows) {
  const int lanes = Lanes<T>::count, dims = net.dims, last = net.hidden;
  T* seeds = adjoints.of[last];
  // Inputs [start, start + count) of layer l, to which its units [from, to) give back.
  auto add_back = [&](int l, bool opens, int start, int count, int from, int to, T* out) {
    const int width = net.width(l);
    add_products<T>(by_input.weight[l] + (size_t)start * width + from, width, opens ? by_input.zeros.data() : nullptr,
                    adjoints.of[l] + (size_t)from * rows, to - from, out, count, rows);
  };
  auto add_skipped = [&](int start, int count, int from, int to) {
    if (net.skips)
      add_products<T>(by_input.skip + (size_t)start * 2 * dims + 2 * from, 2 * dims, nullptr,
                      seeds + (size_t)2 * from * rows, 2 * (to - from), given_bar + (size_t)start * rows, count, rows);
  };
  for (int to = dims; to > 0; to -= net.block) {
    const int from = std::max(0, to - net.block);
    T* back = given_bar + (size_t)from * rows;
    add_back(0, true, from, to - from, net.begin(0, to), net.width(0), back);
    add_skipped(from, to - from, to, dims);
    for (int l = last - 1; l >= 0; l--) {
      const int start = net.begin(l, from), count = net.begin(l, to) - start;
      T* out = adjoints.of[l] + (size_t)start * rows;
      add_back(l + 1, true, start, count, net.begin(l + 1, to), net.width(l + 1), out);
    }
    for (int t = to - 1; t >= from; t--) {
      back = given_bar + (size_t)t * rows;
      add_back(0, false, t, 1, net.begin(0, t + 1), net.begin(0, to), back);
      add_skipped(t, 1, t + 1, to);
      seed_dimension<T>(net, solve, t, kept, found_bar, log_det_bar, back, seeds + (size_t)2 * t * rows, rows);
      for (int l = last - 1; l >= 0; l--) {
        const int start = net.begin(l, t), count = net.begin(l, t + 1) - start;
        T* out = adjoints.of[l] + (size_t)start * rows;
        const T* h = kept.hidden[l] + (size_t)start * rows;
        add_back(l + 1, false, start, count, net.begin(l + 1, t), net.begin(l + 1, to), out);
        for (size_t i = 0; i < (size_t)count * rows; i += lanes)
          store<T>(out + i, load<T>(out + i) * activation_slope<T>(load<T>(h + i), net.activation));
      }
    }
  }
}
