"""WAV files of every kind, written here; sampling rates; the log-mel spectrogram."""

import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

import pyattn
from pyattn import audio

RECORDED = np.load(Path(__file__).parent / "data" / "audio" / "log_mel.npz")

# Of numbers whose logarithm is rounded 80 dB below the loudest: what torch's float32 is away from the truth as well.
TOLERANCE = 2e-5


def wave(data, kind=1, channels=1, bits=16, rate=16000, *, before=b"", size=None, extensible=False):
    """The bytes of a WAV file; size: what it announces for its samples, if not their number of bytes."""
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", 0xFFFE if extensible else kind, channels, rate, rate * frame, frame, bits)
    if extensible:
        form += struct.pack("<HHIH", 22, bits, 0, kind) + b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"
    parts = b"fmt " + struct.pack("<I", len(form)) + form + before
    parts += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WAVE" + parts


@pytest.fixture
def read(tmp_path):
    """read_wave of bytes."""

    def read_bytes(data):
        (tmp_path / "sound.wav").write_bytes(data)
        return audio.read_wave(tmp_path / "sound.wav")

    return read_bytes


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("dtype", ["u1", "<i2", "<i4", "<f4", "<f8"])
def test_reads_what_scipy_writes(dtype, channels, tmp_path):
    rng = np.random.default_rng(0)
    sound = rng.uniform(-1, 1, (100, channels))
    stored = sound.astype(dtype)
    if stored.dtype.kind != "f":
        most = np.iinfo(dtype).max // (2 if dtype == "u1" else 1)
        stored = (np.round(sound * most) + (128 if dtype == "u1" else 0)).astype(dtype)
    wavfile.write(tmp_path / "sound.wav", 44100, stored)
    samples, rate = audio.read_wave(str(tmp_path / "sound.wav"))
    assert rate == 44100 and samples.dtype == np.float32 and samples.shape == (100,)
    bits = {"u1": 8, "<i2": 16}.get(dtype, 24)
    assert abs(samples - sound.mean(axis=1)).max() < 2.0 ** (2 - bits)


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize(
    ("kind", "bits", "data", "expected"),
    [
        (1, 8, bytes([0, 128, 192, 255]), [-1, 0, 0.5, 127 / 128]),
        (1, 16, np.array([-32768, 0, 16384], "<i2").tobytes(), [-1, 0, 0.5]),
        (1, 24, b"\x00\x00\x80\x00\x00\x00\x00\x00\x40\x01\x00\x00\xff\xff\xff", [-1, 0, 0.5, 2**-23, -(2**-23)]),
        (1, 32, np.array([-(2**31), 0, 2**30], "<i4").tobytes(), [-1, 0, 0.5]),
        (3, 32, np.array([-1.5, 0, 0.25], "<f4").tobytes(), [-1.5, 0, 0.25]),
        (3, 64, np.array([-1.5, 0, 0.25], "<f8").tobytes(), [-1.5, 0, 0.25]),
    ],
)
def test_values_of_each_sample_format(kind, bits, data, expected, extensible, read):
    samples, rate = read(wave(data, kind, 1, bits, 8000, extensible=extensible))
    assert rate == 8000 and samples.tolist() == expected
    both, _ = read(wave(data + data, kind, 2, bits, 8000, extensible=extensible))
    halves = np.array(expected + expected).reshape(-1, 2).mean(axis=1)
    assert abs(both - halves).max() < 1e-7


def test_other_chunks_are_passed_over(read):
    data = np.arange(4, dtype="<i2").tobytes()
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\x00"
    after = b"id3 " + struct.pack("<I", 2) + b"xy"
    assert len(read(wave(data, before=odd) + after)[0]) == 4


def test_a_stream_of_unknown_length_is_read_to_its_end(read):
    assert len(read(wave(bytes(7), size=0xFFFFFFFF))[0]) == 3


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"", "is empty"),
        (b"OggS" + bytes(40), "not a WAV file"),
        (wave(b""), "has no samples"),
        (wave(b"", size=0xFFFFFFFF), "has no samples"),
        (wave(bytes(8))[:30], "ends before them"),
        (wave(bytes(8), size=10), "cut short: 8 bytes of samples where it announces 10"),
        (wave(bytes(8), size=2**31), "cut short"),
        (wave(bytes(7)), "cut short"),
        (wave(bytes(8), kind=6, bits=8), "format 6 with 8 bits"),
        (wave(bytes(8), bits=12), "format 1 with 12 bits"),
        (wave(bytes(8), channels=0), "0 channels"),
        (wave(bytes(8), rate=0), "0 samples a second"),
        (wave(bytes(8), rate=2**32 // 2 - 1), "2147483647 samples a second"),
        (wave(bytes(8)).replace(b"fmt ", b"FMT "), "does not say"),
        (wave(np.array([0, np.nan], "<f4").tobytes(), 3, bits=32), "NaN or infinite"),
        (wave(np.array([np.inf, -np.inf], "<f4").tobytes(), 3, 2, bits=32), "NaN or infinite"),
        (wave(np.array([0, 1e300], "<f8").tobytes(), 3, bits=64), "NaN or infinite"),
    ],
)
def test_refuses_by_name(data, seen, read):
    with pytest.raises(ValueError, match=rf"read_wave: .*sound\.wav .*{seen}.*; accepted are whole WAV files"):
        read(data)


def test_every_truncation_is_refused(read):
    data = wave(bytes(20), before=b"LIST" + struct.pack("<I", 4) + b"abcd", extensible=True)
    for length in range(len(data)):
        with pytest.raises(ValueError, match="read_wave: "):
            read(data[:length])
    assert len(read(data)[0]) == 10


def test_random_bytes_are_read_or_refused(read):
    rng = np.random.default_rng(0)
    whole = np.frombuffer(wave(bytes(48), 3, 2, 32, before=b"LIST\x00\x00\x00\x00"), np.uint8)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(500):
        data = whole.copy()
        places = rng.integers(0, 60, rng.integers(1, 4))
        data[places] = rng.choice([0, 1, 2, 3, 8, 255, *rng.integers(0, 256, 3)], len(places))
        try:
            samples, _ = read(data.tobytes())
        except ValueError as error:
            assert str(error).startswith("read_wave: ")
            outcomes["refused"] += 1
        else:
            assert np.isfinite(samples).all()
            outcomes["read"] += 1
    assert min(outcomes.values()) > 50


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        audio.read_wave(tmp_path / "none.wav")


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000, 96000, 15999, 65537])
def test_resampled_tones_stay_tones(rate):
    seconds = 0.5
    n = int(rate * seconds)
    tone = np.sin(2 * np.pi * 1000 * np.arange(n) / rate).astype(np.float32)
    got = audio.resample(tone, rate)
    assert got.dtype == np.float32 and len(got) == -(-n * 16000 // rate)
    expected = np.sin(2 * np.pi * 1000 * np.arange(len(got)) / 16000)
    inside = slice(200, -200)
    assert abs(got - expected)[inside].max() < 5e-3


def test_what_the_lower_rate_cannot_hold_is_filtered_out():
    tone = np.sin(2 * np.pi * 11000 * np.arange(24000) / 48000).astype(np.float32)
    assert abs(audio.resample(tone, 48000)[200:-200]).max() < 1e-2


def test_resampling_odd_rates_takes_little_memory():
    sound = np.zeros(1000, np.float32)
    audio.resample(sound, 8000)  # imports
    for rate, to in ((767957, 16000), (1009, 767957)):
        tracemalloc.start()
        try:
            length = len(audio.resample(sound, rate, to))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert abs(length - 1000 * to / rate) <= 1
        assert peak < 100e6, (rate, to)


def test_equal_rates_change_nothing():
    sound = np.arange(5, dtype=np.float32)
    assert audio.resample(sound, 16000) is sound
    assert audio.resample(sound.astype(np.float64), 8000, 8000).dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros(4, np.int16), 8000), TypeError, "samples have dtype int16; float32 or float64 from -1 to 1"),
        ((np.zeros((4, 2), np.float32), 8000), ValueError, r"samples have shape \(4, 2\); accepted: \(n,\)"),
        ((np.zeros(0, np.float32), 8000), ValueError, r"samples have shape \(0,\)"),
        ((np.zeros(4, np.float32), 0), ValueError, "rate must be a positive integer, not 0"),
        ((np.zeros(4, np.float32), 8000.0), ValueError, "rate must be a positive integer, not 8000.0"),
        ((np.zeros(4, np.float32), 999), ValueError, "rate must be from 1000 to 768000 samples a second, not 999"),
        ((np.zeros(4, np.float32), 8000, 10**9), ValueError, "to must be from 1000 to 768000"),
    ],
)
def test_resample_refuses(arguments, error, message):
    with pytest.raises(error, match=f"resample: {message}"):
        audio.resample(*arguments)


def formula(samples, bands, length):
    """The log-mel spectrogram of `length` samples, in float64."""
    filled = np.zeros(length)
    filled[: len(samples)] = samples[:length]
    reflected = np.pad(filled, 200, mode="reflect")
    windows = np.stack([reflected[i : i + 400] for i in range(0, length - length % 160, 160)])
    spectrum = np.fft.rfft(windows * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)))
    mel = np.log10(np.maximum(abs(spectrum) ** 2 @ audio.mel_filters(bands).T.astype(float), 1e-10))
    return (np.maximum(mel, mel.max() - 8) + 4) / 4


@pytest.mark.parametrize("bands", [80, 128])
def test_log_mel_agrees_with_what_transformers_computed(bands):
    expected = RECORDED[f"mel{bands}"]
    got = audio.log_mel(RECORDED["samples"], num_mel_bins=bands, frames=len(expected))
    assert got.shape == (40, bands) and got.dtype == np.float32 and got.flags.c_contiguous
    assert np.ptp(expected) > 1.5
    assert abs(got - expected).max() < TOLERANCE


@pytest.mark.parametrize("frames", [2, 3, 17, 501, None])
@pytest.mark.parametrize("n", [1, 199, 201, 320, 479, 2720, 80000, 80077])
def test_log_mel_agrees_with_its_formula(n, frames):
    samples = np.random.default_rng(n).normal(0, 0.1, n).astype(np.float32)
    if frames is None and n < 320:
        with pytest.raises(ValueError, match=f"log_mel: there are {n} samples; frames=None needs at least 320"):
            audio.log_mel(samples, frames=None)
        return
    got = audio.log_mel(samples, frames=frames)
    assert got.shape == (frames or n // 160, 80)
    assert abs(got - formula(samples, 80, frames * 160 if frames else n)).max() < TOLERANCE


def test_log_mel_in_parts_is_log_mel():
    """Blocks, threads, silence that is not computed, layout and dtype of the samples change nothing that matters."""
    samples = np.random.default_rng(0).normal(0, 0.1, 170_001).astype(np.float32)
    kept = samples.copy()
    expected = audio.log_mel(samples, frames=1200)
    filled = np.zeros(2 * 192_000)
    filled[: 2 * len(samples) : 2] = samples
    for threads in (1, 3):
        with pyattn.num_threads(threads):
            assert abs(audio.log_mel(filled[::2], frames=1200) - expected).max() < TOLERANCE
    assert (samples == kept).all()


def test_silence():
    assert (audio.log_mel(np.zeros(1, np.float32)) == -1.5).all()


@pytest.mark.parametrize(
    ("samples", "options", "error", "message"),
    [
        (np.zeros(400, np.int16), {}, TypeError, "samples have dtype int16"),
        (np.zeros((1, 400), np.float32), {}, ValueError, r"samples have shape \(1, 400\)"),
        (np.zeros(0, np.float32), {}, ValueError, r"samples have shape \(0,\)"),
        (np.zeros(400, np.float32), {"frames": 1}, ValueError, "frames must be at least 2"),
        (np.zeros(400, np.float32), {"frames": 2.0}, ValueError, "frames must be a positive integer"),
        (np.zeros(400, np.float32), {"num_mel_bins": 0}, ValueError, "num_mel_bins must be a positive integer"),
        (np.array([0.0, np.nan] * 200), {}, ValueError, "samples must be finite numbers"),
        (np.array([0.0, -np.inf] * 200), {}, ValueError, "samples must be finite numbers"),
        (
            np.full(400, 1e30, np.float32),
            {},
            ValueError,
            "samples must be finite numbers, small enough for their powers",
        ),
        (np.full(400, 1e300), {}, ValueError, "samples must be finite numbers"),
    ],
)
def test_log_mel_refuses(samples, options, error, message):
    with pytest.raises(error, match=f"log_mel: {message}"):
        audio.log_mel(samples, **options)


def test_one_bad_sample_anywhere_is_found():
    for place in (0, 1, 5000, 9999):
        samples = np.zeros(10_000, np.float32)
        samples[place] = np.nan
        with pytest.raises(ValueError, match="log_mel: samples must be finite"):
            audio.log_mel(samples, frames=100)


@pytest.mark.parametrize("bands", [80, 128])
def test_mel_bands_have_equal_areas(bands):
    filters = audio.mel_filters(bands)
    assert filters.shape == (bands, 201) and filters.dtype == np.float32
    assert (filters >= 0).all() and (filters.sum(axis=0)[1:-2] > 0).all()
    wide = filters[bands // 2 :]
    assert abs(wide.sum(axis=1) * 40 - 1).max() < 0.1  # 40 Hz from one frequency to the next


def test_scipy_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    for call in (lambda: audio.log_mel(np.zeros(9, np.float32)), lambda: audio.resample(np.zeros(9, np.float32), 8000)):
        with pytest.raises(ImportError, match=r'needs the package scipy: pip install "pyattn\[models\]"'):
            call()


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("bands", [80, 128])
def test_agrees_with_transformers(bands):
    extractor = pytest.importorskip("transformers").WhisperFeatureExtractor(feature_size=bands)
    assert abs(audio.mel_filters(bands) - extractor.mel_filters.T).max() < 1e-8
    rng = np.random.default_rng(0)
    for n in (16_000, 470_000, 480_000, 500_000):
        samples = (np.cumsum(rng.normal(0, 0.01, n)) % 1 - 0.5).astype(np.float32)
        (expected,) = extractor(samples, sampling_rate=16000, return_tensors="np").input_features
        assert abs(audio.log_mel(samples, num_mel_bins=bands) - expected.T).max() < 2 * TOLERANCE
