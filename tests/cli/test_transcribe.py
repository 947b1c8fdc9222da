"""`pyattn transcribe`."""

import json

import numpy as np
import pytest

from pyattn.cli import main
from pyattn.tasks import wave
from tests.support.tiny_whisper import SETTINGS, sound, write_whisper

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")
wavfile = pytest.importorskip("scipy.io.wavfile")


def test_the_command_reads_each_file_once_and_before_the_model(tmp_path, monkeypatch, capsys):
    write_whisper(tmp_path / "model", SETTINGS | {"task": "translate", "language": "de"})
    read, decode = [], wave.decode
    monkeypatch.setattr(wave, "decode", lambda data: read.append(len(data)) or decode(data))
    files = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for n, file in enumerate(files, start=1):
        wavfile.write(file, 8000, (sound(n)[: 8000 * n] * 20000).astype(np.int16))
    arguments = ["transcribe", *map(str, files), "--model"]
    assert main([*arguments, str(tmp_path / "model"), "--json"]) == 0
    assert read == [44 + 16000, 44 + 32000]
    found = json.loads(capsys.readouterr().out)
    assert [x["seconds"] for x in found] == [1, 2] and found[0]["language"] == "de"
    files[1].write_bytes(b"RIFF")
    assert main([*arguments, str(tmp_path / "no model")]) == 2
    assert "b.wav is not a WAV file" in capsys.readouterr().err
