"""The WAV format: its chunks, and the ways in which samples are stored."""

import struct
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

_INTEGERS, _FLOATS, _A_LAW, _MU_LAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
# The types of samples, by the format and their bytes; those of three bytes are read byte by byte.
_TYPES = {
    _INTEGERS: {1: "u1", 2: "i2", 3: "u1", 4: "i4"},
    _FLOATS: {4: "f4", 8: "f8"},
    _A_LAW: {1: "u1"},
    _MU_LAW: {1: "u1"},
}

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


class _Form:
    """The contents of the chunk "fmt "."""

    def __init__(self, chunk: bytes, order: str) -> None:
        if len(chunk) < 16:
            raise ValueError("does not say how its samples are stored")
        self.order = order
        self.format, self.channels, self.rate, _, block, bits = struct.unpack_from(order + "HHIIHH", chunk)
        # Samples have 24 bits, but blocks have 4 bytes for each channel.
        self.may_be_padded = self.format == _INTEGERS and bits == 24 and block == 4 * self.channels
        if self.format == _EXTENSIBLE:
            if len(chunk) < 40:
                raise ValueError("does not say how its samples are stored: its format is an extensible one, cut short")
            self.format, *rest = struct.unpack_from(order + "IHH8s", chunk, 24)
            if tuple(rest) not in _SUBFORMATS:
                raise ValueError(f"has samples of an unknown format, {chunk[24:40].hex()}")
        # Samples are left-justified in whole bytes.
        self.width = 1 if self.format in (_A_LAW, _MU_LAW) else -(-bits // 8)
        if self.width not in _TYPES.get(self.format, ()):
            called = f" ({_NAMES[self.format]})" if self.format in _NAMES else ""
            raise ValueError(f"has samples of format {self.format}{called} with {bits} bits")
        if self.channels == 0:
            raise ValueError("has 0 channels")
        if not MIN_RATE <= self.rate <= MAX_RATE:
            raise ValueError(f"has {self.rate} samples a second")

    def samples(self, stored: memoryview) -> Samples:
        """(n, channels) float32, the whole frames; integers are scaled to [-1, 1)."""
        width, order = self.width, self.order
        if self.may_be_padded:  # as arecord stores them, at the left or at the right; other programs only announce it
            fours = np.frombuffer(stored[: len(stored) // 4 * 4], order + "i4")
            if fours.size and (not (fours & 0xFF).any() or ((fours >= -(2**23)) & (fours < 2**23)).all()):
                width = 4
        frame = width * self.channels
        stored = stored[: len(stored) // frame * frame]
        numbers: NDArray[Any] = np.frombuffer(stored, order + _TYPES[self.format][width])
        samples: Samples
        if self.format in (_A_LAW, _MU_LAW):
            samples = _companded(self.format)[numbers]
        elif self.format == _FLOATS:
            with np.errstate(over="ignore", invalid="ignore"):
                samples = numbers.astype(np.float32)
        else:
            if width == 3:
                widened = np.zeros((len(numbers) // 3, 4), np.uint8)
                (widened[:, 1:] if order == "<" else widened[:, :3])[:] = numbers.reshape(-1, 3)
                numbers = widened.view(order + "i4")[:, 0]
            samples = from_integers(numbers)
        return samples.reshape(-1, self.channels)


def decode(data: bytes) -> tuple[Samples, int]:
    """The samples of a WAV file, its channels averaged, and its rate: the same samples as libsndfile reads.

    Raises:
        ValueError: it is none that is accepted; the message says what was seen, and continues the file's name.
    """
    order = _ORDERS.get(data[:4])
    if order is None or data[8:12] != b"WAVE":
        raise ValueError("is not a WAV file" if data else "is empty")
    (whole,) = struct.unpack_from(order + "I", data, 4)
    long_sizes: tuple[int, int] | None = None
    form: _Form | None = None
    place = 12
    while True:
        if place + 8 > len(data):
            raise ValueError("has no samples: it ends before them")
        name, size = struct.unpack_from(order + "4sI", data, place)
        place += 8
        if name == b"data":
            break
        if name == b"fmt " and form is None:
            form = _Form(data[place : place + min(size, 40)], order)
        elif name == b"ds64" and data[:4] in (b"RF64", b"BW64") and size >= 16 and place + 16 <= len(data):
            long_sizes = struct.unpack_from("<QQ", data, place)
        if name == b"fact":
            size = max(size, 4)  # some files say 0
        place += size + size % 2
    if form is None:
        raise ValueError("does not say how its samples are stored")
    if long_sizes is not None:
        whole, size = long_sizes

    present = len(data) - place
    # A writer that could not seek, or was stopped, leaves the length open, or gives more than there is.
    if size == 0 and (whole + 8 <= place or whole == 0xFFFFFFFF):
        size = present
    stored = memoryview(data)[place : place + min(size, present)]
    if bytes(stored[:4]) in (b"OggS", b"wvpk"):
        raise ValueError("holds another file, of Ogg or WavPack, instead of samples")
    samples = form.samples(stored)
    if not len(samples):
        raise ValueError("has no samples")
    with np.errstate(over="ignore", invalid="ignore"):
        mono = samples[:, 0] if form.channels == 1 else samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise ValueError("has samples that are NaN or infinite as float32")
    return mono, form.rate


def from_integers(numbers: NDArray[Any]) -> Samples:
    """Integers of 8 (unsigned), 16 or 32 bits as float32 in [-1, 1)."""
    samples = numbers.astype(np.float32)
    if numbers.itemsize == 1:
        samples -= 128
    samples *= 2.0 ** (1 - 8 * numbers.itemsize)
    return samples


def _companded(format_: int) -> Samples:
    """ITU-T G.711, A-law or mu-law: the sample of each byte."""
    code = np.arange(256) ^ (0x55 if format_ == _A_LAW else 0xFF)
    exponent, mantissa = code >> 4 & 7, code & 15
    if format_ == _A_LAW:
        size = (mantissa << 4) + np.where(exponent, 0x108, 8) << np.maximum(exponent - 1, 0)
    else:
        size = 0x84 - ((mantissa << 3) + 0x84 << exponent)  # its bit of the sign is the other way round
    samples: Samples = (np.where(code & 0x80, size, -size) / 32768).astype(np.float32)
    return samples
