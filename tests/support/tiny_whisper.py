"""A small Whisper of random weights, its tokenizer of words, and sounds; NumPy alone."""

import json

import numpy as np

WORDS = ["hello", "world", "again", "so", *(f"w{i}" for i in range(36))]
SPECIAL = ["endoftext", "startoftranscript", "en", "de", "translate", "transcribe", "startofprev", "nospeech"]
SPECIAL = [f"<|{name}|>" for name in [*SPECIAL, "notimestamps"]]
IDS = {name: i for i, name in enumerate(WORDS + SPECIAL)}
STAMP = len(IDS)  # <|0.00|>
END, BEGIN = IDS["<|endoftext|>"], IDS["<|startoftranscript|>"]
CONFIG = {
    "model_type": "whisper",
    "vocab_size": STAMP + 1501,
    "num_mel_bins": 8,
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 24,
    "max_source_positions": 1500,
    "max_target_positions": 48,
    "activation_function": "gelu",
    "decoder_start_token_id": BEGIN,
    "pad_token_id": END,
    "bos_token_id": END,
    "eos_token_id": END,
}
# As in the files of published models
SETTINGS = {
    "begin_suppress_tokens": [IDS["so"], END],
    "bos_token_id": END,
    "decoder_start_token_id": BEGIN,
    "eos_token_id": END,
    "forced_decoder_ids": [[1, None], [2, IDS["<|transcribe|>"]]],
    "is_multilingual": True,
    "lang_to_id": {"<|en|>": IDS["<|en|>"], "<|de|>": IDS["<|de|>"]},
    "max_initial_timestamp_index": 50,
    "max_length": 48,
    "no_timestamps_token_id": IDS["<|notimestamps|>"],
    "pad_token_id": END,
    "prev_sot_token_id": IDS["<|startofprev|>"],
    "return_timestamps": False,
    "suppress_tokens": [IDS["w0"], *(IDS[f"<|{x}|>"] for x in ("translate", "transcribe", "startofprev", "nospeech"))],
    "task_to_id": {"transcribe": IDS["<|transcribe|>"], "translate": IDS["<|translate|>"]},
}


def tensors(seed=0):
    """Under the names of files."""
    rng = np.random.default_rng(seed)
    width, inner = CONFIG["d_model"], CONFIG["decoder_ffn_dim"]
    shapes = {
        "encoder.conv1.weight": (width, 8, 3),
        "encoder.conv2.weight": (width, width, 3),
        "encoder.embed_positions.weight": (1500, width),
        "decoder.embed_positions.weight": (48, width),
        "decoder.embed_tokens.weight": (CONFIG["vocab_size"], width),
    }
    for part in ("encoder.conv1", "encoder.conv2", "encoder.layer_norm", "decoder.layer_norm"):
        shapes[f"{part}.bias"] = (width,)
    for part in ("encoder.layer_norm", "decoder.layer_norm"):
        shapes[f"{part}.weight"] = (width,)
    for side, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "encoder_attn"])):
        layer = f"{side}.layers.0"
        for attention in attentions:
            for x in "qkv":
                shapes[f"{layer}.{attention}.{x}_proj.weight"] = (width, width)
                if x != "k":
                    shapes[f"{layer}.{attention}.{x}_proj.bias"] = (width,)
            shapes |= {
                f"{layer}.{attention}.out_proj.weight": (width, width),
                f"{layer}.{attention}.out_proj.bias": (width,),
            }
            shapes |= {f"{layer}.{attention}_layer_norm.{x}": (width,) for x in ("weight", "bias")}
        shapes |= {f"{layer}.final_layer_norm.{x}": (width,) for x in ("weight", "bias")}
        shapes |= {f"{layer}.fc1.weight": (inner, width), f"{layer}.fc1.bias": (inner,)}
        shapes |= {f"{layer}.fc2.weight": (width, inner), f"{layer}.fc2.bias": (width,)}
    return {f"model.{name}": rng.standard_normal(shape, dtype=np.float32) * 0.3 for name, shape in shapes.items()}


def tokenizer():
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(IDS, unk_token="so"))
    made.add_special_tokens(SPECIAL)
    return made


def write_whisper(folder, settings=None, seed=0, **changes):
    """The directory of such a model; settings: its generation_config.json."""
    from safetensors.numpy import save_file

    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    if settings is not None:
        (folder / "generation_config.json").write_text(json.dumps(settings))
    save_file(tensors(seed), folder / "model.safetensors", {"format": "pt"})
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def sound(seconds, seed=0):
    return (np.random.default_rng(seed).standard_normal(round(seconds * 16000)) * 0.1).astype(np.float32)
