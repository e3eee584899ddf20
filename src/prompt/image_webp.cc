// WebP by libwebp.

#include <webp/decode.h>
#include <webp/demux.h>

#include <memory>

#include "base/error.h"
#include "prompt/image_codecs.h"

namespace quern::prompt {
namespace {

const char* reason(VP8StatusCode status) {
  switch (status) {
    case VP8_STATUS_NOT_ENOUGH_DATA:
      return "it ends early";
    case VP8_STATUS_OUT_OF_MEMORY:
      return "there is not enough memory";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
      return "it uses a feature that libwebp does not support";
    default:
      return "its data are corrupt";
  }
}

void require(VP8StatusCode status, const std::string& origin) {
  if (status != VP8_STATUS_OK) fail("{}: not a valid WebP file: {}", origin, reason(status));
}

int orientation_of(std::string_view bytes, const std::string& origin) {
  const WebPData data = {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
  const std::unique_ptr<WebPDemuxer, decltype(&WebPDemuxDelete)> demuxer(WebPDemux(&data),
                                                                         WebPDemuxDelete);
  if (!demuxer) fail("{}: not a valid WebP file: its chunks are inconsistent", origin);
  WebPChunkIterator chunk;
  if (WebPDemuxGetChunk(demuxer.get(), "EXIF", 1, &chunk) == 0) return 1;
  std::string_view exif(reinterpret_cast<const char*>(chunk.chunk.bytes), chunk.chunk.size);
  // Some programs keep the prefix that only JPEG needs.
  constexpr std::string_view kPrefix("Exif\0\0", 6);
  if (exif.starts_with(kPrefix)) exif.remove_prefix(kPrefix.size());
  const int orientation = exif_orientation(exif);
  WebPDemuxReleaseChunkIterator(&chunk);
  return orientation;
}

}  // namespace

DecodedImage decode_webp(std::string_view bytes, const std::string& origin,
                         const ImageLimits& limits) {
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  WebPDecoderConfig config;
  QUERN_CHECK(WebPInitDecoderConfig(&config) != 0);
  require(WebPGetFeatures(data, bytes.size(), &config.input), origin);
  const int64_t width = config.input.width, height = config.input.height;
  check_image_size(width, height, origin, limits);
  if (config.input.has_animation != 0) {
    fail("{}: an animation; give one still picture", origin);
  }
  const int orientation = orientation_of(bytes, origin);
  Tensor rgb = at::empty({height, width, 3}, at::kByte);
  config.output.colorspace = MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA = {rgb.data_ptr<uint8_t>(), static_cast<int>(3 * width),
                          static_cast<size_t>(rgb.numel())};
  const VP8StatusCode status = WebPDecode(data, bytes.size(), &config);
  WebPFreeDecBuffer(&config.output);
  require(status, origin);
  return {std::move(rgb), orientation};
}

}  // namespace quern::prompt
