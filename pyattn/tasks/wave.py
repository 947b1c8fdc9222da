"""The WAV format: its chunks, and the ways in which samples are stored."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

# No sound for a model has another rate; the bounds keep memory and work in proportion to the input.
MIN_RATE, MAX_RATE = 1000, 768000

ACCEPTED = (
    "accepted are WAV files (RIFF, RIFX, RF64, BW64) of integers of up to 32 bits, floats of 32 or 64, A-law, mu-law, "
    f"of {MIN_RATE} to {MAX_RATE} samples a second; `ffmpeg -i IN -c:a pcm_s16le OUT.wav` makes one of almost any sound"
)

# The byte order of a file, by its first four bytes
_ORDERS = {b"RIFF": "<", b"RIFX": ">", b"RF64": "<", b"BW64": "<"}
_LONG = (b"RF64", b"BW64")  # lengths have 64 bits, in a chunk of their own

_INTEGERS, _FLOATS, _A_LAW, _MU_LAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_UNKNOWN = 0xFFFFFFFF

# The rest of a format's GUID in WAVE_FORMAT_EXTENSIBLE: that of ordinary formats, and that of Ambisonics.
_SUBFORMATS = ((0, 16, b"\x80\x00\x00\xaa\x00\x38\x9b\x71"), (0x721, 0x11D3, b"\x86\x44\xc8\xc1\xca\x00\x00\x00"))

# Formats that occur in WAV files and are not read here
_NAMES = {
    2: "Microsoft ADPCM",
    0x11: "IMA ADPCM",
    0x31: "GSM 6.10",
    0x38: "NMS ADPCM",
    0x40: "G.721 ADPCM",
    0x45: "G.726 ADPCM",
    0x50: "MPEG",
    0x55: "MP3",
    0xFF: "AAC",
    0x161: "Windows Media Audio",
    0x2000: "AC-3",
    0xF1AC: "FLAC",
}

_Refused = Callable[[str], ValueError]


@dataclass(frozen=True)
class _Form:
    """The contents of the chunk "fmt ": the format, the channels, their rate, and the bytes of a sample."""

    format: int
    channels: int
    rate: int
    bytes: int
    may_be_padded: bool  # blocks have 4 bytes for each channel, but samples have 24 bits


def decode(data: bytes, refused: _Refused) -> tuple[Samples, int]:
    """The samples of a WAV file, its channels averaged, and its rate: the same samples as libsndfile reads.

    Args:
        data: the whole file.
        refused: makes the error from a phrase that says what was seen.
    """
    order = _ORDERS.get(data[:4])
    if order is None or data[8:12] != b"WAVE":
        raise refused("is not a WAV file" if data else "is empty")
    (whole,) = struct.unpack_from(order + "I", data, 4)
    long_sizes: tuple[int, int] | None = None
    form: _Form | None = None
    place = 12
    while True:
        if place + 8 > len(data):
            raise refused("has no samples: it ends before them")
        name, size = struct.unpack_from(order + "4sI", data, place)
        place += 8
        if name == b"data":
            break
        if name == b"fmt " and form is None:
            form = _form(data[place : place + min(size, 40)], order, refused)
        elif name == b"ds64" and data[:4] in _LONG and size >= 16 and place + 16 <= len(data):
            long_sizes = struct.unpack_from("<QQ", data, place)
        if name == b"fact":
            size = max(size, 4)  # some files say 0
        place += size + size % 2
    if form is None:
        raise refused("does not say how its samples are stored")
    if long_sizes is not None:
        whole, size = long_sizes

    present = len(data) - place
    # A writer that could not seek, or was stopped, leaves the length open, or gives more than there is.
    if size == 0 and (whole + 8 <= place or whole == _UNKNOWN):
        size = present
    stored = memoryview(data)[place : place + min(size, present)]
    if bytes(stored[:4]) in (b"OggS", b"wvpk"):
        raise refused("holds another file, of Ogg or WavPack, instead of samples")
    samples = _samples(stored, form, order)
    if not len(samples):
        raise refused("has no samples")
    with np.errstate(over="ignore", invalid="ignore"):
        mono = samples[:, 0] if form.channels == 1 else samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise refused("has samples that are NaN or infinite as float32")
    return mono, form.rate


def _form(chunk: bytes, order: str, refused: _Refused) -> _Form:
    if len(chunk) < 16:
        raise refused("does not say how its samples are stored")
    format_, channels, rate, _, block, bits = struct.unpack_from(order + "HHIIHH", chunk)
    may_be_padded = format_ == _INTEGERS and bits == 24 and block == 4 * channels
    if format_ == _EXTENSIBLE:
        if len(chunk) < 40:
            raise refused("does not say how its samples are stored: its format is an extensible one, cut short")
        format_, *rest = struct.unpack_from(order + "IHH8s", chunk, 24)
        if tuple(rest) not in _SUBFORMATS:
            raise refused(f"has samples of an unknown format, {chunk[24:40].hex()}")
    width = 1 if format_ in (_A_LAW, _MU_LAW) else -(-bits // 8)  # samples are left-justified in whole bytes
    if width not in {_INTEGERS: (1, 2, 3, 4), _FLOATS: (4, 8), _A_LAW: (1,), _MU_LAW: (1,)}.get(format_, ()):
        called = f" ({_NAMES[format_]})" if format_ in _NAMES else ""
        raise refused(f"has samples of format {format_}{called} with {bits} bits")
    if channels == 0:
        raise refused("has 0 channels")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise refused(f"has {rate} samples a second")
    return _Form(format_, channels, rate, width, may_be_padded)


def _samples(stored: memoryview, form: _Form, order: str) -> Samples:
    """(n, channels) float32, the whole frames; integers are scaled to [-1, 1)."""
    width = form.bytes
    if form.may_be_padded and _fills_four_bytes(np.frombuffer(stored[: len(stored) // 4 * 4], order + "i4")):
        width = 4
    frame = width * form.channels
    stored = stored[: len(stored) // frame * frame]
    numbers: NDArray[Any]
    if form.format in (_A_LAW, _MU_LAW):
        samples = (_a_law() if form.format == _A_LAW else _mu_law())[np.frombuffer(stored, np.uint8)]
    elif form.format == _FLOATS:
        numbers = np.frombuffer(stored, f"{order}f{width}")
        with np.errstate(over="ignore"):
            samples = numbers.astype(np.float32)
    elif width == 3:
        widened = np.zeros((len(stored) // 3, 4), np.uint8)
        (widened[:, 1:] if order == "<" else widened[:, :3])[:] = np.frombuffer(stored, np.uint8).reshape(-1, 3)
        samples = from_integers(widened.view(order + "i4")[:, 0])
    else:
        samples = from_integers(np.frombuffer(stored, "u1" if width == 1 else f"{order}i{width}"))
    return samples.reshape(-1, form.channels)


def _fills_four_bytes(numbers: NDArray[Any]) -> bool:
    """Whether samples of 24 bits are stored in four bytes each, at the left or at the right, as arecord writes them.

    Other programs announce such blocks, but store three bytes for a sample.
    """
    low = numbers & 0xFF
    fits = not low.any() or ((numbers >= -(2**23)) & (numbers < 2**23)).all()
    return bool(numbers.size and fits)


def from_integers(numbers: NDArray[Any]) -> Samples:
    """Integers of 8 (unsigned), 16 or 32 bits as float32 in [-1, 1)."""
    samples = numbers.astype(np.float32)
    if numbers.itemsize == 1:
        samples -= 128
    samples *= 2.0 ** (1 - 8 * numbers.itemsize)
    return samples


def _a_law() -> Samples:
    """ITU-T G.711: the sample of each byte."""
    code = np.arange(256) ^ 0x55
    exponent, mantissa = code >> 4 & 7, (code & 15) << 4
    size = np.where(exponent == 0, mantissa + 8, (mantissa + 0x108) << np.maximum(exponent - 1, 0))
    return (np.where(code & 0x80, size, -size) / 32768).astype(np.float32)


def _mu_law() -> Samples:
    """ITU-T G.711: the sample of each byte."""
    code = ~np.arange(256) & 0xFF
    size = (((code & 15) << 3) + 0x84 << (code >> 4 & 7)) - 0x84
    return (np.where(code & 0x80, -size, size) / 32768).astype(np.float32)
