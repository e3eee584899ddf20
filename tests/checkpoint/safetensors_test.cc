#include "checkpoint/safetensors.h"

#include <gtest/gtest.h>

#include <chrono>

#include "base/json.h"
#include "checkpoint/dtype.h"
#include "tests/checkpoint/scratch.h"

namespace quern::checkpoint {
namespace {
namespace fs = std::filesystem;

// A header for one tensor "x" of two F32.
std::string x_with(const std::string& fields) { return "{\"x\":{" + fields + "}}"; }
const std::string kX = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";

std::string refusal(std::string_view bytes) {
  Scratch scratch;
  scratch.write("m.safetensors", bytes);
  Exit code = Exit::ok;
  std::string message = error_of([&] { SafetensorsFile file(scratch / "m.safetensors"); }, &code);
  if (!message.empty()) {
    EXPECT_EQ(code, Exit::invalid_input);
    EXPECT_NE(message.find("m.safetensors: "), std::string::npos) << message;
  }
  return message;
}

std::string refusal_of_header(const std::string& header, size_t data_bytes = 8) {
  return refusal(with_length(header) + std::string(data_bytes, '\1'));
}

struct Hostile {
  std::string what, header, message;
  size_t data_bytes = 8;
};

TEST(Safetensors, RefusesEveryBrokenHeader) {
  const std::string deep(1'000'000, '['), long_name(1025, 'n');
  const std::vector<Hostile> cases = {
      {"no brace first", fmt::format(" {}", x_with(kX)), "does not start with {"},
      {"a list", "[]", "does not start with {"},
      {"cut JSON", "{\"x\":{", "not valid JSON"},
      {"text behind", x_with(kX) + "x", "not valid JSON"},
      {"zero byte behind", x_with(kX) + std::string("\0{", 2), "zero byte"},
      {"invalid UTF-8", "{\"\xff\":{" + kX + "}}", "not valid JSON"},
      {"overlong UTF-8", "{\"\xc0\x80\":{" + kX + "}}", "not valid JSON"},
      {"a tensor twice", "{\"x\":{" + kX + "},\"x\":{" + kX + "}}", "x appears twice"},
      {"a field twice", x_with(kX + ",\"dtype\":\"F32\""), "has the key dtype twice"},
      {"unknown field", x_with(kX + ",\"strides\":[1]"), "unknown field strides"},
      {"no dtype", x_with(R"("shape":[2],"data_offsets":[0,8])"), "has no dtype"},
      {"no shape", x_with(R"("dtype":"F32","data_offsets":[0,8])"), "has no shape"},
      {"no offsets", x_with(R"("dtype":"F32","shape":[2])"), "has no data_offsets"},
      {"unknown dtype", x_with(R"("dtype":"F4","shape":[2],"data_offsets":[0,8])"),
       "has the dtype F4, which is not supported"},
      {"dtype a number", x_with(R"("dtype":4,"shape":[2],"data_offsets":[0,8])"),
       "has a number as dtype"},
      {"tensor a number", R"({"x":1})", "the header has a number for x"},
      {"tensor null", R"({"x":null})", "the header has null for x"},
      {"shape an object", x_with(R"("dtype":"F32","shape":{},"data_offsets":[0,8])"),
       "has an object as shape"},
      {"shape nested", x_with(R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])"),
       "has a list as shape"},
      {"deep", "{\"x\":{\"shape\":" + deep, "has a list as shape"},
      {"negative size", x_with(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"),
       "negative number as shape"},
      {"float offset", x_with(R"("dtype":"F32","shape":[2],"data_offsets":[0,8.0])"),
       "the number 8.0 as data_offsets"},
      {"exponent offset", x_with(R"("dtype":"F32","shape":[2],"data_offsets":[0,8e0])"),
       "the number 8e0 as data_offsets"},
      {"leading zero", x_with(R"("dtype":"F32","shape":[2],"data_offsets":[0,08])"),
       "not valid JSON"},
      {"huge offset",
       x_with(R"("dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551616])"),
       "as data_offsets"},
      {"minus zero", x_with(R"("dtype":"F32","shape":[2],"data_offsets":[-0,8])"),
       "negative number as data_offsets"},
      {"one offset", x_with(R"("dtype":"F32","shape":[2],"data_offsets":[0])"),
       "has 1 data_offsets"},
      {"three offsets", x_with(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])"),
       "more than two data_offsets"},
      {"begin behind end", x_with(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"),
       "ends before it begins"},
      {"hole at the front", x_with(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"),
       "there is a hole"},
      {"bytes behind", x_with(kX), "4 bytes follow the last tensor", 12},
      {"hole between",
       R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"y":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
       "tensor y: its data begins at byte 2, but byte 1 is next: there is a hole", 3},
      {"overlap",
       R"({"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"y":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
       "tensors overlap", 3},
      {"shape does not fit", x_with(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"),
       "F32 of shape [3] needs 12 bytes, but its data_offsets span 8"},
      {"overflow", x_with(R"("dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0])"),
       "overflows", 0},
      {"overflow times dtype",
       x_with(R"("dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0])"), "overflows",
       0},
      {"overflow behind a zero",
       x_with(R"("dtype":"U8","shape":[0,4611686018427387904,4],"data_offsets":[0,0])"),
       "overflows", 0},
      {"a size beyond int64",
       x_with(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,8])"),
       "has a dimension of 9223372036854775808"},
      {"rank 9", x_with(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1])"),
       "more than 8 dimensions", 1},
      {"zero byte in a name", "{\"x\\u0000y\":{" + kX + "}}", "zero byte in it"},
      {"empty name", "{\"\":{" + kX + "}}", "empty name"},
      {"long name", "{\"" + long_name + "\":{" + kX + "}}", "name of 1025 bytes"},
      {"metadata a number", R"({"__metadata__":{"a":1}})", "has a number as a", 0},
      {"metadata nested", R"({"__metadata__":{"a":{}}})", "has an object as a", 0},
      {"metadata a string", R"({"__metadata__":"a"})", "the header has a string for __metadata__",
       0},
      {"metadata twice", R"({"__metadata__":{},"__metadata__":{}})", "__metadata__ appears twice",
       0},
      {"a metadata key twice", R"({"__metadata__":{"a":"1","a":"2"}})", "has the key a twice", 0},
  };
  for (const Hostile& c : cases) {
    std::string message = refusal_of_header(c.header, c.data_bytes);
    EXPECT_NE(message.find(c.message), std::string::npos) << c.what << ": \"" << message << '"';
  }
}

TEST(Safetensors, AcceptsWhatTheFormatAllows) {
  EXPECT_EQ(refusal_of_header(x_with(kX)), "");
  EXPECT_EQ(refusal_of_header(x_with(kX) + "     "), "");
  EXPECT_EQ(refusal_of_header("{}", 0), "");
  EXPECT_EQ(refusal_of_header(R"({"__metadata__":{"format":"pt"}})", 0), "");
  EXPECT_EQ(refusal_of_header(x_with(R"("data_offsets":[0,8],"shape":[],"dtype":"F64")")), "");
  EXPECT_EQ(refusal_of_header(x_with(R"("dtype":"F32","shape":[3,0,5],"data_offsets":[0,0])"), 0),
            "");
  EXPECT_EQ(refusal_of_header("{\"" + std::string(1024, 'n') + "\":{" + kX + "}}"), "");
  EXPECT_EQ(
      refusal_of_header(
          R"({"later":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"first":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
          2),
      "");
}

TEST(Safetensors, RefusesWrongLengths) {
  EXPECT_NE(refusal("").find("truncated: 0 bytes"), std::string::npos);
  EXPECT_NE(refusal("1234567").find("truncated: 7 bytes"), std::string::npos);
  std::string huge = with_length("{}");
  huge[7] = '\x7f';
  EXPECT_NE(refusal(huge).find("the format allows 100000000"), std::string::npos);
  std::string longer = with_length("{}");
  longer[0] = 3;
  EXPECT_NE(refusal(longer).find("needs 3 bytes, but the file has 2; download it again"),
            std::string::npos);
}

TEST(Safetensors, RefusesTruncationAtEveryByteOfASmallFile) {
  const std::string whole = with_length(x_with(kX)) + "12345678";
  ASSERT_EQ(refusal(whole), "");
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_NE(refusal(whole.substr(0, size)).find("truncated"), std::string::npos) << size;
}

TEST(Safetensors, RefusesTruncationOfARealFile) {
  const fs::path source =
      fs::path(QUERN_SOURCE_DIR) / "tests/data/qwen36_split_experts/model.safetensors";
  Scratch scratch;
  const fs::path file = scratch / "m.safetensors";
  fs::copy_file(source, file);
  fs::permissions(file, fs::perms::owner_all);
  for (size_t size = fs::file_size(source) / 4096 * 4096; size > 0; size -= 4096) {
    fs::resize_file(file, size);
    const std::string message = error_of([&] { SafetensorsFile opened(file); });
    EXPECT_NE(message.find("truncated"), std::string::npos) << size;
    EXPECT_NE(message.find("download it again"), std::string::npos) << size;
  }
}

TEST(Safetensors, AMillionTensorsAreTheLimit) {
  std::string header = "{";
  for (size_t i = 0; i <= kMaxTensors; ++i) {
    if (i) header += ',';
    fmt::format_to(std::back_inserter(header),
                   R"("{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", i);
  }
  EXPECT_NE(refusal_of_header(header + "}", 0).find("more than 1000000 tensors"),
            std::string::npos);
}

TEST(Safetensors, EscapesHostileNamesInMessages) {
  const std::string message = refusal_of_header("{\"\\u001b[2J\xe2\x80\xae\":{\"shape\":[]}}");
  EXPECT_NE(message.find("tensor \\u001b[2J\\u202e has no dtype"), std::string::npos) << message;
}

TEST(Safetensors, ReadsDataThatIsNotAligned) {
  Scratch scratch;
  const std::string header =
      R"({"pad":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  const float values[2] = {1.5f, -2.0f};
  scratch.write("m.safetensors",
                with_length(header) + "p" + std::string(reinterpret_cast<const char*>(values), 8));
  SafetensorsFile file(scratch / "m.safetensors");
  Tensor x = file.tensor("x");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(x.data_ptr()) % alignof(float), 0u);
  EXPECT_TRUE(at::equal(x, at::tensor({1.5f, -2.0f})));
}

TEST(Safetensors, KnowsEveryDtypeByName) {
  for (const char* name : {"BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "F16",
                           "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64"}) {
    std::optional<DType> dtype = dtype_of(name);
    ASSERT_TRUE(dtype) << name;
    EXPECT_EQ(dtype_name(*dtype), name);
    const size_t bytes = 2 * c10::elementSize(*dtype);
    EXPECT_EQ(
        refusal_of_header(
            x_with(fmt::format(R"("dtype":"{}","shape":[2],"data_offsets":[0,{}])", name, bytes)),
            bytes),
        "");
  }
  EXPECT_EQ(dtype_of("bf16"), std::nullopt);
  EXPECT_NE(error_of([] { dtype_name(at::kComplexDouble); }).find("cannot be written"),
            std::string::npos);
}

}  // namespace
}  // namespace quern::checkpoint
