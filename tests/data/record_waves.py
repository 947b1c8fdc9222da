"""Records what libsndfile reads of WAV files of every kind, for tests/tasks/test_audio.py.

Run with soundfile installed: python -m tests.data.record_waves
"""

import io
import json
import struct
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "audio" / "waves.json"

PCM, FLOAT, A_LAW, MU_LAW = 1, 3, 6, 7
AMBISONIC = (0x721, 0x11D3, b"\x86\x44\xc8\xc1\xca\x00\x00\x00")


def chunk(name, content, order="<", size=None):
    length = len(content) if size is None else size
    return name + struct.pack(order + "I", length) + content + b"\x00" * (len(content) % 2)


def wave(data, kind=PCM, channels=1, bits=16, rate=16000, *, before=b"", after=b"", size=None, order="<", **other):
    """The bytes of a WAV file.

    size: what it announces for its samples, if not their number of bytes. other: magic; riff, what it announces for
    itself; align; form, the bytes of "fmt " from the right ones; extensible, the rest of a sub-format; valid.
    """
    align = other.get("align", channels * (-(-bits // 8)))
    tail = other.get("extensible")
    first = 0xFFFE if tail is not None else kind
    form = struct.pack(order + "HHIIHH", first, channels, rate, rate * align, align, bits)
    if tail is not None:
        form += struct.pack(order + "HHI", 22, other.get("valid", bits), 0) + struct.pack(order + "IHH8s", kind, *tail)
    form = other.get("form", bytes)(form)
    parts = other.get("ds64", b"") + chunk(b"fmt ", form, order) + before
    parts += b"data" + struct.pack(order + "I", len(data) if size is None else size) + data + after
    magic = other.get("magic", b"RIFF" if order == "<" else b"RIFX")
    return magic + struct.pack(order + "I", other.get("riff", 4 + len(parts))) + b"WAVE" + parts


GUID = (0, 16, b"\x80\x00\x00\xaa\x00\x38\x9b\x71")


def lengths():
    """What stands for a length where it is unknown, or wrong."""
    data = np.array([1, -2, 300, -32768], "<i2").tobytes()
    for size in (0x7FFFF000, 0x80000000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 4, 5, 6, 7, 8, 9, 10, 1000):
        for there in (7, 8, 9):
            yield f"size {size:#x} of {there}", wave((data + b"\x05")[:there], size=size)
    yield "never closed", wave(data * 10, size=0, riff=8)
    for size in (7, 8, 0xFFFFFFFF):
        yield f"8 bits, size {size:#x}", wave(bytes(range(100, 107)), bits=8, size=size)
        yield f"8 bits and padding, size {size:#x}", wave(bytes(range(100, 107)) + b"\x00", bits=8, size=size)
    yield "half a frame", wave(data[:6], channels=2)
    yield "a byte too few of 24 bits", wave(bytes(range(11)), bits=24, size=12)
    yield "padding, then a chunk", wave(bytes(range(7)) + b"\x00", bits=8, size=7, after=chunk(b"LIST", b"INFO"))
    for size, announced in ((8, 0xFFFFFFFF), (10**12, 0xFFFFFFFF), (4, 0xFFFFFFFF), (4, 8), (7, 0xFFFFFFFF)):
        ds64 = chunk(b"ds64", struct.pack("<QQQI", 80, size, 4, 0))
        yield f"RF64, {size}, {announced:#x}", wave(data, size=announced, magic=b"RF64", riff=0xFFFFFFFF, ds64=ds64)
    yield "RF64 without ds64", wave(data, size=4, magic=b"RF64", riff=0xFFFFFFFF)


def formats():
    """Each way in which samples are stored."""
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, 48, np.uint8).tobytes()
    floats = rng.uniform(-1, 1, 6)
    for bits in (4, 8, 9, 12, 16, 17, 20, 24, 25, 31, 32):
        for order in "<>":
            yield f"{bits} bits {order}", wave(data, bits=bits, order=order)
        yield f"{bits} bits, 2 channels", wave(data, bits=bits, channels=2)
    for bits in (30, 32, 64):
        for order in "<>":
            stored = floats.astype(f"{order}f{8 if bits == 64 else 4}").tobytes()
            yield f"{bits} bits of floats {order}", wave(stored, FLOAT, bits=bits, order=order)
    for kind in (A_LAW, MU_LAW):
        yield f"every byte of {kind}", wave(bytes(range(256)), kind, bits=8, rate=8000)
        for bits in (0, 16):
            yield f"{kind}, {bits} bits", wave(data, kind, bits=bits, align=1)
        yield (
            f"{kind}, 2 channels, 18 bytes, fact",
            wave(data, kind, 2, 8, form=lambda x: x + b"\x00\x00", before=chunk(b"fact", b"\x18\x00\x00\x00")),
        )
        yield f"{kind} big-endian", wave(data, kind, bits=8, order=">")
    for align in (0, 1, 3, 4, 8):
        yield f"block of {align}", wave(data, align=align)
        yield f"block of {align}, 24 bits", wave(data[:24], bits=24, align=align)
    for valid in (0, 12, 16, 20):
        yield f"extensible, {valid} valid", wave(data, extensible=GUID, valid=valid)
    for kind, bits in ((PCM, 8), (PCM, 20), (PCM, 24), (PCM, 32), (A_LAW, 8), (MU_LAW, 8)):
        yield f"extensible {kind} of {bits}", wave(data, kind, bits=bits, extensible=GUID, valid=min(bits, 24))
    for bits in (32, 64):
        stored = floats.astype(f"<f{bits // 8}").tobytes()
        yield f"extensible floats of {bits}", wave(stored, FLOAT, bits=bits, extensible=GUID)
    yield "extensible, ambisonic", wave(data, channels=4, extensible=AMBISONIC)
    yield "extensible, big-endian", wave(data, extensible=GUID, order=">")
    yield "extensible, 24 bits in 4", wave(data, bits=24, align=4, extensible=GUID)
    walk = np.cumsum(rng.integers(-30000, 30000, 1400)) % 2**22  # as much as libsndfile listens to
    yield "24 bits in 4, at the right", wave(walk.astype("<i4").tobytes(), bits=24, align=4)
    yield "24 bits in 4, at the left", wave((walk * 256).astype("<i4").tobytes(), bits=24, align=4)


def chunks():
    """Other chunks, and other lengths of the first."""
    data = np.arange(1, 9, dtype="<i2").tobytes()
    for name in (b"LIST", b"JUNK", b"bext", b"abcd", b"id3 ", b"fact"):
        for length in (4, 5, 12):
            content = (b"INFOIART\x00\x00\x00\x00")[:length] if name == b"LIST" else bytes(length)
            yield f"{name.decode()} of {length}", wave(data, before=chunk(name, content))
    yield "fact that says 0", wave(data, before=chunk(b"fact", b"\x08\x00\x00\x00", size=0))
    yield "LIST behind", wave(data, after=chunk(b"LIST", b"INFO"))
    yield "a byte behind", wave(data, after=b"\x00")
    for length in (16, 17, 18, 20, 40):
        yield f"fmt of {length}", wave(data, form=lambda x, length=length: (x + bytes(24))[:length])
    yield "extensible fmt of 48", wave(data, extensible=GUID, form=lambda x: x + bytes(8))


def cases():
    return {name: data for part in (lengths, formats, chunks) for name, data in part()}


def main():
    import soundfile

    recorded = {}
    for name, data in cases().items():
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        assert len(samples), name
        mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
        recorded[name] = {"rate": rate, "length": len(mono), "samples": mono[:256].astype("<f4").tobytes().hex()}
    FILE.write_text(json.dumps(recorded, separators=(",", ":")).replace("},", "},\n") + "\n")


if __name__ == "__main__":
    main()
