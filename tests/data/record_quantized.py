"""Records models whose weights other tools have made int8, for tests/models/test_quantized.py.

Run with torch, transformers, compressed-tensors and bitsandbytes installed: python -m tests.data.record_quantized
"""

import json
import tempfile
import warnings
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "quantized"
CASES = ["compressed-w8a8", "compressed-w8a16", "bitsandbytes"]
_SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 22,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
    "attn_implementation": "eager",
}


def plain():
    """A model before that."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model, rng = LlamaForCausalLM(LlamaConfig(**_SIZES)).eval(), np.random.default_rng(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.from_numpy(rng.normal(0, 0.25, tuple(parameter.shape))))
    return model


def compressed(inputs, folder):
    """compressed-tensors' files, and the model with the weights that they stand for."""
    import torch
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
        apply_quantization_config,
    )

    model = plain()
    weights = QuantizationArgs(num_bits=8, strategy="channel")
    of_inputs = QuantizationArgs(num_bits=8, strategy="token", dynamic=True) if inputs else None
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=of_inputs)
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"]))
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            with torch.no_grad():
                module.weight_scale.copy_(module.weight.abs().amax(1, keepdim=True) / 127.5)
            module.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    compressor.decompress_model(model)
    return dict(model.named_parameters())


def eight_bits(folder):
    """bitsandbytes' files, and the model with the weights that they stand for."""
    import torch
    from transformers import BitsAndBytesConfig, LlamaForCausalLM

    plain().save_pretrained(folder / "plain")
    options = {
        "quantization_config": BitsAndBytesConfig(load_in_8bit=True),
        "device_map": "cpu",
        "dtype": torch.float32,
    }
    model = LlamaForCausalLM.from_pretrained(folder / "plain", **options)
    model.save_pretrained(folder)
    return dict(model.dequantize(torch.float32).named_parameters())


def main():
    import torch
    from safetensors.numpy import load_file, save_file

    warnings.filterwarnings("ignore")
    FOLDER.mkdir(exist_ok=True)
    ids = np.random.default_rng(1).integers(0, 40, (2, 9))
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            values = eight_bits(folder) if case == "bitsandbytes" else compressed(case == "compressed-w8a8", folder)
            tensors, config = load_file(folder / "model.safetensors"), (folder / "config.json").read_text()
        model = plain()
        with torch.inference_mode():
            for name, parameter in model.named_parameters():
                parameter.copy_(values[name])
            logits = model(torch.from_numpy(ids)).logits.numpy()
        stored = {f"state.{name}": x for name, x in tensors.items()} | {"input.ids": ids, "output.logits": logits}
        save_file(stored, FOLDER / f"{case}.safetensors", {"config": json.dumps(json.loads(config))})
        print(case)


if __name__ == "__main__":
    main()
