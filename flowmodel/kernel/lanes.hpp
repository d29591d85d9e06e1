// Vectors of one register, and the few functions of them that a flow needs.
//
// GNU vector extensions, so the same source serves every instruction set. Each lane is a row (or a unit), no sum ever
// crosses lanes, and every function below is one fixed sequence of additions, multiplications and fused multiply-adds.
// That is why an answer has the same bits on every machine with fused multiply-add, whatever the width of its registers.
#pragma once

template <typename T> struct Lanes;

template <> struct Lanes<float> {
  typedef float vec __attribute__((vector_size(REGISTER), aligned(4), may_alias));
  typedef int32_t bits __attribute__((vector_size(REGISTER), aligned(4), may_alias));
  static constexpr int count = REGISTER / 4, mantissa = 23, bias = 127;
  static constexpr float round_by = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  static constexpr float log2_e = 1.44269504f, ln2_high = 0.693145752f, ln2_low = 1.42860677e-6f;
  static constexpr float lowest = -104.0f, highest = 89.0f;
  static constexpr int terms = 7;
};

template <> struct Lanes<double> {
  typedef double vec __attribute__((vector_size(REGISTER), aligned(8), may_alias));
  typedef int64_t bits __attribute__((vector_size(REGISTER), aligned(8), may_alias));
  static constexpr int count = REGISTER / 8, mantissa = 52, bias = 1023;
  static constexpr double round_by = 6755399441055744.0;
  static constexpr double log2_e = 1.4426950408889634, ln2_high = 0.693147180369123816490,
                          ln2_low = 1.90821492927058770002e-10;
  static constexpr double lowest = -746.0, highest = 710.0;
  static constexpr int terms = 13;
};

template <typename T> using Vec = typename Lanes<T>::vec;
template <typename T> using Bits = typename Lanes<T>::bits;

template <typename T> static inline Vec<T> all(T value) { return Vec<T>{} + value; }
template <typename T> static inline Vec<T> load(const T* from) { return *(const Vec<T>*)from; }
template <typename T> static inline void store(T* to, Vec<T> value) { *(Vec<T>*)to = value; }

template <typename T> static inline Vec<T> two_to(Bits<T> k) {
  return (Vec<T>)((k + Lanes<T>::bias) << Lanes<T>::mantissa);
}

// Numbers that begin a cache line, so that a vector of them lies in one; many of them in huge pages where the system has
// any, so that reading on through them does not wait for the page table.
template <typename T> struct Aligned {
  typedef T value_type;
  static constexpr size_t page = 1 << 21;
  Aligned() = default;
  template <typename U> Aligned(const Aligned<U>&) {}

  static std::align_val_t alignment(size_t bytes) { return std::align_val_t(bytes < page / 2 ? 64 : page); }

  T* allocate(size_t count) {
    const size_t bytes = count * sizeof(T), whole = bytes < page / 2 ? bytes : (bytes + page - 1) / page * page;
    void* numbers = ::operator new(whole, alignment(bytes));
#ifdef __linux__
    if (bytes >= page / 2) madvise(numbers, whole, MADV_HUGEPAGE);
#endif
    return (T*)numbers;
  }

  void deallocate(T* numbers, size_t count) { ::operator delete(numbers, alignment(count * sizeof(T))); }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};
template <typename T> using Numbers = std::vector<T, Aligned<T>>;

// e^x = 2^k (1 + p): returns p and the two halves of 2^k, which reach denormals and infinity one after the other.
template <typename T> struct Exponential {
  Vec<T> p, first, second;
  explicit Exponential(Vec<T> x) {
    typedef Lanes<T> L;
    x = x < L::lowest ? all<T>(L::lowest) : x;
    x = x > L::highest ? all<T>(L::highest) : x;
    Vec<T> shifted = x * L::log2_e + L::round_by;
    Vec<T> n = shifted - L::round_by;
    Bits<T> k = (Bits<T>)shifted - (Bits<T>)all<T>(L::round_by);
    Vec<T> r = x - n * L::ln2_high;
    r = r - n * L::ln2_low;
    // Taylor's series of (e^r - 1) / r, whose first left-out term is below half a rounding on |r| <= log(2) / 2.
    T reciprocal[L::terms + 1];
    reciprocal[0] = 1;
    for (int i = 1; i <= L::terms; i++) reciprocal[i] = reciprocal[i - 1] / T(i + 1);
    Vec<T> q = all<T>(reciprocal[L::terms - 1]);
    for (int i = L::terms - 2; i >= 1; i--) q = q * r + reciprocal[i];
    p = (r * r) * q + r;
    Bits<T> half = k >> 1;
    first = two_to<T>(half);
    second = two_to<T>(k - half);
  }
};

template <typename T> static inline Vec<T> exp(Vec<T> x) {
  Exponential<T> e(x);
  return ((e.p + T(1)) * e.first) * e.second;
}

template <typename T> static inline Vec<T> expm1(Vec<T> x) {
  Exponential<T> e(x);
  Vec<T> scale = e.first * e.second;
  return e.p * scale + (scale - T(1));
}

template <typename T> static inline Vec<T> absolute(Vec<T> x) { return x < T(0) ? -x : x; }

template <typename T> static inline Vec<T> tanh(Vec<T> x) {
  Vec<T> size = absolute<T>(x);
  size = size > T(22) ? all<T>(T(22)) : size;
  Vec<T> e = expm1<T>(size + size);
  Vec<T> t = e / (e + T(2));
  return x < T(0) ? -t : t;
}

template <typename T> static inline Vec<T> sigmoid(Vec<T> x) {
  Vec<T> e = exp<T>(-absolute<T>(x));
  Vec<T> small = e / (e + T(1)), large = T(1) / (e + T(1));
  return x < T(0) ? small : large;
}

template <typename T> static inline Vec<T> square_root(Vec<T> x) {
  for (int i = 0; i < Lanes<T>::count; i++) x[i] = std::sqrt(x[i]);
  return x;
}

// log x for normal x > 0 and NaN, by 2 atanh((m - 1) / (m + 1)) with m in [sqrt(1/2), sqrt(2)).
template <typename T> static inline Vec<T> log(Vec<T> x) {
  typedef Lanes<T> L;
  Bits<T> raw = (Bits<T>)x;
  Bits<T> k = ((raw - (Bits<T>)all<T>(T(0.70710678118654752440))) >> L::mantissa);
  Vec<T> m = x != x ? x : (Vec<T>)(raw - (k << L::mantissa));
  Vec<T> n = __builtin_convertvector(k, Vec<T>);
  Vec<T> f = m - T(1);
  Vec<T> s = f / (m + T(1)), z = s * s;
  constexpr int terms = L::mantissa == 23 ? 5 : 11;
  Vec<T> q = all<T>(T(1) / T(2 * terms + 1));
  for (int i = terms - 1; i >= 1; i--) q = q * z + T(1) / T(2 * i + 1);
  Vec<T> log_m = s * (z * q) * T(2) + s * T(2);
  return n * L::ln2_high + (n * L::ln2_low + log_m);
}

// log(1 + t) for 0 <= t <= 1, what 1 + t loses put back.
template <typename T> static inline Vec<T> log1p(Vec<T> t) {
  Vec<T> one_more = t + T(1);
  return log<T>(one_more) + (t - (one_more - T(1))) / one_more;
}

// log(1 + e^x), and x itself beyond 20, as torch has it.
template <typename T> static inline Vec<T> softplus(Vec<T> x) {
  Vec<T> sum = (x > T(0) ? x : all<T>(T(0))) + log1p<T>(exp<T>(-absolute<T>(x)));
  return x > T(20) ? x : sum;
}

// log x of any x: of denormal numbers, of 0, infinity and what is negative too.
template <typename T> static inline Vec<T> log_of_any(Vec<T> x) {
  typedef std::numeric_limits<T> Numbers;
  const Vec<T> raised = x < Numbers::min() ? x * T(1 << 24) * T(1 << 30) : x;
  Vec<T> result = log<T>(raised) - (x < Numbers::min() ? all<T>(T(37.429947750237048)) : all<T>(T(0)));  // 54 log 2
  result = x == Numbers::infinity() ? x : result;
  result = x == T(0) ? all<T>(-Numbers::infinity()) : result;
  return x < T(0) ? all<T>(Numbers::quiet_NaN()) : result;
}

// log(1 + t) for any t above -1: what 1 + t loses is too little to see where t is large.
template <typename T> static inline Vec<T> log1p_of_any(Vec<T> t) {
  const Vec<T> one_more = t + T(1), lost = t - (one_more - T(1));
  return log_of_any<T>(one_more) + (t > T(1 << 24) ? all<T>(T(0)) : lost / one_more);
}

// One register of the machine: what the inner loops over weights count in.
template <typename T> struct Register {
  typedef T vec __attribute__((vector_size(REGISTER), aligned(sizeof(T)), may_alias));
  static constexpr int count = REGISTER / sizeof(T);
};
