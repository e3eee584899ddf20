#include "quant/pack.h"

#include "base/error.h"
#include "quant/matrix_rows.h"
#include "quant/rows.h"

namespace quern::quant {
namespace {

constexpr int64_t kCodesInWord = 8;
constexpr uint32_t kSymmetricZeros = 0x77777777;  // zero 8, stored minus one

int64_t words(int64_t codes) { return (codes + kCodesInWord - 1) / kCodesInWord; }

// [rows, ceil(columns / 8)]: the same bytes as the codes, but for the padding of the last word.
Tensor as_words(const Tensor& codes) {
  int64_t bytes = codes.size(1), padded = (bytes + 3) / 4 * 4;
  Tensor whole = codes;
  if (padded != bytes) {
    whole = at::zeros({codes.size(0), padded}, at::kByte);
    whole.narrow(1, 0, bytes).copy_(codes);
  }
  return whole.contiguous().view(at::kInt);
}

Tensor as_codes(const Tensor& words, int64_t columns) {
  Tensor bytes = words.contiguous().view(at::kByte);
  return bytes.narrow(1, 0, (columns + 1) / 2).contiguous();
}

// Small numbers [n, m], each below 16, to words along the first dimension: [ceil(n / 8), m].
Tensor pack_down(const Tensor& numbers) {
  int64_t n = numbers.size(0), m = numbers.size(1);
  Tensor packed = at::zeros({words(n), m}, at::kInt);
  auto* out = reinterpret_cast<uint32_t*>(packed.mutable_data_ptr<int32_t>());
  Tensor rows = numbers.contiguous();
  const auto* in = rows.const_data_ptr<uint8_t>();
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < m; ++j) {
      out[i / kCodesInWord * m + j] |= uint32_t{in[i * m + j]} << (4 * (i % kCodesInWord));
    }
  }
  return packed;
}

Tensor unpack_down(const Tensor& packed, int64_t n) {
  int64_t m = packed.size(1);
  Tensor numbers = at::empty({n, m}, at::kByte), rows = packed.contiguous();
  const auto* in = reinterpret_cast<const uint32_t*>(rows.const_data_ptr<int32_t>());
  auto* out = numbers.mutable_data_ptr<uint8_t>();
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < m; ++j) {
      uint32_t word = in[i / kCodesInWord * m + j];
      out[i * m + j] = static_cast<uint8_t>((word >> (4 * (i % kCodesInWord))) & 15);
    }
  }
  return numbers;
}

// GPTQ's first format stores zero - 1 modulo 16.
Tensor qzeros_of(const QuantWeight& weight) {
  if (weight.zeros.defined()) {
    Tensor less = weight.zeros.to(at::kInt).sub(1).bitwise_and(15).to(at::kByte);
    return pack_down(less).t().contiguous();
  }
  return at::full({weight.scales.size(1), weight.rows() / kCodesInWord},
                  static_cast<int32_t>(kSymmetricZeros), at::kInt);
}

Tensor group_of_columns(int64_t columns, int64_t group) {
  return at::arange(columns, at::kInt).floor_divide_(group);
}

// The tensors of one module, looked up and checked.
class Reader {
 public:
  Reader(const std::string& module, const Lookup& lookup) : module_(module), lookup_(lookup) {}

  Tensor find(const std::string& what) const { return lookup_(name(what)); }

  Tensor take(const std::string& what, DType dtype) const {
    Tensor x = find(what);
    if (!x.defined()) fail("{} is missing", name(what));
    if (x.scalar_type() != dtype) {
      fail("{} is {}, expected {}", name(what), at::toString(x.scalar_type()), at::toString(dtype));
    }
    return x;
  }

  Tensor take(const std::string& what, DType dtype, std::initializer_list<int64_t> shape) const {
    Tensor x = take(what, dtype);
    check_shape(x, shape, name(what));
    return x;
  }

  // bf16, fp16 or fp32, all finite.
  Tensor take_scales(const std::string& what, std::initializer_list<int64_t> shape) const {
    Tensor x = find(what);
    if (!x.defined()) fail("{} is missing", name(what));
    DType dtype = x.scalar_type();
    if (dtype != at::kBFloat16 && dtype != at::kHalf && dtype != at::kFloat) {
      fail("{} is {}, expected a floating-point type of 16 or 32 bits", name(what),
           at::toString(dtype));
    }
    check_shape(x, shape, name(what));
    Tensor scales = x.contiguous();
    std::vector<float> numbers(scales.numel());
    if (!widen(scales.const_data_ptr(), dtype, scales.numel(), numbers.data())) {
      fail("{} holds NaN or infinity", name(what));
    }
    return scales;
  }

  std::string name(const std::string& what) const { return module_ + "." + what; }
  const std::string& module() const { return module_; }

 private:
  const std::string& module_;
  const Lookup& lookup_;
};

int64_t groups_of(const Reader& reader, const Scheme& scheme, int64_t columns) {
  if (scheme.group_size != -1 && columns % scheme.group_size != 0) {
    fail("{}: {} input columns do not divide into groups of {}", reader.module(), columns,
         scheme.group_size);
  }
  return scheme.groups(columns);
}

void check_group_order(const Reader& reader, const Tensor& g_idx, int64_t columns, int64_t groups) {
  check_shape(g_idx, {columns}, reader.name("g_idx"));
  if (!at::equal(g_idx.to(at::kInt), group_of_columns(columns, columns / groups))) {
    fail(
        "{}: the columns are not in the order of their groups (activation ordering); quern reads "
        "weights that were quantized with desc_act false",
        reader.module());
  }
}

QuantWeight read_compressed_tensors(const Reader& reader, const Scheme& scheme) {
  Tensor packed = reader.take("weight_packed", at::kInt, {-1, -1});
  Tensor shape = reader.find("weight_shape");
  if (!shape.defined()) fail("{} is missing", reader.name("weight_shape"));
  check_shape(shape, {2}, reader.name("weight_shape"));
  shape = shape.to(at::kLong);
  int64_t rows = shape[0].item<int64_t>(), columns = shape[1].item<int64_t>();
  if (columns <= 0 || packed.size(0) != rows || packed.size(1) != words(columns)) {
    fail("{} says [{}, {}], which does not go with {} of shape {}", reader.name("weight_shape"),
         rows, columns, reader.name("weight_packed"), shape_text(packed));
  }
  int64_t groups = groups_of(reader, scheme, columns);
  QuantWeight weight{.scheme = scheme,
                     .columns = columns,
                     .codes = as_codes(packed, columns),
                     .scales = reader.take_scales("weight_scale", {rows, groups}),
                     .zeros = {}};
  Tensor g_idx = reader.find("weight_g_idx");
  if (g_idx.defined()) check_group_order(reader, g_idx, columns, groups);
  if (!scheme.symmetric) {
    Tensor zeros = reader.take("weight_zero_point", at::kInt, {words(rows), groups});
    weight.zeros = unpack_down(zeros, rows);
  } else if (reader.find("weight_zero_point").defined()) {
    fail("{} is there although the scheme is symmetric", reader.name("weight_zero_point"));
  }
  return weight;
}

QuantWeight read_gptq(const Reader& reader, const Scheme& scheme, bool with_order) {
  Tensor qweight = reader.take("qweight", at::kInt, {-1, -1});
  int64_t columns = qweight.size(0) * kCodesInWord, rows = qweight.size(1);
  int64_t groups = groups_of(reader, scheme, columns);
  Tensor qzeros = reader.take("qzeros", at::kInt, {groups, words(rows)});
  QuantWeight weight{.scheme = scheme,
                     .columns = columns,
                     .codes = as_codes(qweight.t(), columns),
                     .scales = reader.take_scales("scales", {groups, rows}).t().contiguous(),
                     .zeros = {}};
  Tensor zeros = unpack_down(qzeros.t(), rows).add_(1).bitwise_and_(15);
  if (!scheme.symmetric) {
    weight.zeros = zeros;
  } else if (!zeros.eq(8).all().item<bool>()) {
    fail("{} holds other zeros than 8 although the scheme is symmetric", reader.name("qzeros"));
  }
  Tensor g_idx = reader.find("g_idx");
  if (with_order && !g_idx.defined()) fail("{} is missing", reader.name("g_idx"));
  if (g_idx.defined()) check_group_order(reader, g_idx, columns, groups);
  return weight;
}

}  // namespace

std::string_view format_name(Format format) {
  switch (format) {
    case Format::compressed_tensors:
      return "compressed-tensors";
    case Format::auto_round:
      return "auto_gptq";
    case Format::gptq:
      return "gptq";
  }
  return "";
}

DType scale_dtype(Format format, DType weight_dtype) {
  return format == Format::compressed_tensors ? weight_dtype : at::kHalf;
}

std::vector<PlannedTensor> planned(const std::string& module, int64_t rows, int64_t columns,
                                   const Scheme& scheme, Format format) {
  if (scheme.group_size != -1 && columns % scheme.group_size != 0) {
    fail(Exit::infeasible, "{}: {} input columns do not divide into groups of {}", module, columns,
         scheme.group_size);
  }
  int64_t groups = scheme.groups(columns);
  if (format == Format::compressed_tensors) {
    std::vector<PlannedTensor> tensors = {
        {module + ".weight_packed", at::kInt, {rows, words(columns)}},
        {module + ".weight_scale", scheme.scale_dtype, {rows, groups}},
        {module + ".weight_shape", at::kLong, {2}}};
    if (!scheme.symmetric) {
      tensors.push_back({module + ".weight_zero_point", at::kInt, {words(rows), groups}});
    }
    return tensors;
  }
  if (rows % kCodesInWord != 0 || columns % kCodesInWord != 0) {
    fail(Exit::infeasible,
         "{}: [{}, {}] does not fit the format {}, which packs eight rows and eight columns in a "
         "word; leave it unquantized",
         module, rows, columns, format_name(format));
  }
  std::vector<PlannedTensor> tensors = {{module + ".qweight", at::kInt, {words(columns), rows}},
                                        {module + ".qzeros", at::kInt, {groups, words(rows)}},
                                        {module + ".scales", scheme.scale_dtype, {groups, rows}}};
  if (format == Format::gptq) tensors.push_back({module + ".g_idx", at::kInt, {columns}});
  return tensors;
}

std::vector<std::string> implied(const std::string& module, Format format) {
  return {module + (format == Format::compressed_tensors ? ".weight_g_idx" : ".g_idx")};
}

NamedTensors to_disk(const std::string& module, const QuantWeight& weight, Format format) {
  QUERN_CHECK(!weight.stacked());
  std::vector<Tensor> tensors;
  if (format == Format::compressed_tensors) {
    Tensor shape = at::tensor({weight.rows(), weight.columns}, at::kLong);
    tensors = {as_words(weight.codes), weight.scales.contiguous(), shape};
    if (weight.zeros.defined()) tensors.push_back(pack_down(weight.zeros));
  } else {
    QUERN_CHECK(weight.scales.scalar_type() == at::kHalf);
    int64_t group = weight.columns / weight.scales.size(1);
    tensors = {as_words(weight.codes).t().contiguous(), qzeros_of(weight),
               weight.scales.t().contiguous()};
    if (format == Format::gptq) tensors.push_back(group_of_columns(weight.columns, group));
  }
  auto plan = planned(module, weight.rows(), weight.columns, weight.scheme, format);
  QUERN_CHECK(plan.size() == tensors.size());
  NamedTensors named;
  for (size_t i = 0; i < plan.size(); ++i) {
    QUERN_CHECK(tensors[i].sizes() == at::IntArrayRef(plan[i].shape));
    named.emplace_back(plan[i].name, tensors[i]);
  }
  return named;
}

QuantWeight from_disk(const std::string& module, const Scheme& scheme, Format format,
                      const Lookup& lookup) {
  Reader reader(module, lookup);
  QuantWeight weight = format == Format::compressed_tensors
                           ? read_compressed_tensors(reader, scheme)
                           : read_gptq(reader, scheme, format == Format::gptq);
  weight.scheme.scale_dtype = weight.scales.scalar_type();
  return weight;
}

}  // namespace quern::quant
