// One affine autoregressive layer as its owner holds it: parameters where they are, of which only what the masks leave is read.
//
// Layer l of 0 .. hidden (the last one: the outputs, two for each dimension) is split by degree. At step t of the walk
// its units [begin(l, t), begin(l, t + 1)) are computed from its inputs [0, known(l, t)); unmasked weights need no copy.
//
// The units of one degree are often too few to keep the registers busy. Degrees are therefore taken in blocks: what units
// of a block read from before it is added for all of them at once, the rest degree by degree.
#pragma once

template <typename T> struct Network {
  int dims, context_size, hidden, activation, scale, block;
  bool clamps, skips;
  T low, high;
  const int64_t *units, *order;
  std::vector<const int64_t*> offsets;        // of each hidden layer, for each t the units with a degree of at most t
  std::vector<const T*> weight, bias;         // [width(l)][inputs(l)], [width(l)]
  const T *context = nullptr, *skip = nullptr;  // [width(0)][context_size], [2 dims][dims]

  Network(const int64_t* shape, const double* limits, const void* const* tensors)
      : dims((int)shape[1]), context_size((int)shape[2]), hidden((int)shape[3]), activation((int)shape[4]),
        scale((int)shape[5]), clamps(shape[6]), skips(shape[7]), low((T)limits[0]), high((T)limits[1]),
        units(shape + 8), order(units + hidden) {
    for (int l = 0; l < hidden; l++) offsets.push_back(order + (size_t)(l + 1) * dims);
    for (int l = 0; l <= hidden; l++) weight.push_back((const T*)tensors[l]);
    for (int l = 0; l <= hidden; l++) bias.push_back((const T*)tensors[hidden + 1 + l]);
    block = std::min({dims, BLOCK_DEGREES, (BLOCK_UNITS * dims + width(0) - 1) / width(0)});
    if (context_size) context = (const T*)tensors[2 * hidden + 2];
    if (skips) skip = (const T*)tensors[2 * hidden + 3];
  }

  int width(int l) const { return l == hidden ? 2 * dims : (int)units[l]; }
  int inputs(int l) const { return l ? (int)units[l - 1] : dims; }
  int begin(int l, int t) const { return l == hidden ? 2 * t : t ? (int)offsets[l][t - 1] : 0; }
  int known(int l, int t) const { return l ? begin(l - 1, t + 1) : t; }
  int known_before(int l, int t) const { return l ? begin(l - 1, t) : t; }  // at the end of step t - 1

  // Numbers kept of one row: x, u of each dimension, and the hidden activations.
  size_t kept() const {
    size_t n = 2 * (size_t)dims;
    for (int l = 0; l < hidden; l++) n += units[l];
    return n;
  }

  // Multiplications of a row in one direction.
  double work() const {
    double n = (double)context_size * width(0);
    for (int l = 0; l <= hidden; l++) n += 0.5 * width(l) * inputs(l);
    return n;
  }
};

// What is kept of a tile of rows, feature-major: feature f of row r at [f * rows + r].
template <typename T> struct Kept {
  T *x, *u;
  std::vector<T*> hidden;

  Kept(const Network<T>& net, T* at, int rows) : x(at), u(at + (size_t)net.dims * rows) {
    T* next = u + (size_t)net.dims * rows;
    for (int l = 0; l < net.hidden; l++) {
      hidden.push_back(next);
      next += (size_t)net.units[l] * rows;
    }
  }
};

// U units and all rows of one tile.
template <typename T, int U>
static inline void product(const T* weight, int stride, const T* bias, const T* in, int known, T* out, int rows) {
  constexpr int step = Register<T>::count;
  int r = 0;
  for (; r + VECTORS * step <= rows; r += VECTORS * step)
    panel<T, U, VECTORS>(weight, stride, 1, bias, in + r, 0, known, out + r, rows);
  for (; r < rows; r += step) panel<T, U, 1>(weight, stride, 1, bias, in + r, 0, known, out + r, rows);
}

// Each of `count` units of `out` plus its weights, [count][stride], for `known` inputs times `in`, all of one tile. Sums
// that are opened start at their biases.
template <typename T>
static void add_products(const T* weight, int stride, const T* opens, const T* in, int known, T* out, int count, int rows) {
  if (known <= 0 && !opens) return;
  for (int u = 0; u < count; u += PANEL) {
    const T *own = weight + (size_t)u * stride, *bias = opens ? opens + u : nullptr;
    T* at = out + (size_t)u * rows;
    switch (count - u) {
      case 1: product<T, 1>(own, stride, bias, in, known, at, rows); break;
      case 2: product<T, 2>(own, stride, bias, in, known, at, rows); break;
      case 3: product<T, 3>(own, stride, bias, in, known, at, rows); break;
#if PANEL > 4
      case 4: product<T, 4>(own, stride, bias, in, known, at, rows); break;
      case 5: product<T, 5>(own, stride, bias, in, known, at, rows); break;
#endif
      default: product<T, PANEL>(own, stride, bias, in, known, at, rows);
    }
  }
}

// The parameters of dimension t, [2][rows], and what was given, to what was wanted.
template <typename T>
static inline void finish_dimension(const Network<T>& net, bool solve, int t, const Kept<T>& kept, const T* outputs,
                                    const T* given, T* found, T* log_det, int rows) {
  for (int r = 0; r < rows; r += Lanes<T>::count) {
    const size_t at = (size_t)t * rows + r;
    Vec<T> u = load<T>(outputs + rows + r), mu = load<T>(outputs + r), v = load<T>(given + at);
    if (net.clamps) {
      u = u < net.low ? all<T>(net.low) : u;
      u = u > net.high ? all<T>(net.high) : u;
    }
    Vec<T> s = log_scale<T>(u, net.scale);
    store<T>(kept.u + at, u);
    store<T>(found + at, solve ? (v - mu) * exp<T>(-s) : exp<T>(s) * v + mu);
    store<T>(log_det + r, load<T>(log_det + r) + (solve ? -s : s));
  }
}

// Both directions of a tile, by one walk over the degrees: x from y, or y from x. `given` and `found` are [dims][rows]; one
// of them is kept.x. `outputs` holds 2 block numbers for each row.
template <typename T>
static void walk_forward(const Network<T>& net, bool solve, const Kept<T>& kept, const T* given, T* found, T* log_det,
                         const T* context, T* outputs, int rows) {
  const int lanes = Lanes<T>::count;
  std::fill(log_det, log_det + rows, T(0));
  for (int from = 0; from < net.dims; from += net.block) {
    const int to = std::min(net.dims, from + net.block);
    for (int l = 0; l <= net.hidden; l++) {
      const int start = net.begin(l, from), count = net.begin(l, to) - start, stride = net.inputs(l);
      T* out = l == net.hidden ? outputs : kept.hidden[l] + (size_t)start * rows;
      add_products<T>(net.weight[l] + (size_t)start * stride, stride, net.bias[l] + start, l ? kept.hidden[l - 1] : kept.x,
                      net.known_before(l, from), out, count, rows);
      if (l == 0 && net.context_size)
        add_products<T>(net.context + (size_t)start * net.context_size, net.context_size, nullptr, context,
                        net.context_size, out, count, rows);
      if (l == net.hidden && net.skips)
        add_products<T>(net.skip + (size_t)start * net.dims, net.dims, nullptr, kept.x, from, out, count, rows);
    }
    for (int t = from; t < to; t++) {
      for (int l = 0; l <= net.hidden; l++) {
        const int start = net.begin(l, t), count = net.begin(l, t + 1) - start, stride = net.inputs(l);
        const int before = net.known_before(l, from);
        const T* below = l ? kept.hidden[l - 1] : kept.x;
        T* out = l == net.hidden ? outputs + (size_t)2 * (t - from) * rows : kept.hidden[l] + (size_t)start * rows;
        add_products<T>(net.weight[l] + (size_t)start * stride + before, stride, nullptr, below + (size_t)before * rows,
                        net.known(l, t) - before, out, count, rows);
        if (l < net.hidden) {
          for (size_t i = 0; i < (size_t)count * rows; i += lanes)
            store<T>(out + i, activate<T>(load<T>(out + i), net.activation));
          continue;
        }
        if (net.skips)
          add_products<T>(net.skip + (size_t)start * net.dims + from, net.dims, nullptr, kept.x + (size_t)from * rows,
                          t - from, out, 2, rows);
        finish_dimension<T>(net, solve, t, kept, out, given, found, log_det, rows);
      }
    }
  }
}
