// The walk over many rows (a lane is a row) and over few (a lane is a unit). Both add the same products in the same order.
#pragma once

// The sums of a layer's units of degrees first to before last, as far as what was known before `first` goes. A panel is
// opened whole as soon as a block needs a part of it, so the next block finds some of its own units begun, up to what was
// known when block `previous` began.
template <typename T>
static inline void begin_block(const Layer<T>& layer, int l, int previous, int first, int last, const T* in, T* out, const T* context, int rows) {
  const Linear<T>& linear = layer.linear[l];
  int start = layer.begin(l, first), stop = layer.end(l, last - 1), known = layer.known_before(l, first);
  int opened = std::min((start + PANEL - 1) / PANEL * PANEL, linear.units);
  int opens = std::min((stop + PANEL - 1) / PANEL * PANEL, linear.units);
  add_units<T>(linear, start, opened, false, layer.known_before(l, previous), known, in, out, rows);
  if (l == 0 && layer.context_size) {
    add_units<T>(layer.context, opened, opens, true, 0, layer.context_size, context, out, rows);
    add_units<T>(linear, opened, opens, false, 0, known, in, out, rows);
  } else {
    add_units<T>(linear, opened, opens, true, 0, known, in, out, rows);
  }
}

// Many rows, a lane each. `given` is x or y, feature-major [dims][rows] in the order of the autoregression; the other one
// goes to `found`. `work` holds layer.workspace() numbers for each row.
template <typename T>
static void walk_rows(const Layer<T>& layer, const Transformer<T>& transformer, const T* given, T* found, T* log_det,
                      const T* context, T* work, int rows, bool solve) {
  const int outputs = layer.hidden();
  std::vector<T*> h(outputs + 2);  // x, the hidden layers, the outputs
  h[0] = solve ? found : const_cast<T*>(given);
  T* next = work;
  for (int l = 0; l <= outputs; l++) {
    h[l + 1] = next;
    next += (size_t)layer.linear[l].padded * rows;
  }
  T* skipped = next;
  for (size_t block = 0; block + 1 < layer.blocks.size(); block++) {
    const int first = layer.blocks[block], last = layer.blocks[block + 1], previous = block ? layer.blocks[block - 1] : 0;
    for (int l = 0; l <= outputs; l++) begin_block<T>(layer, l, previous, first, last, h[l], h[l + 1], context, rows);
    for (int t = first; t < last; t++) {
      for (int l = 0; l <= outputs; l++) {
        int start = layer.begin(l, t), stop = layer.end(l, t);
        add_units<T>(layer.linear[l], start, stop, false, layer.known_before(l, first), layer.known(l, t), h[l], h[l + 1], rows);
        if (l < outputs) activate_all<T>(h[l + 1] + (size_t)start * rows, (size_t)(stop - start) * rows, layer.activation);
      }
      const int start = layer.begin(outputs, t), stop = layer.end(outputs, t);
      T* params = h[outputs + 1] + (size_t)start * rows;
      if (layer.skip.units) {
        // A sum of its own, added once: few rows and many then add in the same order.
        add_units<T>(layer.skip, start, stop, true, 0, t, h[0], skipped, rows);
        for (int r = 0; r < (stop - start) * rows; r += Lanes<T>::count)
          store<T>(params + r, load<T>(params + r) + load<T>(skipped + (size_t)start * rows + r));
      }
      const T* of_given = given + (size_t)t * rows;
      T* of_found = found + (size_t)t * rows;
      if (t < layer.kept) std::copy(of_given, of_given + rows, of_found);
      else finish_dimension<T>(transformer, params, rows, of_given, of_found, log_det, rows, solve);
    }
  }
}

// Few rows: what units [from, to) of one layer have become is added at once to everything above that reads them.
template <typename T>
static inline void spread(const Linear<T>& l, int first, int from, int to, const T* in, int in_stride, T* out, int out_stride, int rows) {
  const int lanes = Lanes<T>::count;
  typedef typename Register<T>::vec vec;
  first = first / lanes * lanes;
  for (int u = first; u < l.units; u += lanes)
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
      for (int q = 0; q < lanes; q += Register<T>::count) {
        T* at = out + (size_t)r * out_stride + u + q;
        vec sum = *(const vec*)at;
        const T* w = l.by_input.data() + (size_t)from * l.padded + u + q;
        for (int k = from; k < to; k++, w += l.padded) sum = *(const vec*)w * in[(size_t)r * in_stride + k] + sum;
        *(vec*)at = sum;
      }
}

// Few rows, a lane is a unit. `given` and `found` as for walk_rows with one vector of rows, of which `used` are computed.
template <typename T>
static void walk_units(const Layer<T>& layer, const Transformer<T>& transformer, const T* given, T* found, T* log_det,
                       const T* context, T* work, int used, bool solve) {
  const int last = (int)layer.offsets.size() - 1, lanes = Lanes<T>::count, layers = (int)layer.linear.size();
  const T* x = solve ? found : given;
  T* next = work;
  std::vector<T*> sums(layers);  // each [used][padded units]; a unit's sum is replaced by its activation
  auto begin = [&](const Linear<T>& l) {
    T* at = next;
    next += (size_t)l.padded * used;
    for (int r = 0; r < used; r++) std::copy(l.bias.begin(), l.bias.end(), at + (size_t)r * l.padded);
    return at;
  };
  for (int l = 0; l < layers; l++) sums[l] = begin(layer.linear[l]);
  T* skipped = begin(layer.skip);
  T* row_x = next;
  T* row_context = row_x + (size_t)used * layer.dims;
  T* params = row_context + (size_t)used * layer.context_size;  // [P][lanes]
  if (layer.context_size) {
    for (int r = 0; r < used; r++)
      for (int c = 0; c < layer.context_size; c++) row_context[r * layer.context_size + c] = context[c * lanes + r];
    spread<T>(layer.context, 0, 0, layer.context_size, row_context, layer.context_size, sums[0], layer.linear[0].padded, used);
  }
  const Linear<T>& outputs = layer.linear[last + 1];
  for (int t = 0; t < layer.dims; t++) {
    for (int l = 0; l <= last; l++) {
      const Linear<T>&own = layer.linear[l], &above = layer.linear[l + 1];
      int start = layer.begin(l, t), stop = layer.end(l, t);
      for (int r = 0; r < used; r++) {
        T* at = sums[l] + (size_t)r * own.padded;
        T active[Lanes<T>::count];
        for (int u = start; u < stop; u += lanes) {
          store<T>(active, activate<T>(load<T>(at + u), layer.activation));
          std::copy(active, active + std::min(lanes, stop - u), at + u);
        }
      }
      int first = layer.begin(l + 1, t);  // the first unit that reads degree t
      spread<T>(above, first, start, stop, sums[l], own.padded, sums[l + 1], above.padded, used);
    }
    for (int r = 0; r < used; r++) {
      const T* out = sums[last + 1] + (size_t)r * outputs.padded + layer.begin(last + 1, t);
      const T* skip = skipped + (size_t)r * layer.skip.padded + layer.begin(last + 1, t);
      for (int p = 0; p < layer.params_per_dim; p++) params[p * lanes + r] = layer.skip.units ? out[p] + skip[p] : out[p];
    }
    if (t < layer.kept) std::copy(given + t * lanes, given + (t + 1) * lanes, found + t * lanes);
    else finish_dimension<T>(transformer, params, lanes, given + t * lanes, found + t * lanes, log_det, lanes, solve);
    for (int r = 0; r < used; r++) row_x[(size_t)r * layer.dims + t] = x[t * lanes + r];
    spread<T>(layer.linear[0], layer.end(0, t), t, t + 1, row_x, layer.dims, sums[0], layer.linear[0].padded, used);
    if (layer.skip.units) spread<T>(layer.skip, layer.end(last + 1, t), t, t + 1, row_x, layer.dims, skipped, layer.skip.padded, used);
  }
}
