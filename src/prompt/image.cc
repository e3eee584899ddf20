#include "prompt/image.h"

#include "base/error.h"
#include "prompt/image_codecs.h"

namespace quern::prompt {
namespace {

constexpr int64_t kMostSide = 65'535;

bool is_webp(std::string_view bytes) {
  return bytes.starts_with("RIFF") && bytes.size() >= 12 && bytes.substr(8, 4) == "WEBP";
}

// A description of the file's apparent format, for messages.
std::string_view other_format(std::string_view bytes) {
  if (bytes.starts_with("GIF8")) return "a GIF file";
  if (bytes.starts_with("BM")) return "a BMP file";
  if (bytes.starts_with(std::string_view("II*\0", 4)) ||
      bytes.starts_with(std::string_view("MM\0*", 4)))
    return "a TIFF file";
  if (bytes.size() >= 12 && bytes.substr(4, 4) == "ftyp") return "an AVIF, HEIC or video file";
  if (bytes.starts_with("%PDF")) return "a PDF file";
  return bytes.empty() ? "empty" : "not a known picture format";
}

DecodedImage decode(std::string_view bytes, const std::string& origin, const ImageLimits& limits) {
  if (bytes.starts_with("\x89PNG\r\n\x1a\n")) return decode_png(bytes, origin, limits);
  if (bytes.starts_with("\xff\xd8\xff")) return decode_jpeg(bytes, origin, limits);
  if (is_webp(bytes)) return decode_webp(bytes, origin, limits);
  fail("{}: the file is {}; convert it to PNG, JPEG or still WebP", origin, other_format(bytes));
}

// x [3, height, width]. EXIF 2.3, tag 274: the sides to which row 0 and column 0 of the stored
// picture belong.
Tensor upright(const Tensor& x, int orientation) {
  switch (orientation) {
    case 2:
      return x.flip(2);
    case 3:
      return x.flip({1, 2});
    case 4:
      return x.flip(1);
    case 5:
      return x.transpose(1, 2);
    case 6:
      return x.transpose(1, 2).flip(2);
    case 7:
      return x.transpose(1, 2).flip({1, 2});
    case 8:
      return x.transpose(1, 2).flip(1);
    default:
      return x;
  }
}

// Reads TIFF numbers in the byte order of their file.
class Tiff {
 public:
  explicit Tiff(std::string_view bytes) : bytes_(bytes), big_(bytes.starts_with("MM")) {}

  // -1 if outside the file.
  int64_t number(size_t offset, size_t width) const {
    if (offset > bytes_.size() || bytes_.size() - offset < width) return -1;
    int64_t value = 0;
    for (size_t i = 0; i < width; ++i) {
      const size_t at = big_ ? i : width - 1 - i;
      value = value << 8 | static_cast<unsigned char>(bytes_[offset + at]);
    }
    return value;
  }

 private:
  std::string_view bytes_;
  bool big_;
};

}  // namespace

void check_image_size(int64_t width, int64_t height, const std::string& origin,
                      const ImageLimits& limits) {
  if (width < 1 || height < 1 || width > kMostSide || height > kMostSide) {
    fail("{}: the picture is {} x {} pixels; sides must be 1 to {}", origin, width, height,
         kMostSide);
  }
  if (width * height > limits.pixels) {
    fail("{}: the picture is {} x {}, more than {} pixels; make it smaller", origin, width, height,
         limits.pixels);
  }
}

int exif_orientation(std::string_view tiff) {
  constexpr int64_t kOrientation = 0x0112, kShort = 3;
  if (!tiff.starts_with("II") && !tiff.starts_with("MM")) return 1;
  const Tiff read(tiff);
  const int64_t directory = read.number(4, 4);
  if (read.number(2, 2) != 42 || directory < 0) return 1;
  const int64_t entries = read.number(directory, 2);
  for (int64_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + 12 * i;
    if (read.number(entry, 2) != kOrientation) continue;
    const int64_t value = read.number(entry + 8, 2);
    return read.number(entry + 2, 2) == kShort && value >= 1 && value <= 8 ? static_cast<int>(value)
                                                                           : 1;
  }
  return 1;
}

Tensor decode_image(std::string_view bytes, const std::string& origin, const ImageLimits& limits) {
  const DecodedImage decoded = decode(bytes, origin, limits);
  return upright(decoded.rgb.permute({2, 0, 1}), decoded.orientation);
}

}  // namespace quern::prompt
