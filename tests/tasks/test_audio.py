"""WAV files of every kind, written here; sampling rates; the log-mel spectrogram."""

import io
import json
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

import pyattn
from pyattn import audio
from tests.data import record_waves
from tests.data.record_waves import GUID, chunk, wave

RECORDED = np.load(Path(__file__).parents[1] / "data" / "audio" / "log_mel.npz")
WAVES = json.loads(record_waves.FILE.read_text())
FILES = record_waves.cases()

# Of numbers whose logarithm is rounded 80 dB below the loudest: what torch's float32 is away from the truth as well.
TOLERANCE = 2e-5

COMPRESSED = ((2, "Microsoft ADPCM"), (0x11, "IMA ADPCM"), (0x31, "GSM 6.10"), (0x55, "MP3"))


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
    tail = GUID if extensible else None
    samples, rate = read(wave(data, kind, 1, bits, 8000, extensible=tail))
    assert rate == 8000 and samples.tolist() == expected
    both, _ = read(wave(data + data, kind, 2, bits, 8000, extensible=tail))
    halves = np.array(expected + expected).reshape(-1, 2).mean(axis=1)
    assert abs(both - halves).max() < 1e-7


@pytest.mark.parametrize("name", WAVES)
def test_reads_what_libsndfile_reads(name, read):
    expected = WAVES[name]
    samples, rate = read(FILES[name])
    assert (rate, len(samples)) == (expected["rate"], expected["length"])
    first = np.frombuffer(bytes.fromhex(expected["samples"]), "<f4")
    assert abs(samples[:256] - first).max() <= (1e-7 if "channels" in name or "ambisonic" in name else 0)


def test_lengths_that_libsndfile_does_not_read(read):
    """Writers that could not go back leave the length of all of it as it was without samples, or unknown."""
    data = np.arange(20, dtype="<i2").tobytes()
    for riff in (0, 36, 0xFFFFFFFF):
        assert len(read(wave(data, size=0, riff=riff))[0]) == 20
    long = {"size": 0xFFFFFFFF, "riff": 0xFFFFFFFF}
    assert len(read(wave(data, magic=b"RF64", **long))[0]) == 20
    for size in (6, 2**64 - 1):
        ds64 = chunk(b"ds64", struct.pack("<QQQI", 0, size, 0, 0))
        assert len(read(wave(data, magic=b"BW64", ds64=ds64, **long))[0]) == min(size // 2, 20)
        assert len(read(wave(data, ds64=ds64, size=8))[0]) == 4  # a name without meaning in other files
    odd = chunk(b"ds64", struct.pack("<QQQI", 0, 40, 0, 0)) + chunk(b"LIST", b"INFO?")
    assert len(read(wave(data, magic=b"RF64", ds64=odd, **long))[0]) == 20


def test_files_in_memory_and_open_ones(tmp_path):
    data = wave(np.array([16384, -32768], "<i2").tobytes(), rate=8000)
    (tmp_path / "sound.wav").write_bytes(data)
    with (tmp_path / "sound.wav").open("rb") as file:
        for source in (data, bytearray(data), memoryview(data), io.BytesIO(data), file):
            samples, rate = audio.read_wave(source)
            assert samples.tolist() == [0.5, -1] and rate == 8000
    for source, name in (
        (b"", "what was given as bytes is empty"),
        (io.BytesIO(b"x"), "the open file is not a WAV file"),
    ):
        with pytest.raises(ValueError, match=f"^read_wave: {name}; accepted are WAV files"):
            audio.read_wave(source)
    for source in (3, None, [0.5], np.zeros(3)):
        with pytest.raises(TypeError, match="^read_wave: source must be a path, bytes or a file open for reading, not"):
            audio.read_wave(source)
    with (tmp_path / "sound.wav").open(encoding="latin-1") as text, pytest.raises(TypeError, match="is open for bytes"):
        audio.read_wave(text)


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"", "is empty"),
        (b"OggS" + bytes(40), "not a WAV file"),
        (wave(b""), "has no samples"),
        (wave(b"", size=0xFFFFFFFF), "has no samples"),
        (wave(bytes(8), size=0), "has no samples"),
        (wave(bytes(3), channels=2), "has no samples"),
        (wave(b"", size=0, after=chunk(b"LIST", b"INFO" * 20)), "has no samples"),
        (wave(bytes(8))[:30], "does not say"),
        (wave(bytes(8))[:40], "ends before them"),
        *((wave(bytes(80), kind=kind, bits=4), rf"format {kind} \({name}\)") for kind, name in COMPRESSED),
        (wave(bytes(8), kind=0x101, bits=8), "format 257 with 8 bits"),
        (wave(bytes(8), bits=0), "format 1 with 0 bits"),
        (wave(bytes(16), bits=33), "format 1 with 33 bits"),
        (wave(bytes(8), kind=3), "format 3 with 16 bits"),
        (wave(bytes(8), kind=2, bits=4, extensible=GUID), r"format 2 \(Microsoft ADPCM\)"),
        (wave(bytes(8), extensible=(0, 16, bytes(8))), "an unknown format, 010000000000"),
        (wave(bytes(8), extensible=GUID, form=lambda x: x[:38]), "an extensible one, cut short"),
        (wave(bytes(8), form=lambda x: x[:14]), "does not say"),
        (wave(b"OggS" + bytes(80)), "holds another file"),
        (wave(b"wvpk" + bytes(80)), "holds another file"),
        (wave(bytes(8), channels=0), "0 channels"),
        (wave(bytes(8), rate=0), "0 samples a second"),
        (wave(bytes(8), rate=2**32 // 2 - 1), "2147483647 samples a second"),
        (wave(bytes(8)).replace(b"fmt ", b"FMT "), "does not say"),
        (wave(np.array([0, np.nan], "<f4").tobytes(), 3, bits=32), "NaN or infinite"),
        (wave(np.array([np.inf, -np.inf], "<f4").tobytes(), 3, 2, bits=32), "NaN or infinite"),
        (wave(np.array([0, 1e300], "<f8").tobytes(), 3, bits=64), "NaN or infinite"),
        (wave(bytes.fromhex("010000000000f07f"), 3, bits=64), "NaN or infinite"),  # a signalling NaN
    ],
)
def test_refuses_by_name(data, seen, read):
    with pytest.raises(ValueError, match=rf"read_wave: .*sound\.wav .*{seen}.*; accepted are WAV files .*ffmpeg"):
        read(data)


def test_every_truncation_is_read_to_its_end(read):
    data = wave(np.arange(1, 11, dtype="<i2").tobytes(), before=chunk(b"LIST", b"abcd"), extensible=GUID)
    start = len(data) - 20
    for length in range(start + 2):
        with pytest.raises(ValueError, match="read_wave: "):
            read(data[:length])
    for length in range(start + 2, len(data) + 1):
        assert len(read(data[:length])[0]) == (length - start) // 2


def test_hostile_lengths_take_memory_in_proportion(read):
    """Whatever a header announces."""
    whole = wave(bytes(64), channels=65535, size=2**32 - 1, before=b"LIST" + struct.pack("<I", 2**31), align=0)
    ds64 = chunk(b"ds64", struct.pack("<QQQI", 2**64 - 1, 2**64 - 1, 2**64 - 1, 2**32 - 1))
    long = wave(bytes(64), magic=b"RF64", ds64=ds64, size=2**32 - 1)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="read_wave: "):
            read(whole)
        assert len(read(long)[0]) == 32
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_random_bytes_are_read_or_refused(read):
    rng = np.random.default_rng(0)
    whole = np.frombuffer(wave(bytes(48), 3, 2, 32, before=chunk(b"LIST", b"")), np.uint8)
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


def test_the_module_is_there_without_an_import_of_its_own():
    code = "import sys, pyattn; assert 'pyattn.audio' not in sys.modules; pyattn.audio.read_wave"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        audio.read_wave(tmp_path / "none.wav")


STORED = np.array([[0, 16384], [8192, 8192], [-32768, 0]], np.int16)
FILE = wave(STORED.tobytes(), channels=2, rate=8000)


@pytest.mark.parametrize(
    ("sound", "rate"),
    [
        (FILE, 8000),
        (io.BytesIO(FILE), 8000),
        ((8000, STORED), 8000),  # SciPy's wavfile.read
        ((STORED / 32768, 44100), 44100),  # soundfile.read
        ((np.int64(8000), STORED.astype(">i2")), 8000),
        ((8000, (STORED / 32768).tolist()), 8000),
        ((8000, STORED.astype(np.int32) << 16), 8000),
        ((8000, (STORED // 256 + 128).astype(np.uint8)), 8000),
        ({"array": STORED, "sampling_rate": 8000, "path": None}, 8000),
        ({"raw": STORED, "sampling_rate": 8000}, 8000),
        ([0.25, 0.25, -0.5], 16000),
        ((0.25, 0.25, -0.5), 16000),
        (np.array([0.25, 0.25, -0.5], np.float16), 16000),
        (np.array([8192, 8192, -16384], np.int16), 16000),
        (np.repeat(np.array([0.25, 0.25, -0.5]), 2)[::2], 16000),
    ],
)
def test_sounds_in_all_their_forms(sound, rate):
    assert audio.is_sound(sound)
    samples, found = audio.read_sound(sound)
    assert samples.tolist() == [0.25, 0.25, -0.5] and samples.dtype == np.float32
    assert found == rate and type(found) is int


def test_paths_are_sounds_and_several_sounds_are_none(tmp_path):
    (tmp_path / "sound.wav").write_bytes(FILE)
    for path in (tmp_path / "sound.wav", str(tmp_path / "sound.wav")):
        assert audio.is_sound(path) and len(audio.read_sound(path)[0]) == 3
    one = np.zeros(3)
    for several in ([], (), [one], (one, one), [(8000, one)], ["a.wav", "b.wav"], ("a.wav", "b.wav"), [[0.5], [0.5]]):
        assert not audio.is_sound(several)
    assert len(audio.read_sound(np.zeros(0))[0]) == 0


@pytest.mark.parametrize(
    ("sound", "error", "message"),
    [
        (None, TypeError, "samples of sound are NoneType; accepted are a WAV file"),
        (7, TypeError, "samples of sound are int; accepted are"),
        ((8000, "a.wav"), TypeError, "samples of sound are str; accepted are"),
        ((8000, FILE), TypeError, "samples of sound are bytes"),
        ((8000, None), TypeError, "samples of sound are NoneType"),
        ((True, np.zeros(3)), TypeError, "rate must be a positive integer, not True"),
        ((16000.0, np.zeros(3)), TypeError, "rate must be a positive integer, not 16000.0"),
        ((np.zeros(3), 0), ValueError, "rate must be a positive integer, not 0"),
        ((np.zeros(3), 2), ValueError, "rate must be from 1000 to 768000 samples a second, not 2"),
        ({"array": np.zeros(3)}, ValueError, "sound is a dictionary of 'array'; accepted are"),
        ({"sampling_rate": 8000}, ValueError, "sound is a dictionary of 'sampling_rate'"),
        (
            {"array": [0.5], "raw": [0.5], "sampling_rate": 8000},
            ValueError,
            "sound is a dictionary of 'array', 'raw', ",
        ),
        ({"array": [0.5], "sampling_rate": None}, TypeError, "rate must be a positive integer, not None"),
        ({}, ValueError, "sound is a dictionary of ; accepted are"),
        ([1, 2, 3], TypeError, "samples of sound have dtype int64"),
        ([0.5, "x"], TypeError, "samples of sound have dtype <U"),
        ([0.5, [1.0]], ValueError, "samples of sound is not an array"),
        (np.array([1j]), TypeError, "samples of sound have dtype complex128"),
        (np.array([True]), TypeError, "samples of sound have dtype bool"),
        (np.array([b"x"], object), TypeError, "samples of sound have dtype object"),
        (np.ma.masked_array([0.5], [True]), TypeError, r"samples of sound are a masked array; .filled\(0\)"),
        (
            np.zeros((2, 16000)),
            ValueError,
            r"samples of sound have shape \(2, 16000\); .*; this looks like its transpose",
        ),
        (
            np.zeros((3, 2, 2)),
            ValueError,
            r"samples of sound have shape \(3, 2, 2\); accepted: \(n,\), and \(n, channels\)",
        ),
        (np.zeros((3, 0)), ValueError, r"samples of sound have shape \(3, 0\)"),
        (np.array([0.0, np.nan]), ValueError, "samples of sound are NaN or infinite"),
        ([0.0, -np.inf], ValueError, "samples of sound are NaN or infinite"),
        (np.array([0.0, -20000.0]), ValueError, "samples of sound reach 20000; floats lie from -1 to 1"),
        (wave(np.array([20000], "<f4").tobytes(), 3, bits=32), ValueError, "samples of sound reach 20000"),
    ],
)
def test_what_is_no_sound_is_refused(sound, error, message):
    with pytest.raises(error, match=f"^read_sound: {message}"):
        audio.read_sound(sound)


def test_other_functions_take_samples_in_the_same_forms():
    rng = np.random.default_rng(0)
    stored = rng.integers(-20000, 20000, (4000, 2)).astype(np.int16)
    mono = (stored / 32768).mean(axis=1).astype(np.float32)
    assert abs(audio.resample(stored, 8000) - audio.resample(mono, 8000)).max() < 1e-6
    assert abs(audio.log_mel(stored, frames=20) - audio.log_mel(mono.tolist(), frames=20)).max() < TOLERANCE


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
        ((np.zeros(4, np.int64), 8000), TypeError, "samples have dtype int64; floats from -1 to 1 are needed, or"),
        (
            (np.zeros((2, 4), np.float32), 8000),
            ValueError,
            r"samples have shape \(2, 4\); accepted: \(n,\).*its transpose",
        ),
        ((np.ma.zeros(4), 8000), TypeError, r"samples are a masked array; .filled\(0\)"),
        ((np.zeros(0, np.float32), 8000), ValueError, r"samples have shape \(0,\)"),
        ((np.zeros(4, np.float32), 0), ValueError, "rate must be a positive integer, not 0"),
        ((np.zeros(4, np.float32), 8000.0), TypeError, "rate must be a positive integer, not 8000.0"),
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
        (np.zeros(400, np.uint16), {}, TypeError, "samples have dtype uint16"),
        (np.zeros((1, 400), np.float32), {}, ValueError, r"samples have shape \(1, 400\)"),
        (np.ma.zeros(400), {}, TypeError, "samples are a masked array"),
        (np.zeros(0, np.float32), {}, ValueError, r"samples have shape \(0,\)"),
        (np.zeros(400, np.float32), {"frames": 1}, ValueError, "frames must be at least 2"),
        (np.zeros(400, np.float32), {"frames": 2.0}, TypeError, "frames must be a positive integer"),
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


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("bands", [80, 128])
def test_agrees_with_transformers(bands):
    extractor = pytest.importorskip("transformers").WhisperFeatureExtractor(feature_size=bands)
    assert abs(audio.mel_filters(bands) - extractor.mel_filters.T).max() < 1e-8
    rng = np.random.default_rng(0)
    for n in (16_000, 470_000, 480_000, 500_000):
        samples = (np.cumsum(rng.normal(0, 0.01, n)) % 1 - 0.5).astype(np.float32)
        (expected,) = extractor(samples, sampling_rate=16000, return_tensors="np").input_features
        # of which torch is off by one or, on an Intel CPU, two
        assert abs(audio.log_mel(samples, num_mel_bins=bands) - expected.T).max() < 3 * TOLERANCE
