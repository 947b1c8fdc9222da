"""Programs of torch, each as a call: as they are ("torch"), with `pyattn.torch.enable()`, and after `accelerate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from bench.apart import Calls
from bench.convert import package

TORCH, ENABLED, ACCELERATED, INT8 = "torch", "enable()", "accelerate()", 'accelerate(dtype="int8")'
WORDS = 30522  # of BERT-base, whose sizes BertConfig has
LLAMA = {  # SmolLM-135M's sizes
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
PROMPT, STEPS = 1024, 64
PARAGRAPHS = 72


@dataclass(frozen=True)
class Program:
    """make(contender) gives calls by name: "answer" is checked, "timed" timed; it is `parts` parts, less "without"."""

    name: str
    make: Callable[[str], Calls]
    goals: Mapping[str, float] = field(default_factory=dict)  # of contenders: how many times as fast as torch
    others: tuple[str, ...] = ()  # contenders without a goal
    parts: int = 1
    tolerance: float = 1e-4  # of the answer, relative to torch's largest number

    @property
    def contenders(self) -> tuple[str, ...]:
        return TORCH, *self.goals, *self.others


def prepared(contender: str, model: Any = None) -> Any:
    """A module as a contender has it."""
    if contender == TORCH:
        return model
    import pyattn.torch

    if contender == ENABLED:
        pyattn.torch.enable()
        return model
    return pyattn.torch.accelerate(model, dtype="int8" if contender == INT8 else None)


def numbers(result: Any) -> np.ndarray:
    return result.float().numpy()


def attention(contender: str, rows: tuple[int, ...], keys: tuple[int, ...], dtype: str, **options: Any) -> Calls:
    """F.scaled_dot_product_attention of random tensors; mask="causal": a boolean mask of that triangle."""
    import torch

    prepared(contender)
    torch.manual_seed(0)
    query, key, value = (torch.randn(shape).to(getattr(torch, dtype)) for shape in (rows, keys, keys))
    if options.pop("mask", None) is not None:
        options["attn_mask"] = torch.ones(rows[-2], keys[-2], dtype=torch.bool).tril()
    call = partial(torch.nn.functional.scaled_dot_product_attention, query, key, value, **options)
    return {"timed": without_gradients(call), "answer": lambda: numbers(call())}


def without_gradients(call: Callable[[], Any]) -> Callable[[], Any]:
    import torch

    def run() -> Any:
        with torch.inference_mode():
            return call()

    return run


def bert(contender: str, dtype: str, padded: bool) -> Calls:
    """BERT-base of random weights over 8 texts of 128 tokens at most."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    own = BertModel(BertConfig(), add_pooling_layer=False).eval().to(getattr(torch, dtype))
    model = prepared(contender, own)
    ids = torch.randint(0, WORDS, (8, 128))
    lengths = torch.linspace(16, 128, 8).int() if padded else torch.full((8,), 128)
    mask = (torch.arange(128) < lengths[:, None]).long()
    call = without_gradients(lambda: model(input_ids=ids, attention_mask=mask).last_hidden_state)
    return {"timed": call, "answer": lambda: numbers(call() * mask[:, :, None])}


def transformer_encoder(contender: str, padded: bool) -> Calls:
    """torch's own, with the fused path that it takes where it can."""
    import torch

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    model = prepared(contender, torch.nn.TransformerEncoder(layer, 4).eval())
    x = torch.randn(4, 512, 512)
    lengths = torch.tensor([512, 256, 128, 128]) if padded else torch.full((4,), 512)
    padding = torch.arange(512) >= lengths[:, None]
    call = without_gradients(lambda: model(x, src_key_padding_mask=padding if padded else None))
    return {"timed": call, "answer": lambda: numbers(call() * ~padding[:, :, None])}


def trained_attention(contender: str, dropout: float = 0.0, masked: bool = False) -> Calls:
    """Forward and backward; masked: a boolean mask lets each query see half of the keys."""
    import torch

    prepared(contender)
    torch.manual_seed(0)
    inputs = [torch.randn(LARGE).requires_grad_() for _ in range(3)]
    mask = torch.rand(LARGE[-2], LARGE[-2]) < 0.5 if masked else None

    def gradients(dropout_p: float) -> Any:
        out = torch.nn.functional.scaled_dot_product_attention(*inputs, attn_mask=mask, dropout_p=dropout_p)
        return torch.autograd.grad(out.sum(), inputs)

    return {"timed": lambda: gradients(dropout), "answer": lambda: numbers(torch.stack(gradients(0.0)))}


def training_step(contender: str) -> Calls:
    """Of an encoder over 16 texts of 128 tokens at most, a part of which is padding, with AdamW."""
    import torch

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(384, 12, 1536, dropout=0.1, batch_first=True)
    model = prepared(contender, torch.nn.TransformerEncoder(layer, 6, enable_nested_tensor=False))
    x, lengths = torch.randn(16, 128, 384), torch.linspace(16, 128, 16).int()
    padding = torch.arange(128) >= lengths[:, None]
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        model(x, src_key_padding_mask=padding)[~padding].square().mean().backward()
        optimizer.step()

    def answer() -> np.ndarray:
        model.eval()
        loss = (model(x, src_key_padding_mask=padding) * x)[~padding].sum()  # sums of norms alone are constant
        (grad,) = torch.autograd.grad(loss, [model.layers[0].norm1.weight])
        model.train()
        return numbers(grad)

    return {"timed": step, "answer": answer}


def steps(contender: str, dtype: str) -> Calls:
    """A decoder of random weights writes tokens after a prompt: all steps but the first are timed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    own = LlamaForCausalLM(LlamaConfig(**LLAMA)).eval().to(getattr(torch, dtype))
    own.generation_config.eos_token_id = None
    model = prepared(contender, own)
    ids = torch.randint(0, LLAMA["vocab_size"], (1, PROMPT))
    write = partial(model.generate, ids, attention_mask=torch.ones_like(ids), pad_token_id=0, do_sample=False)
    logits = without_gradients(lambda: model(input_ids=ids, use_cache=False).logits[:, -1])
    return {
        "timed": without_gradients(lambda: write(max_new_tokens=1 + STEPS)),
        "without": without_gradients(lambda: write(max_new_tokens=1)),
        "answer": lambda: numbers(logits()),
    }


def sentences(contender: str) -> Calls:
    """all-MiniLM-L6-v2 in sentence-transformers over paragraphs of SciPy's docstrings."""
    from sentence_transformers import SentenceTransformer

    from bench.bench_encoder import MODEL_PACKAGE, TEXT_PACKAGE, paragraphs

    model, library = package(MODEL_PACKAGE), package(TEXT_PACKAGE)
    assert model is not None and library is not None  # the benchmark looked
    encoder = prepared(contender, SentenceTransformer(str(model / "model"), device="cpu"))
    texts = paragraphs(library, PARAGRAPHS)
    call = partial(encoder.encode, texts, show_progress_bar=False)
    return {"timed": call, "answer": call}


SMALL, LARGE = (1, 4, 8, 16), (1, 8, 2048, 64)
STEP, CACHE = (8, 32, 1, 128), (8, 8, 4096, 128)
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
STEP_GOALS = {"float32": 3.0, "bfloat16": 5.0}
_large = partial(attention, rows=LARGE, keys=LARGE, dtype="float32")

SMALL_CALLS = [
    Program("attention, 4 x 8 x 16", partial(attention, rows=SMALL, keys=SMALL, dtype="float32"), others=(ENABLED,)),
    Program(
        "the same, passed on", partial(attention, rows=SMALL, keys=(1, 1, 8, 16), dtype="float32"), others=(ENABLED,)
    ),
]
PROGRAMS = [
    Program("attention, 8 x 2048 x 64", _large, {ENABLED: 1.25}),
    Program("causal", partial(_large, is_causal=True), {ENABLED: 1.5}),
    Program("causal by a boolean mask", partial(_large, mask="causal"), {ENABLED: 2.5}),
    Program("bfloat16", partial(_large, dtype="bfloat16"), {ENABLED: 2.3}, tolerance=TOLERANCE["bfloat16"]),
    Program(
        "bfloat16, 8 steps of 32 / 8 heads after 4,096 keys",
        partial(attention, rows=STEP, keys=CACHE, dtype="bfloat16", enable_gqa=True),
        {ENABLED: 15.0},
        tolerance=TOLERANCE["bfloat16"],
    ),
    *(
        Program(
            f"BERT-base, 8 x 128, {'44 % padding, ' * padded}{dtype}",
            partial(bert, dtype=dtype, padded=padded),
            {ACCELERATED: 2.0} if padded else {},
            (ENABLED,) if padded else (ENABLED, ACCELERATED),
            tolerance=tolerance,
        )
        for dtype, tolerance in TOLERANCE.items()
        for padded in (False, True)
    ),
    *(
        Program(
            f"nn.TransformerEncoder, 4 x 512 x 512{', half padding' * padded}",
            partial(transformer_encoder, padded=padded),
            others=(ACCELERATED,),
        )
        for padded in (False, True)
    ),
    Program("attention 8 x 2048 x 64 trained", trained_attention, others=(ENABLED,)),
    Program("the same with dropout of .1", partial(trained_attention, dropout=0.1), {ENABLED: 3.0}),
    Program("and half of the pairs masked", partial(trained_attention, dropout=0.1, masked=True), {ENABLED: 2.5}),
    Program(
        "a training step of 6 layers, 16 x 128 x 384, 44 % padding",
        training_step,
        {ACCELERATED: 1.6},
        (ENABLED,),
        tolerance=1e-3,
    ),
    Program(
        f"SentenceTransformer, {PARAGRAPHS} paragraphs", sentences, {ACCELERATED: 2.8, INT8: 6.0}, others=(ENABLED,)
    ),
    *(
        Program(
            f"Llama's, 135M, a step after {PROMPT:,} tokens, {dtype}",
            partial(steps, dtype=dtype),
            {ACCELERATED: goal},
            (ENABLED,),
            STEPS,
            TOLERANCE[dtype],
        )
        for dtype, goal in STEP_GOALS.items()
    ),
]
