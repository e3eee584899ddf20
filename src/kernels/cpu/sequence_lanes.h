// The kernels of sequence.h over 16 lanes, written once for all instruction sets: `L` supplies the
// vector of 16 floats.
#pragma once

#include "kernels/cpu/repeat.h"
#include "kernels/kernels.h"

namespace quern::kernels {

// exp(x) to about one unit in the last place (after Cephes' expf); 0 below -87.
template <class L>
typename L::Floats exp_of(typename L::Floats x) {
  const typename L::Floats least = L::splat(-87.0f), most = L::splat(88.0f);
  const typename L::Mask nothing = L::at_most(x, least);
  x = L::min(most, L::max(least, x));  // this order keeps a NaN
  const typename L::Floats n = L::round(L::mul(x, L::splat(1.44269504088896341f)));
  typename L::Floats r = L::fma(n, L::splat(-0.693359375f), x);
  r = L::fma(n, L::splat(2.12194440e-4f), r);
  typename L::Floats p = L::splat(1.9875691500e-4f);
  for (float c :
       {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = L::fma(p, r, L::splat(c));
  p = L::add(L::fma(p, L::mul(r, r), r), L::splat(1.0f));
  return L::select(nothing, L::splat(0.0f), L::mul(p, L::power_of_two(n)));
}

template <class L>
struct SequenceKernels {
  using Floats = typename L::Floats;

  // ---- attention

  static void attend(const KvBlock& shape, const uint8_t* block, const int32_t* begin,
                     const int32_t* end, const AttentionRows& rows) {
    switch (shape.type) {
      case KvType::fp32:
        return attend_as<KvType::fp32>(shape, block, begin, end, rows);
      case KvType::bf16:
        return attend_as<KvType::bf16>(shape, block, begin, end, rows);
      case KvType::fp16:
        return attend_as<KvType::fp16>(shape, block, begin, end, rows);
      case KvType::fp8_e4m3:
        return attend_as<KvType::fp8_e4m3>(shape, block, begin, end, rows);
    }
  }

  // ---- linear attention

  // Columns of the state are independent: a few columns at a time stay in the cache for all tokens.
  static void delta_rule(const DeltaHead& head) {
    int64_t column = 0;
    for (; column + 4 * 16 <= head.value_width; column += 4 * 16) delta_columns<4>(head, column);
    for (; column < head.value_width; column += 16) delta_columns<1>(head, column);
  }

  static void convolve(const Convolution& c) {
    for (int64_t channel = 0; channel < c.channels; channel += 16) {
      float weight[Convolution::kMostTaps][16];
      for (int64_t lane = 0; lane < 16; ++lane)
        for (int64_t tap = 0; tap < c.taps; ++tap)
          weight[tap][lane] = c.weight[(channel + lane) * c.taps + tap];
      for (int64_t t = 0; t < c.tokens; ++t) {
        Floats sum = L::splat(0.0f);
        for (int64_t tap = 0; tap < c.taps; ++tap) {
          const int64_t from = t - (c.taps - 1) + tap;
          const float* x =
              from < 0 ? c.past + (from + c.taps - 1) * c.past_stride : c.x + from * c.x_stride;
          sum = L::fma(L::load(x + channel), L::load(weight[tap]), sum);
        }
        const Floats one = L::splat(1.0f);
        const Floats away = exp_of<L>(L::sub(L::splat(0.0f), sum));
        L::store(c.out + t * c.out_stride + channel, L::div(sum, L::add(one, away)));
      }
    }
  }

  // out = x / sqrt(|x|^2 + eps) * scale for rows of `width` numbers, a multiple of 16.
  static void unit_rows(const float* x, int64_t rows, int64_t stride, int64_t width, float eps,
                        float scale, float* out) {
    for (int64_t row = 0; row < rows; ++row) {
      const float* from = x + row * stride;
      Floats squares = L::splat(0.0f);
      for (int64_t i = 0; i < width; i += 16)
        squares = L::fma(L::load(from + i), L::load(from + i), squares);
      const Floats factor = L::div(L::splat(scale), L::root(L::splat(L::sum(squares) + eps)));
      for (int64_t i = 0; i < width; i += 16)
        L::store(out + row * width + i, L::mul(L::load(from + i), factor));
    }
  }

  // With n = 1 / sqrt(|x|^2 + eps): scale * n * (d_out - n^2 (x . d_out) x).
  static void unit_rows_backward(const float* x, int64_t rows, int64_t stride, int64_t width,
                                 float eps, float scale, const float* d_out, float* d_x,
                                 int64_t d_x_stride) {
    for (int64_t row = 0; row < rows; ++row) {
      const float *from = x + row * stride, *d = d_out + row * width;
      Floats squares = L::splat(0.0f), products = L::splat(0.0f);
      for (int64_t i = 0; i < width; i += 16) {
        squares = L::fma(L::load(from + i), L::load(from + i), squares);
        products = L::fma(L::load(from + i), L::load(d + i), products);
      }
      const float square = L::sum(squares) + eps;
      const Floats along = L::splat(-L::sum(products) / square),
                   factor = L::div(L::splat(scale), L::root(L::splat(square)));
      for (int64_t i = 0; i < width; i += 16)
        L::store(d_x + row * d_x_stride + i,
                 L::mul(factor, L::fma(along, L::load(from + i), L::load(d + i))));
    }
  }

 private:
  static constexpr int kRows = 4;
  static constexpr int64_t kTokens = KvBlock::kTokens;

  // The values of a block, and the range of its tokens that count.
  struct Values {
    const uint8_t* data;
    int64_t begin, end;
  };

  template <KvType kType>
  static Floats load_kv(const uint8_t* values, int64_t index) {
    if constexpr (kType == KvType::fp32)
      return L::load(reinterpret_cast<const float*>(values) + index);
    else if constexpr (kType == KvType::bf16)
      return L::template load_as<FloatType::bf16>(values, index);
    else if constexpr (kType == KvType::fp16)
      return L::template load_as<FloatType::fp16>(values, index);
    else
      return L::load_e4m3(values + index);
  }

  template <KvType kType>
  static void attend_as(const KvBlock& shape, const uint8_t* block, const int32_t* begin,
                        const int32_t* end, const AttentionRows& rows) {
    int64_t row = 0;
    for (; row + kRows <= rows.rows; row += kRows)
      attend_rows<kType, kRows>(shape, block, begin + row, end + row, part(rows, row, shape.width));
    for (; row < rows.rows; ++row)
      attend_rows<kType, 1>(shape, block, begin + row, end + row, part(rows, row, shape.width));
  }

  static AttentionRows part(const AttentionRows& rows, int64_t row, int64_t width) {
    return {rows.rows - row, rows.q + row * width, rows.weighted + row * width, rows.largest + row,
            rows.sum + row};
  }

  template <KvType kType, int kR>
  static void attend_rows(const KvBlock& shape, const uint8_t* block, const int32_t* begin,
                          const int32_t* end, const AttentionRows& rows) {
    float p[kR][kTokens], factor[kR];
    scores<kType, kR>(shape, block, rows.q, p);
    for (int r = 0; r < kR; ++r) factor[r] = weigh(p[r], begin[r], end[r], rows, r);
    // Tokens that no row sees may hold data of another sequence; zero times a NaN would be NaN.
    Values values{block + shape.key_bytes(), kTokens, 0};
    for (int r = 0; r < kR; ++r) {
      if (begin[r] >= end[r]) continue;
      values.begin = begin[r] < values.begin ? begin[r] : values.begin;
      values.end = end[r] > values.end ? end[r] : values.end;
    }
    int64_t column = 0;
    for (; column + 32 <= shape.width; column += 32)
      add_values<kType, kR, 2>(shape, values, column, p, factor, rows.weighted);
    for (; column < shape.width; column += 16)
      add_values<kType, kR, 1>(shape, values, column, p, factor, rows.weighted);
  }

  // Two chains of sums, for even and odd elements of the width; a single chain would be limited by
  // latency.
  template <KvType kType, int kR>
  static void scores(const KvBlock& shape, const uint8_t* keys, const float* q,
                     float (*out)[kTokens]) {
    Floats even[kR], odd[kR];
    repeat<kR>([&](auto r) { even[r] = odd[r] = L::splat(0.0f); });
    for (int64_t w = 0; w < shape.width; w += 2) {
      const Floats a = load_kv<kType>(keys, w * kTokens),
                   b = load_kv<kType>(keys, (w + 1) * kTokens);
      repeat<kR>([&](auto r) {
        even[r] = L::fma(a, L::splat(q[r * shape.width + w]), even[r]);
        odd[r] = L::fma(b, L::splat(q[r * shape.width + w + 1]), odd[r]);
      });
    }
    repeat<kR>([&](auto r) { L::store(out[r], L::add(even[r], odd[r])); });
  }

  // Replaces scores with weights of the visible keys, zero for the others. Returns the factor for
  // earlier sums.
  static float weigh(float* p, int32_t begin, int32_t end, const AttentionRows& rows, int r) {
    if (begin >= end) {
      for (int64_t i = 0; i < kTokens; ++i) p[i] = 0;
      return 1.0f;
    }
    float largest = rows.largest[r];
    for (int32_t i = begin; i < end; ++i) largest = p[i] > largest ? p[i] : largest;
    L::store(p, exp_of<L>(L::sub(L::load(p), L::splat(largest))));
    for (int32_t i = 0; i < begin; ++i) p[i] = 0;
    for (int64_t i = end; i < kTokens; ++i) p[i] = 0;
    float change[16];
    L::store(change, exp_of<L>(L::splat(rows.largest[r] - largest)));
    const float factor = rows.largest[r] == largest ? 1.0f : change[0];
    rows.sum[r] = rows.sum[r] * factor + L::sum(L::load(p));
    rows.largest[r] = largest;
    return factor;
  }

  template <KvType kType, int kR, int kC>
  static void add_values(const KvBlock& shape, const Values& values, int64_t column,
                         const float (*p)[kTokens], const float* factor, float* weighted) {
    Floats sums[kR * kC];
    repeat<kR>([&](auto r) {
      repeat<kC>([&](auto c) {
        sums[r * kC + c] =
            L::mul(L::load(weighted + r * shape.width + column + c * 16), L::splat(factor[r]));
      });
    });
    for (int64_t token = values.begin; token < values.end; ++token) {
      Floats v[kC];
      repeat<kC>([&](auto c) {
        v[c] = load_kv<kType>(values.data, token * shape.width + column + c * 16);
      });
      repeat<kR>([&](auto r) {
        const Floats weight = L::splat(p[r][token]);
        repeat<kC>([&](auto c) { sums[r * kC + c] = L::fma(v[c], weight, sums[r * kC + c]); });
      });
    }
    repeat<kR>([&](auto r) {
      repeat<kC>([&](auto c) {
        L::store(weighted + r * shape.width + column + c * 16, sums[r * kC + c]);
      });
    });
  }

  template <int kC>
  static void delta_columns(const DeltaHead& head, int64_t column) {
    float* state = head.state + column;
    for (int64_t t = 0; t < head.tokens; ++t) {
      const float* q = head.q + t * head.key_width;
      const float* k = head.k + t * head.key_width;
      const Floats factor = L::splat(head.factor[t * head.gate_stride]),
                   beta = L::splat(head.beta[t * head.gate_stride]);
      Floats u[kC], out[kC];
      repeat<kC>([&](auto c) { u[c] = out[c] = L::splat(0.0f); });
      for (int64_t i = 0; i < head.key_width; ++i) {
        const Floats key = L::splat(k[i]);
        repeat<kC>([&](auto c) {
          const float* row = state + i * head.value_width + c * 16;
          u[c] = L::fma(L::mul(L::load(row), factor), key, u[c]);
        });
      }
      const float* v = head.v + t * head.v_stride + column;
      repeat<kC>([&](auto c) { u[c] = L::mul(beta, L::sub(L::load(v + c * 16), u[c])); });
      for (int64_t i = 0; i < head.key_width; ++i) {
        const Floats key = L::splat(k[i]), query = L::splat(q[i]);
        repeat<kC>([&](auto c) {
          float* row = state + i * head.value_width + c * 16;
          const Floats changed = L::fma(key, u[c], L::mul(L::load(row), factor));
          L::store(row, changed);
          out[c] = L::fma(changed, query, out[c]);
        });
      }
      float* to = head.out + t * head.out_stride + column;
      repeat<kC>([&](auto c) { L::store(to + c * 16, out[c]); });
    }
  }
};

}  // namespace quern::kernels
