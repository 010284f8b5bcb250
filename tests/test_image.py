import io
import random
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import drawing, encoded
from PIL import Image, ImageOps

from handwriting import image
from handwriting.errors import ConfigError, ImageError
from handwriting.image import ImageConfig, decode, normalize, percentiles, read_line, scale, to_input

CONFIG = ImageConfig(height=64)
ROTATED = Image.Exif()
ROTATED[274] = 6  # turn a quarter to the right to see it upright
ROTATED[270] = "a description"
ROTATED[282] = 1.5


def reason(data, config=CONFIG):
    with pytest.raises(ImageError) as caught:
        read_line(data, config)
    return caught.value.reason


def grey(data):
    return decode(data, CONFIG).astype(int)


def header_only_png(width, height):
    """A PNG that says how large it is and holds nearly nothing."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(1000))),
              (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks)


def rgba(ink):
    """Strokes of some colour on a ground that cannot be seen, whose colour is black."""
    picture = Image.new("RGBA", (320, 48), (0, 0, 0, 0))
    picture.paste(ink, mask=Image.eval(drawing(), lambda value: 255 - value))
    return picture


def samples():
    """One picture file of each kind that people send."""
    line = drawing(size=(120, 40))
    animation = {"save_all": True, "append_images": [drawing(1, (120, 40))]}
    return {
        "png": encoded(line, exif=ROTATED), "png16": encoded(Image.fromarray(np.asarray(line).astype(np.uint16) * 257)),
        "palette": encoded(line.convert("P"), transparency=0), "jpeg": encoded(line, "JPEG", exif=ROTATED),
        "cmyk": encoded(line.convert("CMYK"), "JPEG"), "gif": encoded(line, "GIF", **animation),
        "webp": encoded(line, "WEBP", **animation), "tiff": encoded(line.convert("F"), "TIFF"),
        "bmp": encoded(line, "BMP"), "avif": encoded(line, "AVIF"),
    }


def test_the_drawn_picture_is_read():
    line = read_line(encoded(drawing()), CONFIG)
    assert line.dtype == np.uint8 and line.shape == (64, round(320 * 64 / 48) - 2)  # trimmed
    assert line.min() == 0 and np.median(line) == 255


@pytest.mark.parametrize("data, expected", [
    (b"", "empty"),
    (b"Not a picture, but a letter.\n" * 20, "not a picture"),
    (bytes(1000), "not a picture"),
    (encoded(drawing(size=(1, 1))), "too small"),
    (encoded(drawing(size=(320, 48)).resize((320, 7))), "too small"),
    (encoded(drawing(size=(320, 48)).resize((7, 48))), "too small"),
    (encoded(drawing(size=(20_000, 60))), "too wide"),
    (header_only_png(8_000, 8_000), "too large"),  # over our own bound
    (header_only_png(10_000, 10_000), "too large"),  # over the bound from which Pillow warns
    (header_only_png(60_000, 60_000), "too large"),  # over the bound from which Pillow refuses
    (header_only_png(400, 60), "truncated"),
], ids=["empty", "text", "zeros", "pixel", "low", "narrow", "20000-px", "bomb", "bomb-warning", "bomb-error", "hollow"])
def test_bad_pictures_are_refused_with_their_reason(data, expected):
    assert reason(data) == expected


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.98])
def test_cut_off_pictures_are_refused(file_format, share):
    data = encoded(drawing(size=(640, 96)), file_format)
    assert reason(data[:int(len(data) * share)]) == "truncated"


def test_a_cut_never_changes_pixels_unseen():
    whole = encoded(drawing())
    for cut in range(1, 60):
        try:
            np.testing.assert_array_equal(grey(whole[:-cut]), grey(whole))
        except ImageError as error:
            assert error.reason == "truncated" and cut > 12  # the end marker holds no pixel


def test_pictures_cut_within_their_header_are_no_pictures():
    assert {reason(encoded(drawing(), kind)[:12]) for kind in ("PNG", "JPEG")} <= {"not a picture", "truncated"}


def test_a_jpeg_of_scans_without_end_is_refused_and_one_of_some_is_read():
    """Each scan of 12 bytes touches all pixels: these 10,000 took 38 s of a core, and a million fit into a request."""
    data = encoded(Image.new("L", (7000, 7000), 200), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    scan = data[start:start + 2 + int.from_bytes(data[start + 2:start + 4], "big")]
    began = time.monotonic()
    assert reason(data[:-2] + scan * 10_000 + data[-2:]) == "too large"
    assert time.monotonic() - began < 5
    assert read_line(data[:-2] + scan * 20 + data[-2:], CONFIG).shape == (64, 64)


def test_a_film_behind_a_photo_counts_as_no_scans_too_many():
    photo = encoded(drawing(size=(4000, 1000)), "JPEG", progressive=True)
    assert read_line(photo + random.Random(0).randbytes(8 * 2**20), CONFIG).shape == (64, 256)


def test_a_large_picture_of_one_line_is_read():
    assert read_line(encoded(drawing(size=(20_000, 600))), CONFIG).shape == (64, 2133)


def test_large_pictures_are_decoded_one_by_one_and_others_beside_each_other(monkeypatch):
    running, most = [], []

    def counted(picture):
        running.append(picture)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()
        return np.full((64, 320), 255, np.uint8)
    monkeypatch.setattr(image, "_grey", counted)

    def read(size):
        most.clear()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda data: read_line(data, CONFIG), [encoded(drawing(size=size))] * 4))
        return max(most)
    assert read((4000, 1001)) == 1
    assert read((320, 48)) > 1


@pytest.mark.parametrize("name", samples())
def test_random_damage_gives_a_line_or_an_image_error(name):
    rng, source = random.Random(name), samples()[name]
    for _ in range(200):
        data = bytearray(source)
        for _ in range(rng.choice([1, 1, 2, 4, 16])):
            place = rng.randrange(rng.choice([len(data), min(len(data), 120)]))  # headers are hit more often
            data[place] = rng.choice([0, 127, 255, rng.randrange(256)])
        try:
            line = read_line(bytes(data), CONFIG)
            assert line.shape[0] == 64 and line.dtype == np.uint8
        except ImageError as error:
            assert error.reason and str(error)
    assert read_line(source, CONFIG).shape[0] == 64


@pytest.mark.parametrize("kind", range(16))
def test_an_odd_tag_in_the_exif_does_not_touch_the_pixels(kind):
    exif = Image.Exif()
    exif[274], exif[296] = 6, 2
    data = encoded(drawing(), "JPEG", exif=exif)
    odd = data.replace(b"\x01\x28\x00\x03", bytes([1, 0x28, 0, kind]))
    assert kind == 3 or odd != data
    np.testing.assert_array_equal(grey(odd), grey(data))


def test_cmyk_and_rgb_jpeg_look_alike():
    both = [grey(encoded(drawing().convert(mode), "JPEG", quality=95)) for mode in ("CMYK", "RGB")]
    assert np.abs(both[0] - both[1]).mean() < 3


def test_16_bit_grey_levels_are_scaled_not_clipped():
    levels = np.linspace(0, 65535, 256).astype(np.uint16)
    picture = Image.fromarray(np.tile(levels, (16, 1)))
    assert np.abs(grey(encoded(picture))[0] - np.arange(256)).max() <= 1


@pytest.mark.parametrize("top", [1, 255, 65535])
def test_float_grey_levels_are_scaled_from_their_range(top):
    picture = Image.fromarray(np.tile(np.linspace(0, top, 256, dtype=np.float32), (16, 1)))
    assert np.abs(grey(encoded(picture, "TIFF"))[0] - np.arange(256)).max() <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_float_pictures_with_strange_numbers_are_read(value):
    levels = np.full((16, 64), 200, np.float32)
    levels[3, [0, 63]] = value
    assert read_line(encoded(Image.fromarray(levels), "TIFF"), CONFIG).shape == (64, 256)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_pictures_are_turned_as_exif_says(file_format, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(drawing(), file_format, exif=exif, **({} if file_format in ("PNG", "TIFF") else {"quality": 95}))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("L"))
    assert upright.shape == ((320, 48) if 5 <= orientation <= 8 else (48, 320))
    np.testing.assert_array_equal(grey(data), upright)


def test_a_picture_that_lies_on_its_side_is_read_upright():
    lying = encoded(drawing().transpose(Image.Transpose.ROTATE_90), exif=ROTATED)
    np.testing.assert_array_equal(read_line(lying, CONFIG), read_line(encoded(drawing()), CONFIG))


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(file_format):
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(drawing(1), file_format, save_all=True, append_images=[drawing(2), drawing(3)], **options)
    assert np.abs(grey(data) - np.asarray(drawing(1))).max() <= 1


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_transparent_ground_is_white_paper_under_black_ink(file_format):
    data = encoded(rgba("black"), file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    assert np.abs(grey(data) - np.asarray(drawing())).max() <= 1


def test_palette_pictures_have_the_levels_of_their_colours():
    palette = drawing().convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.abs(grey(encoded(palette)) - np.asarray(drawing())).max() <= 1


def test_a_transparent_palette_colour_is_white_paper():
    picture = drawing(paper=0, ink=1).convert("P")
    picture.putpalette([0, 0, 0, 10, 10, 10] + [0] * 762)  # black ground, nearly black ink
    data = encoded(picture, transparency=0)
    assert set(np.unique(grey(data))) == {10, 255}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "YCbCr", "I", "I;16", "F"])
def test_every_mode_gives_the_same_line(mode):
    file_format = "TIFF" if mode in ("CMYK", "YCbCr", "I", "F") else "PNG"
    picture = drawing()
    picture = Image.fromarray(np.asarray(picture).astype(np.uint16)) if mode == "I;16" else picture.convert(mode)
    line = read_line(encoded(picture, file_format), CONFIG)
    assert np.abs(line.astype(int) - read_line(encoded(drawing()), CONFIG)).max() <= 2


@pytest.mark.parametrize("paper, ink", [(0, 255), (60, 200), (140, 230), (110, 30), (100, 55)])
def test_light_writing_on_a_dark_ground_is_turned_into_ink_on_paper_and_a_dim_photo_is_not(paper, ink):
    expected = read_line(encoded(drawing()), CONFIG).astype(int)
    assert np.abs(read_line(encoded(drawing(paper=paper, ink=ink)), CONFIG).astype(int) - expected).mean() < 2


def test_a_dim_photo_in_uneven_light_keeps_dark_ink_on_lighter_paper():
    picture = np.asarray(drawing(paper=130, ink=50)) * np.linspace(0.4, 1.6, 320)[None]
    assert np.median(normalize(picture.astype(np.uint8))) > 127


@pytest.mark.parametrize("paper, ink", [(200, 60), (150, 20), (255, 130), (180, 120)])
def test_grey_paper_and_pale_ink_look_like_black_on_white(paper, ink):
    white = normalize(np.asarray(drawing())).astype(int)
    assert np.abs(normalize(np.asarray(drawing(paper=paper, ink=ink))).astype(int) - white).max() <= 1


@pytest.mark.parametrize("level", [255, 200, 130])
def test_a_blank_page_stays_blank(level):
    noise = np.random.default_rng(0).integers(-3, 1, (48, 320)) + level
    assert normalize(noise.astype(np.uint8)).min() > 200


def beside(picture: Image.Image, left: int, right: int, paper: int = 255) -> Image.Image:
    """Puts blank paper to both sides of a picture, px."""
    return ImageOps.expand(picture, (left, 0, right, 0), paper)


@pytest.mark.parametrize("paper, ink", [(255, 0), (90, 200)])
@pytest.mark.parametrize("left, right", [(0, 300), (300, 0), (200, 1000)])
def test_blank_paper_at_the_ends_of_a_line_makes_no_difference(left, right, paper, ink):
    writing = drawing(size=(320, 64), paper=paper, ink=ink)
    lines = [read_line(encoded(one), CONFIG) for one in (writing, beside(writing, left, right, paper))]
    inked = [np.flatnonzero((line < 128).any(axis=0)) for line in lines]
    np.testing.assert_array_equal(*(line[:, columns[0]:columns[-1] + 1] for line, columns in zip(lines, inked)))
    assert all(line.shape[1] - columns[-1] <= 10 and columns[0] <= 10 for line, columns in zip(lines, inked))
    assert inked[1][0] == 8 or not left


def test_a_pale_full_stop_is_no_blank_paper():
    writing = beside(drawing(size=(320, 64), paper=230, ink=20), 0, 580, paper=230)
    stopped = writing.copy()
    stopped.paste(150, (600, 50, 602, 52))
    assert [read_line(encoded(one), CONFIG).shape[1] for one in (writing, stopped)] == [pytest.approx(320, abs=10), 610]


def test_a_blank_page_stays_whole():
    assert read_line(encoded(Image.new("L", (640, 64), 250)), CONFIG).shape == (64, 640)


def test_what_was_trained_before_there_was_trimming_reads_lines_as_then():
    picture = encoded(beside(drawing(size=(320, 64)), 100, 580))
    assert read_line(picture, ImageConfig(height=64, version=2)).shape == (64, 1000)


@pytest.mark.parametrize("size", [(640, 96), (320, 48), (90, 200), (1000, 33), (64, 64), (8, 3000)])
@pytest.mark.parametrize("height", [32, 64])
@pytest.mark.parametrize("squeeze", [0.75, 1.0])
def test_scaling_gives_the_height_and_the_squeezed_aspect(size, height, squeeze):
    line = scale(np.asarray(drawing(size=size)), ImageConfig(height=height, squeeze=squeeze))
    assert line.shape == (height, max(8, round(size[0] * squeeze * height / size[1])))


@pytest.mark.parametrize("squeeze, widest, wider, times", [(1.0, 640, 641, 10), (0.5, 1280, 1282, 20)])
def test_the_widest_line_is_read_and_one_pixel_more_is_not(squeeze, widest, wider, times):
    config = ImageConfig(height=64, squeeze=squeeze, max_width=640)
    assert scale(np.full((64, widest), 255, np.uint8), config).shape == (64, 640)
    with pytest.raises(ImageError, match=f"{times} times its height"):
        scale(np.full((64, wider), 255, np.uint8), config)


def test_a_line_squeezed_already_is_squeezed_only_as_far_as_it_is_not_yet():
    line = np.full((64, 300), 255, np.uint8)
    assert scale(line, ImageConfig(height=64, squeeze=0.75), squeezed=0.75).shape == (64, 300)
    assert scale(line, ImageConfig(height=32, squeeze=1.0), squeezed=0.75).shape == (32, 200)


def test_input_is_ink_on_nothing_so_that_padding_is_paper():
    line = np.array([[255, 0, 51]], np.uint8)
    assert to_input(line).dtype == np.float32
    np.testing.assert_allclose(to_input(line), [[0, 1, 0.8]], atol=1e-6)


@pytest.mark.parametrize("bounds", [{"height": 60}, {"height": 0}, {"height": 512}, {"max_width": 47}, {"min_side": 1},
                                    {"max_pixels": 0}, {"squeeze": 0}, {"squeeze": 3}])
def test_bounds_out_of_range_are_refused(bounds):
    with pytest.raises(ConfigError):
        ImageConfig(**bounds)


@pytest.mark.parametrize("seed", range(5))
def test_percentiles_by_counting_are_those_of_numpy(seed):
    rng = np.random.default_rng(seed)
    for size in ((1, 1), (3, 7), (48, 333)):
        grey = rng.integers(0, 256, size, dtype=np.uint8)
        wanted = (0, 1, 50, 75, 99.5, 100)
        assert percentiles(grey, wanted).tolist() == np.percentile(grey, wanted).tolist()
