// JPEG by libjpeg-turbo, with Pillow's settings (the defaults). Libjpeg reports errors by longjmp,
// so the functions that call it own no resources.

#include <csetjmp>
#include <cstdio>
// Needs the declarations of FILE and size_t.
#include <jerror.h>
#include <jpeglib.h>

#include <array>
#include <vector>

#include "base/error.h"
#include "prompt/image_codecs.h"

namespace quern::prompt {
namespace {

// A progressive file may contain many scans of almost no bytes, and each costs a pass over the
// whole picture; encoders write about ten.
constexpr int kMostScans = 100;

class JpegReader {
 public:
  JpegReader(std::string_view bytes, const std::string& origin) : origin_(origin) {
    info_.err = jpeg_std_error(&errors_);
    errors_.error_exit = on_error;
    errors_.emit_message = on_message;
    progress_.progress_monitor = on_progress;
    info_.client_data = this;
    guarded([&] {
      jpeg_create_decompress(&info_);
      jpeg_mem_src(&info_, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
      jpeg_save_markers(&info_, JPEG_APP0 + 1, 0xffff);
    });
    info_.progress = &progress_;
  }
  ~JpegReader() { jpeg_destroy_decompress(&info_); }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  void read_header(const ImageLimits& limits) {
    guarded([&] { jpeg_read_header(&info_, TRUE); });
    check_image_size(info_.image_width, info_.image_height, origin_, limits);
    for (jpeg_saved_marker_ptr marker = info_.marker_list; marker; marker = marker->next) {
      const std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
      constexpr std::string_view kExif("Exif\0\0", 6);
      if (data.starts_with(kExif)) orientation_ = exif_orientation(data.substr(kExif.size()));
    }
  }

  Tensor read_pixels() {
    const bool cmyk = info_.jpeg_color_space == JCS_CMYK || info_.jpeg_color_space == JCS_YCCK;
    info_.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    const int64_t width = info_.image_width, height = info_.image_height;
    Tensor rgb = at::empty({height, width, 3}, at::kByte);
    std::vector<uint8_t> inks(cmyk ? 4 * width : 0);
    guarded([&] { jpeg_start_decompress(&info_); });
    for (int64_t y = 0; y < height; ++y) {
      uint8_t* pixels = rgb.data_ptr<uint8_t>() + y * 3 * width;
      JSAMPROW row = cmyk ? inks.data() : pixels;
      guarded([&] { jpeg_read_scanlines(&info_, &row, 1); });
      if (cmyk) from_inks(inks, pixels);
    }
    guarded([&] { jpeg_finish_decompress(&info_); });
    return rgb;
  }

  int orientation() const { return orientation_; }

 private:
  template <class Step>
  void guarded(Step step) {
    if (setjmp(jump_) != 0) fail("{}: not a valid JPEG file: {}", origin_, message_.data());
    step();
  }

  // Files store 255 minus the ink, as Adobe's programs write it. Like Pillow, rounds the product of
  // two bytes, (x y + 128) / 255, by shifts.
  static void from_inks(const std::vector<uint8_t>& inks, uint8_t* pixels) {
    for (size_t i = 0; i < inks.size(); i += 4) {
      const int white = inks[i + 3];
      for (size_t color = 0; color < 3; ++color) {
        const int product = (255 - inks[i + color]) * white + 128;
        *pixels++ = static_cast<uint8_t>(white - ((product >> 8) + product) / 256);
      }
    }
  }

  static JpegReader& self(j_common_ptr info) {
    return *static_cast<JpegReader*>(info->client_data);
  }

  [[noreturn]] static void on_error(j_common_ptr info) {
    JpegReader& reader = self(info);
    info->err->format_message(info, reader.message_.data());
    std::longjmp(reader.jump_, 1);
  }

  // Level -1 is a warning: libjpeg would invent the lost part of the picture. Three of the warnings
  // are harmless.
  static void on_message(j_common_ptr info, int level) {
    const int code = info->err->msg_code;
    if (level >= 0 || code == JWRN_EXTRANEOUS_DATA || code == JWRN_ADOBE_XFORM ||
        code == JWRN_JFIF_MAJOR)
      return;
    on_error(info);
  }

  static void on_progress(j_common_ptr info) {
    if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number <= kMostScans) return;
    JpegReader& reader = self(info);
    fmt::format_to_n(reader.message_.data(), reader.message_.size() - 1, "more than {} scans",
                     kMostScans);
    std::longjmp(reader.jump_, 1);
  }

  const std::string& origin_;
  jpeg_decompress_struct info_{};
  jpeg_error_mgr errors_{};
  jpeg_progress_mgr progress_{};
  std::jmp_buf jump_{};
  std::array<char, JMSG_LENGTH_MAX> message_{};
  int orientation_ = 1;
};

}  // namespace

DecodedImage decode_jpeg(std::string_view bytes, const std::string& origin,
                         const ImageLimits& limits) {
  JpegReader reader(bytes, origin);
  reader.read_header(limits);
  Tensor rgb = reader.read_pixels();
  return {std::move(rgb), reader.orientation()};
}

}  // namespace quern::prompt
