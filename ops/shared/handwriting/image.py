"""From a picture's bytes to the line the network sees: the same function in preprocess, training and serving.

Pillow decodes (it tells a truncated file from a whole one and heeds EXIF), OpenCV scales.
"""

import io
import struct
import threading
import warnings
import zlib
from contextlib import nullcontext
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from handwriting.errors import ConfigError, ImageError

WHITE = 255
PAPER_PERCENTILE, INK_PERCENTILE = 75, 1
LEAST_CONTRAST = 32  # grey levels between paper and ink; below it a blank picture's noise would be blown up to ink
FAINT = 192  # grey level from which on nothing counts as ink, not even the trace of a pale pen
PADDED = 32  # px to a multiple of which lines are filled up with paper for the network, in training and in serving
MARGIN = 0.125  # of the height: blank paper that a line keeps at both ends, where its picture has it
UNTRIMMED = 2  # last version of ImageConfig whose lines keep all blank paper
ALIKE = {UNTRIMMED, 3}  # versions whose lines differ in nothing else, so that a bundle of one can read those of another
LARGE = 4_000_000  # pixels beyond which pictures are decoded one by one: several at a time would end a pod of 2 GiB
SCANNED = 10**10  # pixels in all scans of a progressive JPEG, some seconds of a core; people's have 10 scans
TURNS = dict(enumerate([  # by the value of EXIF's orientation; 1 is upright
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90], 2))
# pictures that people make; Pillow would hand others, such as PostScript, to programs of the system
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000")
# what Pillow's codecs raise on damaged files
DAMAGED = (OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
           RuntimeError, MemoryError, struct.error, zlib.error)

_one_large = threading.Lock()


@dataclass(frozen=True)
class ImageConfig:
    """How pictures become lines.

    Attributes:
        height: Height of a line in px.
        squeeze: Width of a line, as a share of what its picture's aspect gives: a narrower line takes less time to
            learn and to read, as long as each letter keeps some time steps.
        max_width: Widest line in px.
        min_side: Smallest usable side of a picture in px.
        max_pixels: Most pixels of a picture; beyond it decoding would cost too much memory.
        version: Part of a dataset's identity; raised here when the same bytes give other pixels than before. A bundle
            or dataset keeps the one that made its lines.
    """

    height: int = 64
    squeeze: float = 1.0
    max_width: int = 3400
    min_side: int = 8
    max_pixels: int = 50_000_000
    version: int = 3

    def __post_init__(self) -> None:
        if self.height % 16 or not 16 <= self.height <= 256:
            raise ConfigError(f"height {self.height} px: give a multiple of 16 from 16 to 256")
        if not 0.25 <= self.squeeze <= 2:
            raise ConfigError(f"squeeze {self.squeeze}: give 0.25 to 2; 1 keeps a picture's aspect")
        if self.max_width < self.height or self.min_side < 2 or self.max_pixels < 1:
            raise ConfigError(f"image bounds make no sense: {self}")


def read_line(data: bytes, config: ImageConfig) -> np.ndarray:
    """Decodes and scales one picture.

    Args:
        data: PNG, JPEG or any other picture file that Pillow reads; of an animation the first frame counts.
        config: Height and bounds.

    Returns:
        uint8 [height, width], paper about 255, ink towards 0.

    Raises:
        ImageError: With the reason "empty", "not a picture", "truncated", "too large", "too small" or "too wide".
    """
    line = normalize(scale(decode(data, config), config))
    return line if config.version <= UNTRIMMED else trim(line)


def decode(data: bytes, config: ImageConfig) -> np.ndarray:
    """Decodes a picture to uint8 grey [H, W], upright, transparent parts white. Raises as `read_line` does."""
    if not data:
        raise ImageError("empty", "the picture has 0 bytes; upload it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning)  # oddities of metadata that do not touch pixels
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_size(picture.width, picture.height, config)
            _check_scans(picture, data)
            with _one_large if picture.width * picture.height > LARGE else nullcontext():
                return _grey(upright(picture))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too large", f"{error}; send a smaller picture") from error
    except UnidentifiedImageError as error:
        raise ImageError("not a picture", "the bytes are no picture that can be read; send PNG or JPEG") from error
    except DAMAGED as error:
        raise ImageError("truncated", f"the picture is damaged or cut off ({error}); upload it again") from error


def _check_size(width: int, height: int, config: ImageConfig) -> None:
    if width * height > config.max_pixels:
        raise ImageError("too large", f"{width} x {height} px is over {config.max_pixels} pixels; send a smaller one")
    if min(width, height) < config.min_side:
        raise ImageError("too small", f"{width} x {height} px: a line needs {config.min_side} px a side; scan larger")


def _check_scans(picture: Image.Image, data: bytes) -> None:
    """A scan may have 12 bytes and yet touch each pixel: a million of them would take an hour.

    Some more are counted than there are, where a phone has hung a film on its photo; but never so many.
    """
    scans = data.count(b"\xff\xda") if data.startswith(b"\xff\xd8") else 0
    if scans * picture.width * picture.height > SCANNED:
        raise ImageError("too large", f"{picture.width} x {picture.height} px in {scans} scans take too long; "
                         "save the picture anew, not progressive")


def upright(picture: Image.Image) -> Image.Image:
    """Turns a picture as its EXIF says; ImageOps would write the EXIF anew as well, which fails on odd tags."""
    picture.load()  # some formats turn their pictures themselves
    turn = TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    return picture if turn is None else picture.transpose(turn)


def _grey(picture: Image.Image) -> np.ndarray:
    """Converts any mode to uint8 grey; 16-bit and float pictures are scaled, not clipped."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture, dtype=np.float32))
        top = next((top for top in (1.0, float(WHITE)) if values.max(initial=0) <= top), 65535.0)
        return (np.clip(values, 0, top) * (WHITE / top)).astype(np.uint8)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, picture)
    return np.asarray(picture.convert("L"))


def scale(grey: np.ndarray, config: ImageConfig, squeezed: float = 1.0) -> np.ndarray:
    """Scales uint8 [H, W] to the height of a line, and squeezes it.

    Args:
        grey: A picture, or a line.
        config: Height and bounds.
        squeezed: How far it is squeezed already.

    Raises:
        ImageError: "too wide" where the line would pass `max_width`.
    """
    square = config.height * config.squeeze / squeezed  # width in px of what is as wide as high
    width = max(config.min_side, round(grey.shape[1] * square / grey.shape[0]))
    if width > config.max_width:
        raise ImageError("too wide", f"{grey.shape[1]} x {grey.shape[0]} px is wider than "
                         f"{config.max_width / square:.0f} times its height; cut it to one line of writing")
    shrinks = config.height < grey.shape[0]
    return cv2.resize(grey, (width, config.height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def normalize(grey: np.ndarray) -> np.ndarray:
    """Stretches grey levels so that paper is white and ink black, whatever the scanner, lamp or pen: uint8 [H, W]."""
    if _light_on_dark(grey):
        grey = WHITE - grey
    ink, paper = percentiles(grey, (INK_PERCENTILE, PAPER_PERCENTILE))
    contrast = max(float(paper - ink), LEAST_CONTRAST)
    levels = np.arange(WHITE + 1, dtype=np.float32)
    return cv2.LUT(grey, np.clip((levels - (paper - contrast)) * (WHITE / contrast), 0, WHITE).astype(np.uint8))


def _light_on_dark(grey: np.ndarray) -> bool:
    """Tells chalk on a board from a dim photo of paper: strokes are the few pixels far from what surrounds them."""
    rest = grey.astype(np.float32) - cv2.blur(grey, (len(grey), len(grey))).astype(np.float32)
    return float((rest * rest * rest).mean()) > 0


def trim(line: np.ndarray) -> np.ndarray:
    """Cuts blank paper off both ends of a line, uint8 [height, width]: it takes as long to read as letters do.

    A line without ink stays as it is.
    """
    inked = np.flatnonzero((line < FAINT).any(axis=0))
    if not len(inked):
        return line
    margin = round(MARGIN * len(line))
    return np.ascontiguousarray(line[:, max(0, inked[0] - margin):inked[-1] + 1 + margin])


def percentiles(grey: np.ndarray, wanted: tuple[float, ...]) -> np.ndarray:
    """Returns what np.percentile does, to the last bit, by counting: a fifth of its time on uint8."""
    below = np.cumsum(np.bincount(grey.ravel(), minlength=WHITE + 1))
    found = []
    for percent in wanted:
        place = percent / 100 * (grey.size - 1)
        share = place - int(place)
        low, high = (float(np.searchsorted(below, index, "right")) for index in (int(place), int(np.ceil(place))))
        found.append(high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share)
    return np.array(found)


def to_input(line: np.ndarray) -> np.ndarray:
    """Turns uint8 [..., height, width] into the network's float32: paper 0, ink 1, so that padding is zero."""
    return (WHITE - line).astype(np.float32) / WHITE
