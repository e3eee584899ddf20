// Pictures against Pillow's pixels (tools/make_image_fixtures.py), and pictures that must not be
// decoded.
#include "prompt/image.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "prompt/image_codecs.h"

namespace quern::prompt {
namespace {

namespace fs = std::filesystem;

fs::path folder() { return fs::path(QUERN_SOURCE_DIR) / "tests/data/image"; }

std::string bytes_of(const std::string& name) { return read_file(folder() / name); }

std::string digest(const Tensor& rgb) {
  const Tensor rows = rgb.permute({1, 2, 0}).contiguous();
  return sha256({reinterpret_cast<const char*>(rows.const_data_ptr<uint8_t>()),
                 static_cast<size_t>(rows.numel())});
}

std::string refusal(const std::string& bytes, const ImageLimits& limits = {}) {
  try {
    decode_image(bytes, "a.png", limits);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::invalid_input) << error.what();
    return error.what();
  }
  return "";
}

void expect_refused(const std::string& bytes, const std::string& why) {
  const std::string message = refusal(bytes);
  EXPECT_NE(message.find(why), std::string::npos) << '"' << message << "\" lacks \"" << why << '"';
  EXPECT_TRUE(message.starts_with("a.png: ")) << message;
}

TEST(ImageTest, EveryFormIsPillowsPixels) {
  const JsonValue golden = read_json(folder() / "golden.json");
  for (const auto& [name, expected] : golden.at("pictures").items()) {
    const Tensor rgb = decode_image(bytes_of(name), name);
    ASSERT_EQ(rgb.sizes(), at::IntArrayRef({3, expected.at("height").get<int64_t>(),
                                            expected.at("width").get<int64_t>()}))
        << name;
    EXPECT_EQ(digest(rgb), expected.at("rgb_sha256").get<std::string>()) << name;
  }
  EXPECT_GE(golden.at("pictures").size(), 40u);
}

TEST(ImageTest, ManyThreadsAtOnce) {
  const std::string name = "progressive.jpg", bytes = bytes_of(name);
  const std::string expected = digest(decode_image(bytes, name));
  std::vector<std::string> digests(8);
  std::vector<std::thread> threads;
  for (std::string& one : digests)
    threads.emplace_back([&] { one = digest(decode_image(bytes, name)); });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& one : digests) EXPECT_EQ(one, expected);
}

TEST(ImageTest, RefusesOtherFormats) {
  expect_refused("", "is empty");
  expect_refused("plain text", "not a known picture format");
  expect_refused(bytes_of("picture.gif"), "GIF");
  expect_refused(bytes_of("picture.bmp"), "BMP");
  expect_refused(bytes_of("picture.tiff"), "TIFF");
  expect_refused(std::string("\0\0\0\x18"
                             "ftypavif....",
                             16),
                 "AVIF");
}

TEST(ImageTest, RefusesAnimations) {
  expect_refused(bytes_of("animation.png"), "an animation of 2 frames");
  expect_refused(bytes_of("animation.webp"), "an animation");
}

TEST(ImageTest, RefusesWhatHasNoAgreedConversion) {
  expect_refused(bytes_of("gray16.png"), "16-bit grayscale");
}

// Bytes 16 to 24 of a PNG are its width and height.
std::string resized_png(uint32_t width, uint32_t height) {
  std::string bytes = bytes_of("rgb.png");
  for (int i = 0; i < 4; ++i) {
    bytes[16 + i] = static_cast<char>(width >> (24 - 8 * i));
    bytes[20 + i] = static_cast<char>(height >> (24 - 8 * i));
  }
  return bytes;
}

// Of the frame header of a JPEG (SOF0): marker, length, precision, height, width.
std::string resized_jpeg(uint16_t width, uint16_t height) {
  std::string bytes = bytes_of("rgb444.jpg");
  const size_t frame = bytes.find("\xff\xc0");
  bytes[frame + 5] = static_cast<char>(height >> 8), bytes[frame + 6] = static_cast<char>(height);
  bytes[frame + 7] = static_cast<char>(width >> 8), bytes[frame + 8] = static_cast<char>(width);
  return bytes;
}

size_t peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<size_t>(usage.ru_maxrss) * 1024;
}

TEST(ImageTest, RefusesSizesFromTheHeader) {
  const size_t before = peak_bytes();
  expect_refused(resized_png(0, 10), "0 x 10 pixels");
  expect_refused(resized_png(10, 0), "10 x 0 pixels");
  expect_refused(resized_png(65'536, 10), "65536 x 10 pixels");
  expect_refused(resized_png(0xffffffff, 10), "4294967295 x 10 pixels");
  expect_refused(resized_png(65'535, 65'535), "more than 100000000 pixels");
  expect_refused(resized_jpeg(65'000, 65'000), "more than 100000000 pixels");
  expect_refused(resized_jpeg(0, 10), "not a valid JPEG file");
  expect_refused(resized_jpeg(65'535, 65'535), "not a valid JPEG file: Maximum supported image");
  EXPECT_LT(peak_bytes() - before, 16u << 20);
}

TEST(ImageTest, TheLimitIsTheCallers) {
  const ImageLimits limits = {.pixels = 29 * 19};
  for (const char* name : {"rgb.png", "rgb420.jpg", "lossy.webp"}) {
    EXPECT_EQ(refusal(bytes_of(name), limits), "") << name;
    EXPECT_NE(refusal(bytes_of(name), {.pixels = limits.pixels - 1}).find("more than 550 pixels"),
              std::string::npos)
        << name;
  }
}

// A picture of the allowed size whose data are missing must not take the memory of its pixels.
TEST(ImageTest, ClaimsWithoutDataTakeNoMemory) {
  const size_t before = peak_bytes();
  std::string bytes = resized_png(10'000, 10'000);
  expect_refused(bytes, "not a valid PNG file");  // the checksum of the header
  expect_refused(resized_jpeg(10'000, 10'000), "not a valid JPEG file");
  EXPECT_LT(peak_bytes() - before, 64u << 20);
}

TEST(ImageTest, EveryTruncationIsAnError) {
  for (const char* name : {"rgb.png", "rgb_interlaced.png", "turned8_late.png", "rgb420.jpg",
                           "progressive.jpg", "gray.jpg", "lossy.webp", "lossless_alpha.webp"}) {
    const std::string bytes = bytes_of(name);
    for (size_t length = 0; length < bytes.size(); ++length)
      EXPECT_NE(refusal(bytes.substr(0, length)), "") << name << " cut to " << length;
  }
}

TEST(ImageTest, CorruptDataAreAnError) {
  std::string png = bytes_of("rgb.png");
  png[png.find("IDAT") + 20] ^= 0x10;
  expect_refused(png, "not a valid PNG file");
  std::string jpeg = bytes_of("rgb444.jpg");
  for (size_t i = jpeg.size() - 60; i < jpeg.size() - 20; ++i) jpeg[i] = i % 2 ? '\xff' : '\0';
  expect_refused(jpeg, "not a valid JPEG file");
  std::string webp = bytes_of("lossless.webp");
  webp.replace(40, 8, std::string(8, '\xff'));
  expect_refused(webp, "not a valid WebP file");
}

// A sequential JPEG of three components, `scans` scans of one component each: all with the data of
// gray.jpg.
std::string scan_by_scan(int scans) {
  const std::string gray = bytes_of("gray.jpg");
  const size_t frame = gray.find("\xff\xc0"), scan = gray.find("\xff\xda");
  std::string bytes = gray.substr(0, frame) + std::string("\xff\xc0\0\x11", 4);
  bytes += gray.substr(frame + 4, 5) + std::string("\3\1\x11\0\2\x11\0\3\x11\0", 10);
  const size_t tables = frame + 2 + 11;
  bytes += gray.substr(tables, scan - tables);
  std::string one = gray.substr(scan, gray.size() - 2 - scan);
  for (int i = 0; i < scans; ++i) {
    one[5] = static_cast<char>(1 + i % 3);
    bytes += one;
  }
  return bytes + "\xff\xd9";
}

// Each scan takes few bytes but a pass over the whole picture.
TEST(ImageTest, RefusesEndlessScans) {
  EXPECT_EQ(refusal(scan_by_scan(3)), "");
  EXPECT_EQ(refusal(scan_by_scan(99)), "");
  expect_refused(scan_by_scan(2000), "more than 100 scans");
}

TEST(ExifTest, OrientationIsBounded) {
  const std::string good("II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0", 26);
  EXPECT_EQ(exif_orientation(good), 6);
  for (size_t length = 0; length < 20; ++length)
    EXPECT_EQ(exif_orientation(std::string_view(good).substr(0, length)), 1) << length;
  for (const auto& [place, value] : {std::pair{18, 9}, {18, 0}, {14, 4}, {4, 255}, {7, 127}}) {
    std::string bad = good;
    bad[place] = static_cast<char>(value);
    const int expected = place == 14 ? 6 : 1;  // the number of values is ignored
    EXPECT_EQ(exif_orientation(bad), expected) << place;
  }
}

}  // namespace
}  // namespace quern::prompt
