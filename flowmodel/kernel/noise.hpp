// Standard normal numbers of a seed's rows, as flowmodel/runtime/noise.py defines them.
#pragma once

// Philox 4x64 of ten rounds (Salmon et al., SC 2011), the counter a step of the stream and the key its seed.
static inline void philox(uint64_t low, uint64_t high, uint64_t key, uint64_t words[4]) {
  typedef unsigned __int128 wide;
  uint64_t a = low, b = high, c = 0, d = 0, other_key = 0;
  for (int round = 0; round < 10; round++) {
    const wide of_a = (wide)a * 0xD2E7470EE14C6C93u, of_c = (wide)c * 0xCA5A826395121157u;
    a = (uint64_t)(of_c >> 64) ^ b ^ key;
    c = (uint64_t)(of_a >> 64) ^ d ^ other_key;
    b = (uint64_t)of_c;
    d = (uint64_t)of_a;
    key += 0x9E3779B97F4A7C15u;
    other_key += 0xBB67AE8584CAA73Bu;
  }
  words[0] = a, words[1] = b, words[2] = c, words[3] = d;
}

// sin x and cos x for 0 <= x <= 2 pi.
static inline void sine_cosine(Vec<double> x, Vec<double>& sine, Vec<double>& cosine) {
  typedef Lanes<double> L;
  // pi / 2 in two parts, of which the first has 33 bits: its products with the number of quarter turns are exact.
  const Vec<double> shifted = x * 0.63661977236758134 + L::round_by, turns = shifted - L::round_by;
  const Bits<double> quarter = (Bits<double>)shifted - (Bits<double>)all<double>(L::round_by);
  const Vec<double> r = (x - turns * 1.57079632673412561417) - turns * 6.07710050650619224932e-11, z = r * r;
  // Taylor's series, whose first left-out terms are below half a rounding on |r| <= pi / 4.
  double factorial[18] = {1};
  for (int i = 1; i < 18; i++) factorial[i] = factorial[i - 1] * i;
  Vec<double> s = all<double>(1 / factorial[17]), c = all<double>(1 / factorial[16]);
  for (int i = 15; i >= 3; i -= 2) s = 1 / factorial[i] - z * s;
  for (int i = 14; i >= 4; i -= 2) c = 1 / factorial[i] - z * c;
  const Vec<double> of_sine = r - r * z * s, half = z * 0.5, rounded = 1.0 - half;
  const Vec<double> of_cosine = rounded + ((1.0 - rounded - half) + z * z * c);
  const Vec<double> first = (quarter & 1) != 0 ? of_cosine : of_sine, second = (quarter & 1) != 0 ? of_sine : of_cosine;
  sine = (quarter & 2) != 0 ? -first : first;
  cosine = ((quarter + 1) & 2) != 0 ? -second : second;
}

// Rows of one seed, from `start` on.
struct Draw {
  uint64_t seed, start, count;
};

// Rows `first` to `last` of a draw, of `size` numbers each, by the transform of Box and Muller. A row owns whole steps.
static void normal_rows(const Draw& draw, int64_t first, int64_t last, int64_t size, double* to) {
  constexpr int lanes = Lanes<double>::count, at_once = 64;
  const int64_t steps = (size + 3) / 4;
  unsigned __int128 counter = (unsigned __int128)(draw.start + first) * steps;
  double even[2 * at_once] = {}, odd[2 * at_once] = {};
  for (int64_t left = (last - first) * steps, step = 0; left > 0; left -= at_once) {
    const int here = (int)std::min<int64_t>(at_once, left);
    for (int i = 0; i < here; i++) {
      counter++;
      uint64_t words[4];
      philox((uint64_t)counter, (uint64_t)(counter >> 64), draw.seed, words);
      // The top 53 bits, moved by half a step: never 0, so the logarithm is finite.
      for (int j = 0; j < 4; j++) (j & 1 ? odd : even)[2 * i + j / 2] = ((int64_t)(words[j] >> 11) + 0.5) * 0x1p-53;
    }
    for (int i = 0; i < 2 * here; i += lanes) {
      const Vec<double> radius = square_root<double>(-2.0 * log<double>(load<double>(even + i)));
      Vec<double> sine, cosine;
      sine_cosine(6.28318530717958648 * load<double>(odd + i), sine, cosine);
      store<double>(even + i, radius * cosine);
      store<double>(odd + i, radius * sine);
    }
    for (int i = 0; i < here; i++) {
      const double normal[4] = {even[2 * i], odd[2 * i], even[2 * i + 1], odd[2 * i + 1]};
      const int used = (int)std::min<int64_t>(4, size - 4 * step);
      std::copy(normal, normal + used, to);
      to += used;
      if (++step == steps) step = 0;
    }
  }
}

// Numbers that are worth a piece of work of their own, and those that are worth a thread.
constexpr int64_t NUMBERS_PER_PIECE = 4096, NUMBERS_PER_THREAD = 8192;

// All rows of all draws, one after another.
static void normal_numbers(const Draw* draws, int64_t draw_count, int64_t size, int threads, double* to) {
  struct Piece {
    const Draw* draw;
    int64_t first, last;
    double* to;
  };
  std::vector<Piece> pieces;
  const int64_t most = std::max<int64_t>(1, NUMBERS_PER_PIECE / size);
  int64_t total = 0;
  for (int64_t i = 0; i < draw_count; i++)
    for (int64_t first = 0, count = draws[i].count; first < count; first += most) {
      const int64_t last = std::min(count, first + most);
      pieces.push_back({&draws[i], first, last, to + total});
      total += (last - first) * size;
    }
  std::atomic<size_t> next{0};
  in_threads((int)std::min<int64_t>(threads, 1 + total / NUMBERS_PER_THREAD), [&] {
    for (size_t i; (i = next++) < pieces.size();)
      normal_rows(*pieces[i].draw, pieces[i].first, pieces[i].last, size, pieces[i].to);
  });
}
