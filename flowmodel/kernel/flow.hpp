// A whole flow over rows: its parts from noise to data, and the distribution of the noise.
#pragma once

template <typename T> struct Flow {
  typedef T Number;
  const int dims, context_size;
  std::vector<double> context_location, context_scale;
  std::vector<std::unique_ptr<Part<T>>> parts;
  Base<T> base;
  std::vector<int> whole;  // the columns of whole numbers
  double products = 0;     // that a row's networks add up, roughly
  mutable IdleTiles<T> idle;

  static constexpr int lanes = Lanes<T>::count;
  static constexpr int tile_rows = 4 * lanes;

  Flow(int dims, int context_size) : dims(dims), context_size(context_size) {}

  template <typename Added> Added& add(int inverted) {
    Added* added = new Added;
    parts.emplace_back(added);
    added->inverted = inverted;
    return *added;
  }

  // The part added last, which is one of these.
  template <typename Added> Added& last() { return static_cast<Added&>(*parts.back()); }

  // Columns that are next to the data, or to columns that hand on float64, read float64 in a flow of float32 too.
  void finish(bool takes_float64) {
    for (auto& part : parts) part->finish();
    bool exact = takes_float64 && sizeof(T) < sizeof(double);
    for (size_t i = parts.size(); i-- > 0;) {
      auto* columns = dynamic_cast<Columns<T>*>(parts[i].get());
      if (!columns || columns->inverted) exact = false;
      if (!exact) continue;
      columns->reads_exact = true;
      auto* before = i ? dynamic_cast<Columns<T>*>(parts[i - 1].get()) : nullptr;
      exact = columns->writes_exact = columns->gives_exact && before && !before->inverted;
    }
  }

  bool reads_exact() const {
    auto* columns = parts.empty() ? nullptr : dynamic_cast<Columns<T>*>(parts.back().get());
    return columns && columns->reads_exact;
  }

  std::unique_ptr<Tile<T>> new_tile() const {
    size_t work = 0;
    for (auto& part : parts) work = std::max(work, part->workspace());
    auto t = std::make_unique<Tile<T>>();
    t->value.resize((size_t)dims * tile_rows);
    t->swap.resize((size_t)dims * tile_rows);
    t->exact.resize(reads_exact() ? (size_t)dims * tile_rows : 0);
    t->log_det.resize(tile_rows);
    t->context.resize((size_t)context_size * tile_rows);
    t->work.resize(work * tile_rows + lanes);
    return t;
  }

  // work(tile, start, used) for tiles of whole vectors of rows. Lanes past the last row repeat it.
  template <typename Work> void each_tile(int64_t count, int threads, Work work) const {
    // A thread is worth its start for some tens of microseconds of work.
    threads = (int)std::min<double>(threads, 1 + (products + 32.0 * dims * parts.size()) * count / 4e6);
    const int64_t vectors = (count + lanes - 1) / lanes;
    const int most = (int)std::min<int64_t>(tile_rows, (vectors + threads - 1) / threads * lanes);
    const int64_t tiles = (count + most - 1) / most;
    std::atomic<int64_t> next{0};
    in_threads((int)std::min<int64_t>(threads, tiles), [&] {
      std::unique_ptr<Tile<T>> t = idle.take();
      if (!t) t = new_tile();
      for (int64_t i; (i = next++) < tiles;) {
        const int used = (int)std::min<int64_t>(most, count - i * most);
        t->rows = (used + lanes - 1) / lanes * lanes;
        work(*t, i * most, used);
      }
      idle.give_back(std::move(t));
    });
  }

  void take_context(Tile<T>& t, const double* context, int used) const {
    for (int c = 0; c < context_size; c++)
      for (int r = 0; r < t.rows; r++) {
        double value = context[(size_t)std::min(r, used - 1) * context_size + c];
        t.context[(size_t)c * t.rows + r] = (T)((value - context_location[c]) / context_scale[c]);
      }
  }

  template <typename Given>
  void log_prob(const Given* rows, const double* context, int64_t count, int threads, T* log_prob) const {
    const bool exact = reads_exact();
    each_tile(count, threads, [&](Tile<T>& t, int64_t start, int used) {
      for (int d = 0; d < dims; d++)
        for (int r = 0; r < t.rows; r++) {
          const Given y = rows[(size_t)(start + std::min(r, used - 1)) * dims + d];
          const size_t at = (size_t)d * t.rows + r;
          if (exact) t.exact[at] = y;
          else t.value[at] = (T)y;
        }
      std::fill(t.log_det.begin(), t.log_det.end(), T(0));
      take_context(t, context + (size_t)start * context_size, used);
      for (size_t i = parts.size(); i-- > 0;) parts[i]->take(t, used, true);
      T of_base[tile_rows];
      base.log_prob(t, of_base);
      for (int r = 0; r < used; r++) log_prob[start + r] = of_base[r] + t.log_det[r];
    });
  }

  // Whole columns are rounded, and the log-density is then that of the rounded rows.
  void sample(const double* noise, const double* context, int64_t count, int threads, T* rows, T* log_prob) const {
    each_tile(count, threads, [&](Tile<T>& t, int64_t start, int used) {
      for (int r = 0; r < t.rows; r++) {
        const double* of_row = noise + (size_t)(start + std::min(r, used - 1)) * base.noise_size;
        for (int d = 0; d < dims; d++) t.value[(size_t)d * t.rows + r] = base.draw(of_row, d);
      }
      std::fill(t.log_det.begin(), t.log_det.end(), T(0));
      take_context(t, context + (size_t)start * context_size, used);
      T of_base[tile_rows];
      base.log_prob(t, of_base);
      for (auto& part : parts) part->take(t, used, false);
      for (int r = 0; r < used; r++) {
        T* row = rows + (size_t)(start + r) * dims;
        log_prob[start + r] = of_base[r] - t.log_det[r];
        for (int d = 0; d < dims; d++) row[d] = t.value[(size_t)d * t.rows + r];
        // Adding 0 turns -0 into 0.
        for (int d : whole) row[d] = std::nearbyint(row[d]) + T(0);
      }
    });
    if (!whole.empty()) this->log_prob(rows, context, count, threads, log_prob);
  }
};
