// PNG by libpng. Libpng reports errors by longjmp, so the functions that call it own no resources.

#include <png.h>

#include <array>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "prompt/image_codecs.h"

namespace quern::prompt {
namespace {

uint32_t number(std::string_view bytes) {
  return png_get_uint_32(reinterpret_cast<png_const_bytep>(bytes.data()));
}

// The data of the first chunk with this name, or empty. After the signature every chunk is length,
// name, data, checksum.
std::string_view chunk(std::string_view bytes, std::string_view name) {
  bytes.remove_prefix(8);
  while (bytes.size() >= 12) {
    const size_t length = number(bytes);
    if (length > bytes.size() - 12) break;
    if (bytes.substr(4, 4) == name) return bytes.substr(8, length);
    bytes.remove_prefix(12 + length);
  }
  return {};
}

class PngReader {
 public:
  PngReader(std::string_view bytes, const std::string& origin)
      : rest_(bytes),
        origin_(origin),
        png_(png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning)),
        info_(png_create_info_struct(png_)) {
    QUERN_CHECK(png_ && info_);
    png_set_read_fn(png_, this, read);
    // Skips chunks that do not affect pixels: they are not decompressed, and libpng allocates no
    // memory for sizes that they claim.
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, kSkipped,
                                sizeof(kSkipped) / sizeof(kSkipped[0]) / 5);
  }
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  // Reads everything before the pixels and requests rows as 8-bit red, green, blue.
  void read_header() {
    guarded([&] { png_read_info(png_, info_); });
    const int color = png_get_color_type(png_, info_), bits = png_get_bit_depth(png_, info_);
    if (color == PNG_COLOR_TYPE_GRAY && bits == 16) {
      fail("{}: 16-bit grayscale has no agreed conversion to 8 bits; save it with 8", origin_);
    }
    guarded([&] {
      if (color == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png_);
      if (bits < 8) png_set_expand_gray_1_2_4_to_8(png_);
      png_set_strip_16(png_);
      png_set_strip_alpha(png_);
      png_set_gray_to_rgb(png_);
      png_set_interlace_handling(png_);
      png_read_update_info(png_, info_);
    });
  }

  Tensor read_pixels(int64_t width, int64_t height) {
    QUERN_CHECK(static_cast<int64_t>(png_get_rowbytes(png_, info_)) == 3 * width);
    Tensor rgb = at::empty({height, width, 3}, at::kByte);
    std::vector<png_bytep> rows(height);
    for (int64_t y = 0; y < height; ++y) rows[y] = rgb.data_ptr<uint8_t>() + y * 3 * width;
    guarded([&] {
      png_read_image(png_, rows.data());
      png_read_end(png_, info_);
    });
    return rgb;
  }

 private:
  static constexpr png_byte kSkipped[] =
      "iCCP\0tEXt\0zTXt\0iTXt\0sPLT\0hIST\0bKGD\0tRNS\0pCAL\0sCAL\0gAMA\0cHRM\0sRGB\0tIME\0sBIT\0eX"
      "If";

  template <class Step>
  void guarded(Step step) {
    if (setjmp(png_jmpbuf(png_)) != 0)
      fail("{}: not a valid PNG file: {}", origin_, message_.data());
    step();
  }

  static PngReader& self(png_voidp pointer) { return *static_cast<PngReader*>(pointer); }

  static void read(png_structp png, png_bytep out, size_t size) {
    std::string_view& rest = self(png_get_io_ptr(png)).rest_;
    if (rest.size() < size) png_error(png, "it ends early");
    std::memcpy(out, rest.data(), size);
    rest.remove_prefix(size);
  }

  [[noreturn]] static void on_error(png_structp png, png_const_charp message) {
    auto& text = self(png_get_error_ptr(png)).message_;
    std::strncpy(text.data(), message, text.size() - 1);
    png_longjmp(png, 1);
  }
  static void on_warning(png_structp, png_const_charp) {}

  std::string_view rest_;
  const std::string& origin_;
  std::array<char, 128> message_{};
  png_structp png_;
  png_infop info_;
};

}  // namespace

DecodedImage decode_png(std::string_view bytes, const std::string& origin,
                        const ImageLimits& limits) {
  // Signature, then IHDR: length, name, width, height, ...
  constexpr size_t kWidth = 16, kHeight = 20, kHeader = 33;
  if (bytes.size() < kHeader) fail("{}: not a valid PNG file: it ends early", origin);
  const int64_t width = number(bytes.substr(kWidth)), height = number(bytes.substr(kHeight));
  check_image_size(width, height, origin, limits);
  // APNG's acTL starts with the number of frames.
  const std::string_view animation = chunk(bytes, "acTL");
  if (animation.size() >= 4 && number(animation) > 1) {
    fail("{}: an animation of {} frames; give one still picture", origin, number(animation));
  }
  PngReader reader(bytes, origin);
  reader.read_header();
  return {reader.read_pixels(width, height), exif_orientation(chunk(bytes, "eXIf"))};
}

}  // namespace quern::prompt
