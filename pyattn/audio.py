"""From sound to what speech models read: WAV files, sampling rates, Whisper's log-mel spectrogram."""

import functools
import math
import os
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn import _checks
from pyattn._threads import threads_for
from pyattn.layers.linear import Linear
from pyattn.models._files import import_extra

Samples = NDArray[np.float32]

RATE = 16000  # samples a second, of all that log_mel reads

# Whisper's short-time Fourier transform at that rate: 25 ms, every 10 ms.
_WINDOW = 400
_HOP = 160
_FREQUENCIES = _WINDOW // 2 + 1
_TRANSFORM_WORK = 2.5 * _WINDOW * math.log2(_WINDOW)  # floating-point operations for one window

# Frames whose windows and spectra lie in a core's cache together.
_BLOCK = 500

# Anything that is sampled slower or faster is no sound for a model; sizes and work stay in proportion to the input.
_SLOWEST, _FASTEST = 1000, 768000

# resample's filter has 20 taps for each unit of the larger part of the ratio.
_MOST_RATIO_PARTS = 65536

# (format, bits) of a WAV file's samples -> how they lie in it; 24 bits are read as bytes.
_SAMPLE_TYPES = {(1, 8): "u1", (1, 16): "<i2", (1, 24): "u1", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8"}
_EXTENSIBLE = 0xFFFE
_UNKNOWN_SIZE = 0xFFFFFFFF


def read_wave(path: str | os.PathLike[str]) -> tuple[Samples, int]:
    """The samples of a WAV file, its channels averaged, and its rate.

    Whole RIFF WAVE files of any number of channels, of 8 (unsigned), 16, 24 or 32-bit integers, or 32 or 64-bit floats;
    WAVE_FORMAT_EXTENSIBLE as well. A stream's file, whose length was unknown when it began, is read to its end.

    Args:
        path: the file.

    Returns:
        (n,) float32, integers scaled to [-1, 1); and the number of samples a second, for `resample`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no WAV file, or of another kind; it is cut short or empty; samples are NaN or infinite; the
            rate is not from 1000 to 768000.

    Example:
        >>> import tempfile
        >>> from scipy.io import wavfile
        >>> with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        ...     wavfile.write(file.name, 8000, np.array([[0, 16384], [8192, 8192]], np.int16))
        ...     read_wave(file.name)
        (array([0.25, 0.25], dtype=float32), 8000)
    """
    data = Path(path).read_bytes()

    def refused(seen: str) -> ValueError:
        return ValueError(
            f"read_wave: {path} {seen}; accepted are whole WAV files (RIFF WAVE) of 8, 16, 24 or 32-bit integers or "
            f"32 or 64-bit floats, of {_SLOWEST} to {_FASTEST} samples a second"
        )

    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise refused("is not a WAV file" if data else "is empty")
    chunks: dict[bytes, tuple[int, int]] = {}
    place = 12
    while b"data" not in chunks:
        if place + 8 > len(data):
            raise refused("has no samples: it ends before them")
        name, size = struct.unpack_from("<4sI", data, place)
        chunks[name] = place + 8, size
        place += 8 + size + size % 2

    start, size = chunks.get(b"fmt ", (0, 0))
    if size < 16:
        raise refused("does not say how its samples are stored")
    kind, channels, rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", data, start)
    if kind == _EXTENSIBLE and size >= 26:
        (kind,) = struct.unpack_from("<H", data, start + 24)
    if (kind, bits) not in _SAMPLE_TYPES:
        raise refused(f"has samples of format {kind} with {bits} bits")
    if channels == 0 or frame_bytes != channels * bits // 8:
        raise refused(f"has {channels} channels of {bits} bits in {frame_bytes} bytes")
    if not _SLOWEST <= rate <= _FASTEST:
        raise refused(f"has {rate} samples a second")

    start, size = chunks[b"data"]
    there = len(data) - start
    if size == _UNKNOWN_SIZE:
        size = there - there % frame_bytes
    if size > there or size % frame_bytes:
        raise refused(f"is cut short: {there} bytes of samples where it announces {size}, of {frame_bytes} each")
    if size == 0:
        raise refused("has no samples")
    samples = _decoded(memoryview(data)[start : start + size], kind, bits).reshape(-1, channels)
    with np.errstate(over="ignore", invalid="ignore"):
        mono = samples[:, 0] if channels == 1 else samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise refused("has samples that are NaN or infinite as float32")
    return mono, rate


def _decoded(data: memoryview, kind: int, bits: int) -> Samples:
    """Samples as they lie in a WAV file, as float32."""
    stored: NDArray[Any] = np.frombuffer(data, _SAMPLE_TYPES[kind, bits])
    if bits == 24:
        widened = np.zeros((len(stored) // 3, 4), np.uint8)
        widened[:, 1:] = stored.reshape(-1, 3)
        stored = widened.view("<i4")[:, 0]
    with np.errstate(over="ignore"):
        samples = stored.astype(np.float32)
    if bits == 8:
        samples -= 128
    if kind == 1:
        samples *= 2.0 ** (1 - 8 * stored.itemsize)
    return samples


def resample(samples: Samples, rate: int, to: int = RATE) -> Samples:
    """The same sound at another sampling rate.

    A polyphase filter whose cutoff is the lower rate's Nyquist frequency (SciPy's `signal.resample_poly`). The ratio of
    the rates is exact where neither part of it, in lowest terms, exceeds 65536, and else within 1e-4 of itself.

    Args:
        samples: (n,), float32 or float64, n at least 1.
        rate: samples a second that they have, from 1000 to 768000.
        to: those that the result has, in the same bounds.

    Returns:
        (ceil(n * to / rate),) float32; for equal rates the samples themselves where they are float32.

    Raises:
        TypeError: samples are neither float32 nor float64.
        ValueError: they have another shape, or none; a rate is not an integer, or out of bounds.
        ImportError: SciPy is not installed.

    Example:
        >>> resample(np.zeros(44100, np.float32), 44100).shape
        (16000,)
    """
    for name, value in (("rate", rate), ("to", to)):
        _checks.size("resample", name, value)
        if not _SLOWEST <= value <= _FASTEST:
            raise ValueError(f"resample: {name} must be from {_SLOWEST} to {_FASTEST} samples a second, not {value}")
    samples = _mono("resample", samples)
    if rate == to:
        return samples
    signal = import_extra("scipy", "resample").signal
    slower, faster = sorted((int(rate), int(to)))
    ratio = Fraction(slower, faster).limit_denominator(_MOST_RATIO_PARTS)
    up, down = ratio.as_integer_ratio() if to == slower else ratio.as_integer_ratio()[::-1]
    resampled: Samples = signal.resample_poly(samples, up, down)
    return resampled


def mel_filters(num_mel_bins: int) -> NDArray[np.float32]:
    """How much of each frequency of a 400-point transform at 16 kHz belongs to each mel band, from 0 to 8000 Hz.

    Slaney's scale (Auditory Toolbox, 1998): 3 mels to 200 Hz up to 1000 Hz, and 27 to a factor of 6.4 above. Bands are
    triangles between the neighbours' peaks, of equal area.

    Args:
        num_mel_bins: 80, or 128 for Whisper large-v3; any positive integer.

    Returns:
        (num_mel_bins, 201) float32.

    Raises:
        ValueError: num_mel_bins is not a positive integer.

    Example:
        >>> mel_filters(80)[40].nonzero()[0] * 40  # Hz
        array([1680, 1720, 1760])
    """
    bands = _checks.size("mel_filters", "num_mel_bins", num_mel_bins)
    mels = np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), bands + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))[:, None]
    frequencies = np.linspace(0, RATE / 2, _FREQUENCIES)
    left, peak, right = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.minimum((frequencies - left) / (peak - left), (right - frequencies) / (right - peak))
    filters: NDArray[np.float32] = (np.maximum(triangles, 0) * 2 / (right - left)).astype(np.float32)
    return filters


def log_mel(samples: Samples, *, num_mel_bins: int = 80, frames: int | None = 3000) -> NDArray[np.float32]:
    """Whisper's log-mel spectrogram.

    Radford et al. 2022 (arXiv:2212.04356), section 2.2: windows of 25 ms every 10 ms (Hann; samples reflected at both
    ends), the logarithm to base 10 of each mel band's power, no less than the largest one minus 8, plus 4, over 4. Of
    what lies past the end of the samples nothing is computed.

    Args:
        samples: (n,), float32 or float64, 16000 a second, n at least 1; see `resample`.
        num_mel_bins: 80, or 128 for Whisper large-v3.
        frames: their number, 100 a second, at least 2: samples past the last are left out, and silence fills up. None:
            as many as samples fill, n // 160, of at least 320 samples.

    Returns:
        (frames, num_mel_bins) float32, contiguous: time first, as convolutions of this library read it; the transpose
        of what transformers' WhisperFeatureExtractor returns.

    Raises:
        TypeError: samples are neither float32 nor float64.
        ValueError: they have another shape, or too few, or numbers that are NaN, infinite or too large for powers in
            float32; frames or num_mel_bins is not such an integer.
        ImportError: SciPy is not installed.

    Example:
        >>> tone = np.sin(2 * np.pi * 440 / 16000 * np.arange(16000), dtype=np.float32)
        >>> features = log_mel(tone, frames=200)
        >>> features.shape, int(features[50].argmax())  # band 11 is that of 440 Hz
        ((200, 80), 11)
    """
    bands = _checks.size("log_mel", "num_mel_bins", num_mel_bins)
    samples = _mono("log_mel", samples)
    if frames is None:
        length = len(samples)
        frames = length // _HOP
        if frames < 2:
            raise ValueError(f"log_mel: there are {length} samples; frames=None needs at least {2 * _HOP}")
    else:
        frames = _checks.size("log_mel", "frames", frames)
        if frames < 2:
            raise ValueError("log_mel: frames must be at least 2, not 1")
        length = frames * _HOP
    fft = import_extra("scipy", "log_mel").fft

    half = _WINDOW // 2
    samples = samples[:length]
    padded = np.zeros(half + length + half, np.float32)
    padded[half : half + len(samples)] = samples
    padded[:half] = padded[2 * half : half : -1]
    padded[half + length :] = padded[half + length - 2 : length - 2 : -1]
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    heard = min(frames, -(-(len(samples) + half) // _HOP))
    features = np.empty((frames, bands), np.float32)
    hann, bank = _hann(), _mel_bank(bands)
    threads = threads_for(heard * _TRANSFORM_WORK)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, heard, _BLOCK):
            stop = min(start + _BLOCK, heard)
            spectrum = fft.rfft(windows[start:stop] * hann, workers=threads)
            power = np.square(spectrum.real)
            power += np.square(spectrum.imag)
            bank._apply(power, out=features[start:stop])
        largest = features[:heard].max()
    # Found here, where it costs no pass over the samples: one such number spoils the largest power.
    if not np.isfinite(largest):
        raise ValueError("log_mel: samples must be finite numbers, small enough for their powers to be float32")
    floor = np.float32(max(1e-10, 1e-8 * float(largest)))
    heard_features = features[:heard]
    np.maximum(heard_features, floor, out=heard_features)
    features[heard:] = floor
    np.log(features, out=features)  # in SIMD wherever NumPy has it; log10 is not
    features *= np.float32(1 / (4 * np.log(10)))
    features += 1
    return features


def _mono(function: str, samples: Any) -> Samples:
    """samples as float32, contiguous, checked for dtype and shape."""
    samples = _checks.array(function, "samples", samples)
    if samples.dtype not in (np.float32, np.float64):
        raise TypeError(
            f"{function}: samples have dtype {samples.dtype}; float32 or float64 from -1 to 1 is needed (divide "
            "integers by the largest that they could be)"
        )
    if samples.ndim != 1 or len(samples) == 0:
        raise ValueError(f"{function}: samples have shape {samples.shape}; accepted: (n,), one channel, n at least 1")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(samples, np.float32)


@functools.cache
def _hann() -> NDArray[np.float32]:
    hann: NDArray[np.float32] = (0.5 - 0.5 * np.cos(2 * np.pi / _WINDOW * np.arange(_WINDOW))).astype(np.float32)
    return hann


@functools.lru_cache(8)
def _mel_bank(bands: int) -> Linear:
    """From the power of each frequency to that of each band."""
    bank = Linear(_FREQUENCIES, bands, bias=False)
    bank.load_state_dict({"weight": mel_filters(bands)})
    return bank
