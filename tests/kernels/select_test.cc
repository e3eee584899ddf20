#include "base/error.h"
#include "tests/kernels/cases.h"

namespace quern::kernels {
namespace {

TEST(Select, TakesTheFastestUnlessToldOtherwise) {
  const std::vector<const CpuKernels*> tables = available_cpu_kernels();
  EXPECT_STREQ(tables.front()->name, "reference");
  EXPECT_EQ(&choose_cpu_kernels(nullptr), tables.back());
  EXPECT_EQ(&choose_cpu_kernels(""), tables.back());
  for (const CpuKernels* table : tables) EXPECT_EQ(&choose_cpu_kernels(table->name), table);
}

TEST(Select, RefusesWhatTheProcessorCannotRunAndSaysWhatItCan) {
  try {
    choose_cpu_kernels("neon");
    FAIL() << "neon was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::usage);
    EXPECT_NE(std::string(error.what()).find("QUERN_CPU_ISA=neon"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("reference"), std::string::npos);
  }
}

TEST(Floats, HalvesConvertExactlyAndRoundHalfToEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = float_from_fp16(half), brain = float_from_bf16(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(float_from_fp16(fp16_from_float(value))));
    } else {
      EXPECT_EQ(fp16_from_float(value), half);
    }
    if (!std::isnan(brain)) {
      EXPECT_EQ(bf16_from_float(brain), half);
    }
  }
  // Halfway between two neighbours the even one wins; above the largest fp16 number comes infinity.
  for (uint16_t bits : {0x0000, 0x0001, 0x03ff, 0x0400, 0x3c00, 0x3c01, 0x7bfe, 0x83ff, 0xbc01}) {
    const float low = float_from_fp16(bits);
    const float high = float_from_fp16(static_cast<uint16_t>(bits + 1));
    const float middle = low + (high - low) / 2;
    EXPECT_EQ(fp16_from_float(middle), bits % 2 ? bits + 1 : bits);
    EXPECT_EQ(fp16_from_float(std::nextafter(middle, low)), bits);
    EXPECT_EQ(fp16_from_float(std::nextafter(middle, high)), bits + 1);
  }
  EXPECT_EQ(fp16_from_float(65519.996f), 0x7bff);
  EXPECT_EQ(fp16_from_float(65520), 0x7c00);
  EXPECT_EQ(fp16_from_float(-1e30f), 0xfc00);
  EXPECT_EQ(bf16_from_float(float_from_bits(0x3f808000)), 0x3f80);
  EXPECT_EQ(bf16_from_float(float_from_bits(0x3f818000)), 0x3f82);
}

}  // namespace
}  // namespace quern::kernels
