"""Sound for speech models: samples from WAV files, sampling rates, and Whisper's log-mel spectrogram."""

import functools
import math
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from numbers import Real
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pyattn import _checks
from pyattn._extras import import_extra
from pyattn._threads import threads_for
from pyattn.layers.linear import Linear
from pyattn.tasks import wave
from pyattn.tasks.wave import Samples

RATE = 16000  # samples a second that log_mel reads

# Whisper's short-time Fourier transform at that rate: 25 ms, every 10 ms.
_WINDOW = 400
_HOP = 160
_HANN = (0.5 - 0.5 * np.cos(2 * np.pi / _WINDOW * np.arange(_WINDOW))).astype(np.float32)
_FREQUENCIES = _WINDOW // 2 + 1
_TRANSFORM_WORK = 2.5 * _WINDOW * math.log2(_WINDOW)  # floating-point operations for one window
_BLOCK = 500  # frames whose windows and spectra fit into a core's cache together

_MAX_RATIO_TERM = 65536  # the filter of resample has 20 taps for each unit of the larger term of the ratio
_LOUDEST = 1000.0  # floats beyond it are not samples from -1 to 1; they are integers that were not divided
_FILES = (str, os.PathLike, bytes, bytearray, memoryview)  # the types of a WAV file, beside what is open for reading
_SOUNDS = (
    f"accepted are a WAV file (its path, its bytes, or it open for reading), samples (n,) or (n, channels) at {RATE} a "
    'second, and samples with their rate: (samples, rate), (rate, samples) or {"array": samples, "sampling_rate": rate}'
)


def read_wave(source: str | os.PathLike[str] | bytes | BinaryIO) -> tuple[Samples, int]:
    """The samples of a WAV file, its channels averaged, and its rate, as libsndfile reads them.

    Accepted are RIFF, RIFX (big-endian), RF64 and BW64 files with any number of channels of integers of up to 32 bits
    (8 and fewer unsigned, others at the left of whole bytes), floats of 32 or 64 bits, A-law or mu-law, and
    WAVE_FORMAT_EXTENSIBLE. A file whose length is open, or more than there is, is read up to its last whole frame.

    Args:
        source: the path of the file, its bytes, or it open for reading.

    Returns:
        (n,) float32, integers scaled to [-1, 1); and the number of samples a second, for `resample`.

    Raises:
        OSError: the file cannot be read.
        TypeError: source is something else, or open for text.
        ValueError: it is no such file, or without samples; some are NaN or infinite; the rate is not 1000 to 768000.

    Example:
        >>> import io
        >>> from scipy.io import wavfile
        >>> wavfile.write(file := io.BytesIO(), 8000, np.array([[0, 16384], [8192, 8192]], np.int16))
        >>> read_wave(file.getvalue())
        (array([0.25, 0.25], dtype=float32), 8000)
    """
    if isinstance(source, str | os.PathLike):
        name, data = f"{source}", Path(source).read_bytes()
    elif isinstance(source, bytes | bytearray | memoryview):
        name, data = "what was given as bytes", bytes(source)
    elif hasattr(source, "read"):
        name, data = f"{getattr(source, 'name', 'the open file')}", source.read()
        if not isinstance(data, bytes):
            raise TypeError(f"read_wave: {name} gives {type(data).__name__}; a file that is open for bytes is needed")
    else:
        raise TypeError(
            f"read_wave: source must be a path, bytes or a file open for reading, not {type(source).__name__}"
        )
    try:
        return wave.decode(data)
    except ValueError as error:
        raise ValueError(f"read_wave: {name} {error}; {wave.ACCEPTED}") from None


def is_sound(x: Any) -> bool:
    """Whether x is one sound; else it may be several."""
    if isinstance(x, (*_FILES, Mapping)) or hasattr(x, "read") or hasattr(x, "__array__"):
        return True
    return _has_rate(x) or (isinstance(x, Sequence) and len(x) > 0 and isinstance(x[0], Real))


def read_sound(sound: Any, function: str = "read_sound", name: str = "sound") -> tuple[Samples, int]:
    """The samples of a sound in any of its forms, its channels averaged, and its rate.

    Args:
        sound: a WAV file as `read_wave` takes it; samples, as an array or a list, at 16000 a second; samples and their
            rate, as a pair in any order (SciPy's wavfile.read gives one, soundfile.read the other), or as a dictionary
            with "array" or "raw", and "sampling_rate". Samples are (n,) or (n, channels): floats from -1 to 1, or
            integers of 16 or 32 bits, or of 8 unsigned.
        function, name: the names of the caller and of the sound in errors.

    Returns:
        (n,) float32, n possibly 0; and the number of samples a second.

    Raises:
        OSError, ValueError: as `read_wave`; samples have another shape, are NaN or infinite, or floats far beyond 1;
            the rate is not an integer from 1000 to 768000.
        TypeError: sound is something else; samples are of another dtype, or masked.

    Example:
        >>> read_sound((8000, np.array([[0, 16384], [8192, 8192]], np.int16)))
        (array([0.25, 0.25], dtype=float32), 8000)
    """
    if isinstance(sound, _FILES) or hasattr(sound, "read"):
        samples, rate = read_wave(sound)
    else:
        held, rate = sound, RATE
        if isinstance(sound, Mapping):
            stored = [sound[key] for key in ("array", "raw") if sound.get(key) is not None]
            if len(stored) != 1 or "sampling_rate" not in sound:
                raise ValueError(f"{function}: {name} is a dictionary of {', '.join(map(repr, sound))}; {_SOUNDS}")
            held, rate = stored[0], sound["sampling_rate"]
        elif _has_rate(sound):
            held, rate = reversed(sound) if isinstance(sound[0], Real) else sound
        if isinstance(held, (*_FILES, Mapping)) or not np.iterable(held):
            raise TypeError(f"{function}: samples of {name} are {type(held).__name__}; {_SOUNDS}")
        _check_rate(function, "rate", rate)
        samples = _mono(function, held, f"samples of {name}", least=0)
    loudest = max(samples.max(initial=0), -samples.min(initial=0))
    if not np.isfinite(loudest):
        raise ValueError(f"{function}: samples of {name} are NaN or infinite; finite ones are needed")
    if loudest > _LOUDEST:
        raise ValueError(
            f"{function}: samples of {name} reach {loudest:g}; floats lie from -1 to 1 (divide integers by the largest "
            "that they could be, or give them as integers)"
        )
    return samples, int(rate)


def _has_rate(x: Any) -> bool:
    return isinstance(x, tuple) and len(x) == 2 and isinstance(x[0], Real) != isinstance(x[1], Real)


def _check_rate(function: str, name: str, rate: Any) -> None:
    least, most = wave.MIN_RATE, wave.MAX_RATE
    if not least <= _checks.size(function, name, rate) <= most:
        raise ValueError(f"{function}: {name} must be from {least} to {most} samples a second, not {rate}")


def resample(samples: Any, rate: int, to: int = RATE) -> Samples:
    """The same sound at another sampling rate.

    A polyphase filter whose cutoff is the lower rate's Nyquist frequency (SciPy's `signal.resample_poly`). The ratio of
    the rates is exact if neither of its lowest terms exceeds 65536, and else within a factor of 1 +- 1e-4.

    Args:
        samples: (n,) or (n, channels), n at least 1, as `read_sound` takes them.
        rate: their samples a second, from 1000 to 768000.
        to: samples a second of the result, within the same bounds.

    Returns:
        (ceil(n * to / rate),) float32; for equal rates the samples themselves where they are float32 and (n,).

    Raises:
        TypeError: samples are of another dtype, or masked.
        ValueError: they have another shape, or none; a rate is not an integer, or out of bounds.
        ImportError: SciPy is not installed.

    Example:
        >>> resample(np.zeros(44100, np.float32), 44100).shape
        (16000,)
    """
    _check_rate("resample", "rate", rate)
    _check_rate("resample", "to", to)
    mono = _mono("resample", samples)
    if rate == to:
        return mono
    signal = import_extra("scipy", "resample").signal
    slower, faster = sorted((int(rate), int(to)))
    ratio = Fraction(slower, faster).limit_denominator(_MAX_RATIO_TERM)
    up, down = ratio.as_integer_ratio() if to == slower else ratio.as_integer_ratio()[::-1]
    resampled: Samples = signal.resample_poly(mono, up, down)
    return resampled


def mel_filters(num_mel_bins: int) -> NDArray[np.float32]:
    """The weights of the frequencies of a 400-point transform at 16 kHz in each mel band, from 0 to 8000 Hz.

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


def log_mel(samples: Any, *, num_mel_bins: int = 80, frames: int | None = 3000) -> NDArray[np.float32]:
    """Whisper's log-mel spectrogram.

    Radford et al. 2022 (arXiv:2212.04356), section 2.2: windows of 25 ms every 10 ms (Hann; samples reflected at both
    ends), the logarithm to base 10 of each mel band's power, no less than the largest one minus 8, plus 4, over 4.
    Frames past the end of the samples are filled without computing them.

    Args:
        samples: (n,) or (n, channels), n at least 1, as `read_sound` takes them, 16000 a second; see `resample`.
        num_mel_bins: 80, or 128 for Whisper large-v3.
        frames: the number of frames, 100 a second, at least 2: samples past the last frame are not read, and silence
            follows the samples. None: as many frames as samples fill, n // 160; at least 320 samples are needed.

    Returns:
        (frames, num_mel_bins) float32, contiguous; transformers' WhisperFeatureExtractor returns the transpose.

    Raises:
        TypeError, ValueError, ImportError: as resample; samples are too few, NaN, infinite, or too large for powers in
            float32; frames or num_mel_bins is not such an integer.

    Example:
        >>> tone = np.sin(2 * np.pi * 440 / 16000 * np.arange(16000), dtype=np.float32)
        >>> features = log_mel(tone, frames=200)
        >>> features.shape, int(features[50].argmax())  # band 11 is that of 440 Hz
        ((200, 80), 11)
    """
    bands = _checks.size("log_mel", "num_mel_bins", num_mel_bins)
    samples = _mono("log_mel", samples)
    if frames is not None and _checks.size("log_mel", "frames", frames) < 2:
        raise ValueError("log_mel: frames must be at least 2, not 1")
    length = len(samples) if frames is None else int(frames) * _HOP
    if length < 2 * _HOP:
        raise ValueError(f"log_mel: there are {length} samples; frames=None needs at least {2 * _HOP}")
    frames = length // _HOP
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
    bank = _mel_bank(bands)
    threads = threads_for(heard * _TRANSFORM_WORK)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, heard, _BLOCK):
            stop = min(start + _BLOCK, heard)
            weighted = windows[start:stop] * _HANN
            try:
                spectrum = fft.rfft(weighted, workers=threads)
            except RuntimeError:  # the system refuses SciPy a thread
                threads = 1
                spectrum = fft.rfft(weighted)
            power = np.square(spectrum.real)
            power += np.square(spectrum.imag)
            bank._apply(power, out=features[start:stop])
        largest = features[:heard].max()
    # One such number makes the largest power infinite or NaN; this check costs no pass over the samples.
    if not np.isfinite(largest):
        raise ValueError("log_mel: samples must be finite numbers, small enough for their powers to be float32")
    floor = np.float32(max(1e-10, 1e-8 * float(largest)))
    np.maximum(features[:heard], floor, out=features[:heard])
    features[heard:] = floor
    np.log(features, out=features)  # NumPy vectorizes log on more machines than log10
    features *= np.float32(1 / (4 * np.log(10)))
    features += 1
    return features


def _mono(function: str, samples: Any, name: str = "samples", least: int = 1) -> Samples:
    """The samples as contiguous float32 (n,), channels averaged."""
    if isinstance(samples, np.ma.MaskedArray):
        raise TypeError(f"{function}: {name} are a masked array; .filled(0) makes silence of what is masked")
    samples = _checks.array(function, name, samples)
    integers = samples.dtype.str[1:] in ("u1", "i2", "i4")
    if samples.dtype.kind != "f" and not integers:
        raise TypeError(
            f"{function}: {name} have dtype {samples.dtype}; floats from -1 to 1 are needed, or integers of 16 or 32 "
            "bits, or of 8 unsigned"
        )
    channels = samples.shape[1] if samples.ndim == 2 else 1
    if samples.ndim not in (1, 2) or not 1 <= channels <= max(1, len(samples)):
        transposed = "; this looks like its transpose" if samples.ndim == 2 and channels > 1 else ""
        raise ValueError(
            f"{function}: {name} have shape {samples.shape}; accepted: (n,), and (n, channels), which are averaged"
            f"{transposed}"
        )
    if len(samples) < least:
        raise ValueError(f"{function}: {name} have shape {samples.shape}; at least one is needed")
    with np.errstate(over="ignore", invalid="ignore"):
        mono: Samples = wave.from_integers(samples) if integers else np.ascontiguousarray(samples, np.float32)
        return mono if mono.ndim == 1 else mono.mean(axis=1, dtype=np.float32)


@functools.lru_cache(8)
def _mel_bank(bands: int) -> Linear:
    """The layer from the power of each frequency to the power of each mel band."""
    bank = Linear(_FREQUENCIES, bands, bias=False)
    bank.load_state_dict({"weight": mel_filters(bands)})
    return bank
