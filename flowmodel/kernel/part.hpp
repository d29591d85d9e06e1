// The parts of a flow, each a map between noise and data in both directions, over one tile of rows.
#pragma once

template <typename T> struct Part {
  virtual ~Part() = default;
  // Called once, after the part has been given all that it holds.
  virtual void finish() {}
  // Numbers of work that one row takes.
  virtual size_t workspace() const { return 0; }
  // The tile's values from noise to data, or from data to noise where it pulls; `used` of its rows are asked for.
  virtual void take(Tile<T>& tile, int used, bool pulls) const = 0;
};

// data[d] = noise[from[d]].
template <typename T> struct Permutation final : Part<T> {
  std::vector<int> from;

  Permutation(const int64_t* places, int dims) : from(places, places + dims) {}

  void take(Tile<T>& tile, int, bool pulls) const override {
    for (int d = 0; d < (int)from.size(); d++) tile.move(pulls ? d : from[d], pulls ? from[d] : d);
    tile.value.swap(tile.swap);
  }
};

// A part whose numbers go through a transformer. Under Invert it pulls by what the transformer pushes.
template <typename T> struct Transforming : Part<T> {
  Transformer<T> transformer;
  bool inverted = false;
};

// The same parameters for every row.
template <typename T> struct Elementwise final : Transforming<T> {
  int dims = 0;
  Numbers<T> params;  // [dims][P][lanes], prepared

  void set_values(const T* raw, int count) {
    dims = count;
    for (int i = 0; i < dims * this->transformer.size; i++) params.insert(params.end(), Lanes<T>::count, raw[i]);
  }

  void finish() override {
    const int lanes = Lanes<T>::count, size = this->transformer.size;
    for (int d = 0; d < dims; d++) prepare<T>(this->transformer, &params[(size_t)d * size * lanes], lanes);
  }

  void take(Tile<T>& tile, int, bool pulls) const override {
    const int lanes = Lanes<T>::count;
    for (int d = 0; d < dims; d++)
      for (int r = 0; r < tile.rows; r += lanes) {
        T* at = tile.feature(d) + r;
        const T* own = &params[(size_t)d * this->transformer.size * lanes];
        const Mapped<T> mapped = map_value<T>(this->transformer, own, lanes, load<T>(at), pulls != this->inverted);
        store<T>(at, mapped.value);
        store<T>(&tile.log_det[r], load<T>(&tile.log_det[r]) + mapped.log_slope);
      }
  }
};

template <typename T> struct Autoregressive final : Transforming<T> {
  Layer<T> layer;
  std::vector<int> order;
  bool natural = true;

  void set_order(const int64_t* places, int dims) {
    layer.dims = dims;
    order.assign(places, places + dims);
    for (int d = 0; d < dims; d++) natural &= order[d] == d;
  }

  void finish() override {
    layer.params_per_dim = this->transformer.size;
    layer.set_blocks();
  }

  size_t workspace() const override { return layer.workspace(); }

  void take(Tile<T>& tile, int used, bool pulls) const override {
    const int lanes = Lanes<T>::count;
    for (int d = 0; d < layer.dims; d++) tile.move(order[d], d);
    const bool few = tile.rows == lanes && used <= lanes / 3;
    auto walk = few ? walk_units<T> : walk_rows<T>;
    walk(layer, this->transformer, tile.swap.data(), tile.value.data(), tile.log_det.data(), tile.context.data(),
         tile.work.data(), few ? used : tile.rows, pulls != this->inverted);
    if (natural) return;
    for (int d = 0; d < layer.dims; d++) tile.move(d, order[d]);
    tile.value.swap(tile.swap);
  }
};
