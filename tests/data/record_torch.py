"""Records what torch computes, so that tests/test_torch_recorded.py can compare with it where torch is not installed.

Run by hand, with torch and safetensors installed: python -m tests.data.record_torch

Writes one safetensors file for each case into the folder torch beside this script. Its tensors:
    state.<name>: the module's state dict, unchanged.
    input.query, input.key, input.value: what the module was given; without a key the query is all three, without a
        value the key is both. An encoder has only a query.
    input.attn_mask, input.key_padding_mask: boolean, in torch's sense: True = may not attend.
    output.plain, output.padded, output.causal, output.both: with no mask, the second, the first, and both of them.
Its metadata: `config`, the module and its arguments as JSON; torch's version stands there, too.
"""

import itertools
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

FOLDER = Path(__file__).parent / "torch"
WIDTH, HEADS, HIDDEN, LAYERS = 16, 2, 24, 2
QUERIES, KEYS = 7, 9


def make(module, arguments):
    """The module that the configuration describes, with parameters that all matter to its output."""
    if module == "TransformerEncoder":
        layer = arguments["layer"]
        model = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**layer, dropout=0.0, batch_first=True),
            arguments["num_layers"],
            nn.LayerNorm(layer["d_model"], bias=layer["bias"]) if arguments["norm"] else None,
            enable_nested_tensor=False,
        )
    elif module == "TransformerEncoderLayer":
        model = nn.TransformerEncoderLayer(**arguments, dropout=0.0, batch_first=True)
    else:
        model = nn.MultiheadAttention(**arguments, batch_first=True)
    for parameter in model.parameters():  # fresh ones would not do: norms of ones, biases of zeros, layers all alike
        nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 0.5, 0.3)
    return model.eval()


def record(name, module, arguments, widths=(WIDTH,), keys=QUERIES):
    """Writes the file of one case; widths: of the query and, where they are given, of the key and the value."""
    torch.manual_seed(0)
    model = make(module, arguments)
    lengths = (QUERIES, keys, keys)
    inputs = [torch.randn(2, length, width) for length, width in zip(lengths, widths, strict=False)]
    triangle = ~torch.ones(QUERIES, keys, dtype=torch.bool).tril()
    padding = torch.arange(keys) >= torch.tensor([[keys], [4]])
    encodes = module != "MultiheadAttention"

    def output(attn_mask=None, key_padding_mask=None):
        if encodes:
            mask = {"src_mask" if module == "TransformerEncoderLayer" else "mask": attn_mask}
            return model(*inputs, **mask, src_key_padding_mask=key_padding_mask)
        arrays = [*inputs, *[inputs[-1]] * (3 - len(inputs))]
        return model(*arrays, attn_mask=attn_mask, key_padding_mask=key_padding_mask, need_weights=False)[0]

    tensors = {f"state.{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"input.{key}": x for key, x in zip(("query", "key", "value"), inputs, strict=False)}
    tensors |= {"input.attn_mask": triangle, "input.key_padding_mask": padding}
    with torch.inference_mode():
        tensors["output.plain"] = output()
        tensors["output.padded"] = output(key_padding_mask=padding)
        tensors["output.causal"] = output(triangle)
        tensors["output.both"] = output(triangle, padding)
    # One key: safetensors writes several in a random order, and the same case should give the same bytes.
    config = {"module": module, "arguments": arguments, "torch": torch.__version__.split("+")[0]}
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    save_file(tensors, FOLDER / f"{name}.safetensors", {"config": json.dumps(config)})


def main():
    FOLDER.mkdir(exist_ok=True)
    for bias in (True, False):
        end = "" if bias else "-nobias"
        arguments = {"embed_dim": WIDTH, "num_heads": HEADS, "bias": bias}
        record(f"attention-self{end}", "MultiheadAttention", arguments)
        record(f"attention-cross{end}", "MultiheadAttention", arguments, (WIDTH, WIDTH), KEYS)
        arguments |= {"kdim": 10, "vdim": 20}
        record(f"attention-kdim-vdim{end}", "MultiheadAttention", arguments, (WIDTH, 10, 20), KEYS)
        for norm_first, activation in itertools.product((False, True), ("relu", "gelu")):
            if not bias and norm_first == (activation == "relu"):
                continue  # one activation each is enough without a bias
            name = f"{'pre' if norm_first else 'post'}norm-{activation}{end}"
            layer = {"d_model": WIDTH, "nhead": HEADS, "dim_feedforward": HIDDEN, "activation": activation}
            layer |= {"norm_first": norm_first, "bias": bias}
            record(f"layer-{name}", "TransformerEncoderLayer", layer)
            arguments = {"layer": layer, "num_layers": LAYERS, "norm": norm_first}
            record(f"encoder-{name}", "TransformerEncoder", arguments)


if __name__ == "__main__":
    main()
