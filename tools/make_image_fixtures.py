#!/usr/bin/env python3
"""Makes tests/data/image and tests/fuzz/seeds/image: tiny made-up pictures in every form that
prompt/image.h reads, what Pillow makes of each (exif_transpose, then convert("RGB")), and the sizes
that transformers' image processors choose. Needs pillow, numpy, torchvision and transformers; run it
from the root of the repository."""
import hashlib
import io
import json
import pathlib
import shutil
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps
from transformers.models.gemma4.image_processing_gemma4 import get_aspect_ratio_preserving_size
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

OUT = pathlib.Path("tests/data/image")
SEEDS = pathlib.Path("tests/fuzz/seeds/image")
WIDTH, HEIGHT = 29, 19

# (x of the first pixel, y, step in x, step in y) of the seven passes of an interlaced PNG.
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def picture(width=WIDTH, height=HEIGHT, channels=3, top=255):
    """Ramps, a disc and stripes."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    ramps = [x / (width - 1), y / (height - 1), (np.sin(x / 3 + y / 5) + 1) / 2, 1 - x * y / (width * height)]
    disc = (x - 0.6 * width) ** 2 + (y - 0.4 * height) ** 2 < (0.25 * height) ** 2
    planes = [np.where(disc, 0.9 - 0.2 * c, ramps[c]) for c in range(channels)]
    planes[0] = np.where(x % 5 == 0, 1 - planes[0], planes[0])
    return np.stack(planes, -1) * top


def gradient(width=100, height=76):
    """The picture of the model fixtures' image goldens."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    r, g = 255 * x / (width - 1), 255 * y / (height - 1)
    b = 127.5 + 127.5 * np.sin(x / 7.0 + y / 11.0)
    disc = (x - 0.62 * width) ** 2 + (y - 0.4 * height) ** 2 < (0.22 * height) ** 2
    r[disc], g[disc], b[disc] = 240, 60, 30
    stripe = x.astype(int) % 17 == 0
    g[stripe] = 255 - g[stripe]
    return np.stack([r, g, b], -1).round().clip(0, 255).astype(np.uint8)


def packed(samples, bits):
    """[h, w, channels] of whole numbers -> the bytes of the rows of a PNG, filter 0."""
    rows = b""
    for row in samples.reshape(samples.shape[0], -1).astype(np.uint16):
        if bits == 16:
            rows += b"\0" + row.astype(">u2").tobytes()
        else:
            digits = "".join(format(value, f"0{bits}b") for value in row)
            digits += "0" * (-len(digits) % 8)
            rows += b"\0" + bytes(int(digits[i:i + 8], 2) for i in range(0, len(digits), 8))
    return rows


def png(samples, color, bits, before=(), after=(), interlaced=False):
    """A PNG file of any color type and depth; Pillow writes few of them."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    parts = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [samples]
    rows = b"".join(packed(part, bits) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, color, 0, 0, interlaced)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunk(*c) for c in before)
            + chunk(b"IDAT", zlib.compress(rows, 9)) + b"".join(chunk(*c) for c in after) + chunk(b"IEND", b""))


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation, big=False):
    order = ">" if big else "<"
    return ((b"MM" if big else b"II") + struct.pack(order + "HIHHHIHHI", 42, 8, 1, 0x112, 3, 1, orientation, 0, 0))


def pictures():
    gray, color, inks = 0, 2, 3
    rgb = picture().round().astype(np.uint8)
    rgba = picture(channels=4).round().astype(np.uint8)
    image, with_alpha = Image.fromarray(rgb), Image.fromarray(rgba, "RGBA")
    level = picture(channels=1, top=1)
    files = {}
    for bits in (1, 2, 4, 8):
        files[f"gray{bits}.png"] = png((level * (2**bits - 1)).round(), gray, bits)
        colors = min(2**bits, 200)
        palette = bytes((i * k + k) % 256 for i in range(colors) for k in (7, 31, 113))
        files[f"palette{bits}.png"] = png((level * (colors - 1)).round(), inks, bits, [(b"PLTE", palette)])
    files["palette_alpha.png"] = png((level * 199).round(), inks, 8,
                                     [(b"PLTE", palette), (b"tRNS", bytes(range(200)))])
    files["palette_short.png"] = png((level * 255).round(), inks, 8, [(b"PLTE", palette)])
    files["rgb.png"] = saved(image, "PNG")
    files["gradient.png"] = saved(Image.fromarray(gradient()), "PNG", optimize=True)
    files["rgb_key.png"] = png(rgb, color, 8, [(b"tRNS", struct.pack(">HHH", *map(int, rgb[3, 4])))])
    files["rgb_interlaced.png"] = png(rgb, color, 8, interlaced=True)
    files["rgb_gamma.png"] = png(rgb, color, 8, [(b"gAMA", struct.pack(">I", 100000))])
    files["rgb16.png"] = png(picture(top=65535).round(), color, 16)
    files["rgba.png"] = saved(with_alpha, "PNG")
    files["rgba16.png"] = png(picture(channels=4, top=65535).round(), 6, 16)
    files["gray_alpha.png"] = png(rgba[:, :, [0, 3]], 4, 8)
    files["gray_alpha16.png"] = png(picture(channels=2, top=65535).round(), 4, 16)
    files["turned6.png"] = png(rgb, color, 8, [(b"eXIf", exif(6))])
    files["turned8_late.png"] = png(rgb, color, 8, after=[(b"eXIf", exif(8, big=True))])
    for sampling in ("4:4:4", "4:2:2", "4:2:0"):
        files[f"rgb{sampling.replace(':', '')}.jpg"] = saved(image, "JPEG", quality=90, subsampling=sampling)
    files["progressive.jpg"] = saved(image, "JPEG", quality=85, progressive=True)
    files["restarts.jpg"] = saved(image, "JPEG", quality=85, restart_marker_blocks=1)
    files["gray.jpg"] = saved(image.convert("L"), "JPEG")
    files["cmyk.jpg"] = saved(image.convert("CMYK"), "JPEG", quality=95)
    for turn in range(2, 9):
        files[f"turned{turn}.jpg"] = saved(image, "JPEG", quality=80, exif=b"Exif\0\0" + exif(turn, turn % 2 == 0))
    files["lossy.webp"] = saved(image, "WEBP", quality=80)
    files["lossless.webp"] = saved(image, "WEBP", lossless=True)
    files["lossy_alpha.webp"] = saved(with_alpha, "WEBP", quality=80)
    files["lossless_alpha.webp"] = saved(with_alpha, "WEBP", lossless=True, exact=True)
    files["turned5.webp"] = saved(image, "WEBP", quality=80, exif=exif(5))
    refused = {
        "gray16.png": png((level * 65535).round(), gray, 16),
        "animation.png": saved(image, "PNG", save_all=True, append_images=[image.rotate(180)]),
        "animation.webp": saved(image, "WEBP", save_all=True, append_images=[image.rotate(180)]),
        "picture.gif": saved(image, "GIF"),
        "picture.bmp": saved(image.resize((4, 3)), "BMP"),
        "picture.tiff": saved(image.resize((4, 3)), "TIFF"),
    }
    return files, refused


def sizes():
    """(height, width) -> patches: with the settings of the released models, and of Qwen's processor with less room."""
    rng = np.random.default_rng(4)
    shapes = [(768, 1024), (224, 224), (1080, 1920), (480, 640), (100, 3000), (1, 1), (16, 16), (48, 32), (80, 80),
              (65, 8000), (20, 4000), (3000, 33), (1, 200), (200, 1), (1, 201), (7, 1400)]
    shapes += [tuple(int(v) for v in np.exp(rng.uniform(1, 7.3, 2))) for _ in range(40)]
    result = []
    for height, width in shapes:
        row = {"height": height, "width": width}
        for name, choose in (("gemma4", lambda: get_aspect_ratio_preserving_size(height, width, 16, 280 * 9, 3)),
                             ("qwen2_vl", lambda: smart_resize(height, width, 32, 65536, 16777216)),
                             ("qwen2_vl_tight", lambda: smart_resize(height, width, 32, 3072, 65536))):
            try:
                row[name] = [side // 16 for side in choose()]
            except ValueError:
                row[name] = None
        result.append(row)
    return result


def main():
    for folder in (OUT, SEEDS):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    files, refused = pictures()
    golden = {"pictures": {}, "sizes": sizes()}
    for name, data in files.items():
        (OUT / name).write_bytes(data)
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        golden["pictures"][name] = {"width": image.width, "height": image.height,
                                    "rgb_sha256": hashlib.sha256(image.tobytes()).hexdigest()}
    for name, data in refused.items():
        (OUT / name).write_bytes(data)
    (OUT / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    for name in ("palette4.png", "rgb_interlaced.png", "rgba16.png", "turned6.png", "rgb420.jpg", "progressive.jpg",
                 "cmyk.jpg", "turned2.jpg", "lossy_alpha.webp", "lossless.webp", "turned5.webp", "animation.webp"):
        (SEEDS / name).write_bytes((files | refused)[name])
    # A chunk that claims 687 MB.
    claimed = bytearray(files["turned6.png"])
    claimed[claimed.index(b"eXIf") - 4] = 0x29
    (SEEDS / "claimed_exif.png").write_bytes(claimed)


if __name__ == "__main__":
    main()
