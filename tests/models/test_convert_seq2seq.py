"""Encoder-decoders that Python packages carry, converted: transformers and torch take them whole (`make oracles`)."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from bench.convert import package
from bench.convert_seq2seq import MODELS, ctranslate2_tensors
from pyattn import audio

# Of Debian's pocketsphinx-testdata: Jane Austen, Sense and Sensibility, read for LibriVox.
SPEECH = Path("/usr/share/pocketsphinx/test/data/librivox/sense_and_sensibility_01_austen_64kb-0890.wav")


def converted(name, folder):
    """The model directory, or a skip."""
    pytest.importorskip("torch")
    convert, packages = MODELS[name]
    if any(package(part) is None for part in packages):
        pytest.skip(f"{' and '.join(packages)} are not installed")
    return convert(folder)


def test_reads_ctranslate2s_format():
    def text(word):
        return struct.pack("<H", len(word) + 1) + word + b"\0"

    def tensor(name, kind, x):
        return text(name) + struct.pack(f"<B{x.ndim}IBI", x.ndim, *x.shape, kind, x.nbytes) + x.tobytes()

    matrix, number = np.arange(6, dtype="<f2").reshape(2, 3), np.array(7, "<i2")
    data = struct.pack("<I", 6) + text(b"WhisperSpec") + struct.pack("<II", 3, 2)
    data += tensor(b"a/weight", 4, matrix) + tensor(b"a/heads", 2, number) + struct.pack("<I", 0)
    read = ctranslate2_tensors(data)
    assert read["a/weight"].dtype == np.float16 and (read["a/weight"] == matrix).all()
    assert read["a/heads"] == 7 and set(read) == {"a/weight", "a/heads"}
    with pytest.raises(ValueError, match="version 5; accepted is 6"):
        ctranslate2_tensors(struct.pack("<I", 5) + data[4:])


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["whisper-tiny.en", "whisper-base"])
@pytest.mark.filterwarnings("ignore")  # theirs
def test_transformers_understands_speech_with_it(name, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = converted(name, tmp_path)
    model, loaded = transformers.WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(loaded.values()), loaded
    if not SPEECH.is_file():
        pytest.skip("pocketsphinx-testdata is not installed")
    features = audio.log_mel(audio.resample(*audio.read_wave(SPEECH)), num_mel_bins=model.config.num_mel_bins)
    spoken = {"language": "en", "task": "transcribe"} if model.generation_config.is_multilingual else {}
    ids = model.generate(torch.from_numpy(features.T[None]), num_beams=1, do_sample=False, **spoken)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    text = tokenizer.decode(ids[0], skip_special_tokens=True).strip()
    assert text == "Unless to be rather cold-hearted and rather selfish is to be ill-disposed."


@pytest.mark.parametrize("name", ["annalog", "latex-ocr"])
@pytest.mark.filterwarnings("ignore")  # theirs
def test_layers_have_the_names_of_torch(name, tmp_path):
    safetensors, folder = pytest.importorskip("safetensors.numpy"), converted(name, tmp_path)
    from torch import nn

    config = json.loads((folder / "config.json").read_text())
    tensors = safetensors.load_file(folder / "model.safetensors")
    model = nn.Transformer(
        config["d_model"],
        config["encoder_attention_heads"],
        config["encoder_layers"],
        config["decoder_layers"],
        config["encoder_ffn_dim"],
    )
    shapes = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    if not config["norm_first"]:
        shapes = {key: shape for key, shape in shapes.items() if key[:13] not in ("encoder.norm.", "decoder.norm.")}
    assert {key: tensors[key].shape for key in shapes} == shapes
    outside = {key.rpartition(".")[0] for key in tensors.keys() - shapes.keys()}
    parts = {f"{side}.{part}_embedding" for side in ("encoder", "decoder") for part in ("token", "position")}
    expected = parts | {"generator"}
    if name == "latex-ocr":
        expected -= {"encoder.token_embedding"}
        expected |= {"encoder.patch_embedding", "encoder.embedding_norm", "decoder.embedding_norm"}
    assert outside == expected
