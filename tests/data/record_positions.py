"""Records what transformers computes from positions, for tests/positional/ where transformers is not installed.

Run by hand, with torch, transformers and safetensors installed: python -m tests.data.record_positions

Writes positions.safetensors beside this script. Its tensors:
    rotary.<n>: the inverse frequencies of case n of the metadata.
    whisper: sinusoidal positions of 6 positions of width 8.
    bloom.<heads>: ALiBi's slopes.
    t5.<kind>: biases (1, H, 9, 40) from t5.weight (32, H), for kind "encoder" and "decoder", the last 9 of 40 queries.
    vits.state.<name>, vits.input (1, 11, 8), vits.padding (11,), vits.output: an attention layer of two heads.
Its metadata: `rotary`, a list in JSON of arguments, sequence lengths and the factors of cosines and sines.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, T5Config, VitsConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.vits.modeling_vits import VitsAttention
from transformers.models.whisper.modeling_whisper import sinusoids

WIDTH = 16
FACTORS = {"short_factor": [1 + i / 8 for i in range(8)], "long_factor": [2.0 + i * i for i in range(8)]}
ROTARY = [
    (10000.0, 2048, {"rope_type": "linear", "factor": 4.0}),
    (10000.0, 64, {"rope_type": "dynamic", "factor": 2.0}),
    (10000.0, 2048, {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 128}),
    (1e6, 2048, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "truncate": False}),
    (
        10000.0,
        4096,
        {
            "rope_type": "yarn",
            "factor": 40.0,
            "original_max_position_embeddings": 512,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 0.7,
            "mscale_all_dim": 0.4,
        },
    ),
    (150.0, 64, {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "attention_factor": 1.5}),
    (
        500000.0,
        131072,
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
    (10000.0, 512, {"rope_type": "longrope", "original_max_position_embeddings": 64, "factor": 8.0, **FACTORS}),
    (
        10000.0,
        512,
        {"rope_type": "longrope", "original_max_position_embeddings": 64, "attention_factor": 1.25, **FACTORS},
    ),
]
LENGTHS = (1, 64, 65, 300)


def rotary():
    """The tensors and the cases of ROTARY."""
    tensors, cases = {}, []
    for base, longest, scaling in ROTARY:
        config = LlamaConfig(
            hidden_size=2 * WIDTH,
            num_attention_heads=2,
            max_position_embeddings=longest,
            rope_parameters={"rope_theta": base, **scaling},
        )
        for length in LENGTHS if scaling["rope_type"] in ("dynamic", "longrope") else LENGTHS[:1]:
            frequencies, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, seq_len=length)
            tensors[f"rotary.{len(cases)}"] = frequencies.clone()
            scaling = {**scaling, "max_position_embeddings": longest}
            cases.append({"base": base, "scaling": scaling, "sequence_length": length, "factor": factor})
    return tensors, cases


def t5():
    tensors = {"t5.weight": torch.randn(32, 3)}
    for kind in ("encoder", "decoder"):
        config = T5Config(d_model=6, d_kv=2, num_heads=3, is_decoder=kind == "decoder")
        layer = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
        layer.load_state_dict({"relative_attention_bias.weight": tensors["t5.weight"]}, strict=False)
        tensors[f"t5.{kind}"] = layer.compute_bias(40, 40)[:, :, -9:]
    return tensors


def vits():
    layer = VitsAttention(VitsConfig(hidden_size=8, num_attention_heads=2, window_size=4, attention_dropout=0.0)).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.5)
    x = torch.randn(1, 11, 8)
    padding = torch.arange(11) < 9
    mask = torch.zeros(1, 1, 11, 11).masked_fill(~padding, torch.finfo(torch.float32).min)
    tensors = {f"vits.state.{name}": value for name, value in layer.state_dict().items()}
    return tensors | {"vits.input": x, "vits.padding": padding, "vits.output": layer(x, attention_mask=mask)[0]}


def main():
    torch.manual_seed(0)
    tensors, cases = rotary()
    with torch.inference_mode():
        tensors |= {"whisper": sinusoids(6, 8), **t5(), **vits()}
        for heads in (1, 6, 8, 12, 20):
            ones = torch.ones(1, 2)
            tensors[f"bloom.{heads}"] = build_alibi_tensor(ones, heads, torch.float32)[:, 0, 1]
    tensors = {key: value.contiguous().clone() for key, value in tensors.items()}
    save_file(tensors, Path(__file__).parent / "positions.safetensors", {"rotary": json.dumps(cases)})


if __name__ == "__main__":
    main()
