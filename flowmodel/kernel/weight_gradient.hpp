// Gradients of weights and biases, summed over rows: the products of adjoints and inputs that the masks leave.
//
// A sum runs over the rows of one thread in their order, and then over the threads in theirs.
#pragma once

// The gradient of one weight matrix. Input k is read by the units from first[k] on, which grows with k.
template <typename T> struct Product {
  static constexpr int wide = VECTORS * Register<T>::count;  // inputs of one chunk of sums, [chunk][unit][wide]
  int units, inputs;
  std::vector<int> first;

  size_t size() const { return (size_t)(inputs + wide - 1) / wide * wide * units; }
};

// How the sums of one thread lie in memory: a product for each layer, context and skip connections, then the biases.
template <typename T> struct Sums {
  std::vector<Product<T>> products;
  std::vector<size_t> offset, bias_offset;
  size_t size = 0;

  explicit Sums(const Network<T>& net) {
    for (int l = 0; l <= net.hidden; l++) {
      std::vector<int> first(net.inputs(l));
      for (int t = 0; t < net.dims; t++) {
        if (l == 0) first[t] = net.begin(0, t + 1);
        else std::fill(first.begin() + net.begin(l - 1, t), first.begin() + net.begin(l - 1, t + 1), net.begin(l, t));
      }
      products.push_back({net.width(l), net.inputs(l), std::move(first)});
    }
    if (net.context_size) products.push_back({net.width(0), net.context_size, std::vector<int>(net.context_size, 0)});
    if (net.skips) {
      std::vector<int> first(net.dims);
      for (int t = 0; t < net.dims; t++) first[t] = 2 * t + 2;
      products.push_back({2 * net.dims, net.dims, std::move(first)});
    }
    for (auto& product : products) {
      offset.push_back(size);
      size += product.size();
    }
    for (int l = 0; l <= net.hidden; l++) {
      bias_offset.push_back(size);
      size += (size_t)net.width(l) * Lanes<T>::count;
    }
  }
};

template <typename T, int Q>
static void add_band(const T* adjoint, const T* by_row, T* sums, int units, int registers, int rows) {
  constexpr int wide = Product<T>::wide;
  if constexpr (Q > 1) {
    if (registers < Q) return add_band<T, Q - 1>(adjoint, by_row, sums, units, registers, rows);
  }
  units_of<T, Q>(adjoint, rows, by_row, rows, sums, wide, units);
}

// Add what a group of tiles gives. `adjoint` and `input` lie feature-major, one tile `adjoint_step` and `input_step` after
// the other; `by_row` holds wide numbers for each row of the group.
template <typename T>
static void add_tiles(const Product<T>& product, const T* adjoint, size_t adjoint_step, const T* input, size_t input_step,
                      int tiles, int rows, T* by_row, T* sums) {
  constexpr int wide = Product<T>::wide, part = Register<T>::count, block = 48;
  for (int k = 0; k < product.inputs; k += wide, sums += (size_t)product.units * wide) {
    const int here = std::min(wide, product.inputs - k);
    if (product.first[k] >= product.units) break;
    for (int i = 0; i < tiles; i++)
      transpose<T>(input + i * input_step + (size_t)k * rows, rows, here, rows, by_row + (size_t)i * rows * wide, wide);
    // Units that read only the first registers of the chunk take only those, in whole panels: what a unit does not read
    // may be added up, since it is never looked at.
    for (int registers = 1, from = product.first[k]; from < product.units; registers++) {
      const bool all = registers * part >= here;
      const int to = all ? product.units : from + (product.first[k + registers * part] - from) / PANEL * PANEL;
      for (int u = from; u < to; u += block)
        for (int i = 0; i < tiles; i++)
          add_band<T, VECTORS>(adjoint + i * adjoint_step + (size_t)u * rows, by_row + (size_t)i * rows * wide,
                               sums + (size_t)u * wide, std::min(block, to - u), registers, rows);
      from = to;
    }
  }
}

template <typename T> static void add_bias(const T* adjoint, int units, int rows, T* sums) {
  const int lanes = Lanes<T>::count;
  for (int u = 0; u < units; u++) {
    Vec<T> sum = load<T>(sums + (size_t)u * lanes);
    for (int r = 0; r < rows; r += lanes) sum = sum + load<T>(adjoint + (size_t)u * rows + r);
    store<T>(sums + (size_t)u * lanes, sum);
  }
}

// The sums of all threads, one `step` after the other, into the gradient [units][inputs], zero where the mask is.
template <typename T> static void finish(const Product<T>& product, const T* sums, size_t step, int threads, T* gradient) {
  constexpr int wide = Product<T>::wide;
  for (int u = 0, known = 0; u < product.units; u++, gradient += product.inputs) {
    while (known < product.inputs && product.first[known] <= u) known++;
    for (int k = 0; k < known; k += wide) {
      const T* from = sums + (size_t)k * product.units + (size_t)u * wide;
      const int here = std::min(wide, known - k);
      std::copy(from, from + here, gradient + k);
      for (int i = 1; i < threads; i++)
        for (int j = 0; j < here; j++) gradient[k + j] += from[i * step + j];
    }
    std::fill(gradient + known, gradient + product.inputs, T(0));
  }
}

template <typename T> static void finish_bias(const T* sums, size_t step, int units, int threads, T* gradient) {
  const int lanes = Lanes<T>::count;
  for (int u = 0; u < units; u++) {
    T sum = 0;
    for (int i = 0; i < threads; i++)
      for (int j = 0; j < lanes; j++) sum += sums[i * step + (size_t)u * lanes + j];
    gradient[u] = sum;
  }
}
