"""`pyattn look`: the page and its numbers."""

import base64
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

import pyattn
from pyattn import explain


def data_of(page):
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1])


def unpacked(head, size):
    return (np.frombuffer(base64.b64decode(head), np.uint8).reshape(size, size) / 255) ** 2


def test_the_page_holds_the_weights(run, model, folder):
    status, told, errors = run("look", "the cat sat on the mat", "-o", "page.html", "--model", model)
    assert (status, errors) == (0, "")
    page = (folder / "page.html").read_text()
    found = data_of(page)
    encoder = pyattn.SentenceEncoder.from_pretrained(model)
    tokens, ids = encoder.tokens("the cat sat on the mat")
    assert found["tokens"] == tokens and told.startswith(
        f"page.html: {len(tokens)} tokens, {len(found['layers'])} layers"
    )
    with explain.watch(encoder.model) as seen:
        encoder.model(ids, [0, len(ids)])
    assert [layer["name"] for layer in found["layers"]] == [attended.layer for attended in seen]
    for layer, attended in zip(found["layers"], seen, strict=True):
        for head, weights in zip(layer["heads"], attended.weights(), strict=True):
            np.testing.assert_allclose(unpacked(head, len(tokens)), weights, atol=1 / 255)


def test_a_page_needs_nothing_else(run, model, folder):
    run("look", "the <script>alert(1)</script> & cat", "-o", "page.html", "--model", model)
    page = (folder / "page.html").read_text()
    assert page.count("<script") == 2 and "http" not in page and "src=" not in page and "import" not in page


def test_long_texts_are_pooled(run, model, folder):
    encoder = pyattn.TransformerEncoder(pyattn.TransformerEncoderLayer(32, 4, 64, rng=0), 1)
    with explain.watch(encoder) as seen:
        encoder(np.random.default_rng(0).standard_normal((1, 1000, 32), dtype=np.float32))
    found = data_of(explain.page([f"t{i}" for i in range(1000)], seen))
    assert len(found["tokens"]) == 91 and found["tokens"][0].startswith("t0 t1")
    weights = seen[0].weights()[0]
    first = weights[:10].mean(axis=0)  # of the first of 91 blocks
    np.testing.assert_allclose(unpacked(found["layers"][0]["heads"][0], 91)[0, 0], first[:10].sum(), atol=1e-3)


@pytest.mark.parametrize("output", ["page.txt", "nowhere/page.html", "docs"])
def test_where_it_cannot_be_written(run, model, folder, output):
    status, _, error = run("look", "cat", "-o", output, "--model", model)
    assert status == 2 and error.startswith(f"pyattn look: cannot write {output}")


def test_what_a_page_refuses():
    encoder = pyattn.TransformerEncoder(pyattn.TransformerEncoderLayer(32, 4, 64, rng=0), 1)
    with explain.watch(encoder) as seen:
        encoder(np.ones((1, 3, 32), np.float32))
    for tokens, layers, words in (
        (["a"], seen, "attends from 3 rows to 3; there are 1 tokens"),
        ([], seen, "0 tokens and 1 layers"),
        (["a"], [], "1 tokens and 0 layers"),
    ):
        with pytest.raises(ValueError, match=f"page: .*{words}"):
            explain.page(tokens, layers)
    with pytest.raises(TypeError, match="page: tokens must be strings, not int"):
        explain.page([1, 2, 3], seen)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_a_browser_shows_it(run, model, folder):
    """The script runs to its end: tokens are buttons, and the chosen one's weights are told."""
    run("look", "the cat sat on the mat", "-o", "page.html", "--model", model)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", str(folder / "page.html")]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    tokens = data_of((folder / "page.html").read_text())["tokens"]
    assert shown.count("<button") == len(tokens)
    told = re.search(r'<p id="told" role="status">(.*?)</p>', shown)[1]
    assert told.startswith(f"{tokens[0]}: ") and told.count(",") == min(5, len(tokens)) - 1
