"""Records what transformers' generative models of every family compute, for tests/models/test_generative.py.

Run with torch and transformers installed: python -m tests.data.record_generative [CASE ...]
The two families that transformers has not are computed by torch's own layers.
"""

import json
import math
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "generative"

_TOKENS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
_SEQ2SEQ = {
    "vocab_size": 40,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 12,
    "max_position_embeddings": 24,
    "decoder_start_token_id": 2,
    **_TOKENS,
}
_WHISPER = {
    **{key: value for key, value in _SEQ2SEQ.items() if key != "max_position_embeddings"},
    "encoder_layers": 1,
    "num_mel_bins": 6,
    "max_source_positions": 9,
    "max_target_positions": 32,
    "suppress_tokens": [7, 9],
    "begin_suppress_tokens": [2, 11],
}
_T5 = {
    "vocab_size": 40,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
_GPT2 = {
    "vocab_size": 40,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 32,
    "bos_token_id": 2,
    "eos_token_id": 2,
}
_LLAMA = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "rope_theta": 5000.0,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": None,
}
_QWEN3 = {**_LLAMA, "head_dim": 6, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
_GEMMA3 = {
    **_LLAMA,
    "num_hidden_layers": 3,
    "head_dim": 6,
    "query_pre_attn_scalar": 10,
    "sliding_window": 4,
    "sliding_window_pattern": 2,
    "rope_local_base_freq": 100.0,
}
_TORCH = {
    **_SEQ2SEQ,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 20,
    "activation_function": "relu",
    "norm_first": False,
    "layer_norm_eps": 1e-5,
    "scale_embedding": True,
}
_LATEX = {
    **_TORCH,
    "activation_function": "gelu",
    "norm_first": True,
    "layer_norm_eps": 1e-6,
    "scale_embedding": False,
    "image_size": [8, 12],
    "patch_size": 4,
    "num_channels": 1,
    "suppress_tokens": [0, 1],
}


def _scaled(**scaling):
    small = {"num_hidden_layers": 1, "head_dim": 8, "rope_parameters": {"rope_theta": 100.0, **scaling}}
    return {key: value for key, value in _LLAMA.items() if key != "rope_theta"} | small


# case -> (the class's beginning, the configuration, what generation_config.json says)
CASES = {
    "bart": ("Bart", {**_SEQ2SEQ, "activation_function": "gelu", "forced_eos_token_id": 2}, {}),
    "bart-scaled": ("Bart", {**_SEQ2SEQ, "activation_function": "relu", "scale_embedding": True}, {"min_length": 4}),
    "mbart": ("MBart", {**_SEQ2SEQ, "scale_embedding": True}, {"forced_bos_token_id": 33, "no_repeat_ngram_size": 2}),
    "marian": (
        "Marian",
        {
            **_SEQ2SEQ,
            "activation_function": "swish",
            "scale_embedding": True,
            "pad_token_id": 39,
            "decoder_start_token_id": 39,
            "eos_token_id": 0,
        },
        {"bad_words_ids": [[39]], "forced_eos_token_id": 0, "length_penalty": 0.6, "num_beams": 4},
    ),
    "t5": ("T5", _T5, {}),
    "t5-gated": ("T5", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, {}),
    "whisper": ("Whisper", _WHISPER, {}),
    "gpt2": ("GPT2", _GPT2, {"repetition_penalty": 1.3}),
    "gpt2-inner": (
        "GPT2",
        {**_GPT2, "n_inner": 20, "tie_word_embeddings": False},
        {"early_stopping": True, "num_beams": 4},
    ),
    "llama": ("Llama", _LLAMA, {}),
    "llama-tied": ("Llama", {**_LLAMA, "head_dim": 6, "num_key_value_heads": 1, "tie_word_embeddings": True}, {}),
    "llama-biases": ("Llama", {**_LLAMA, "attention_bias": True, "mlp_bias": True}, {}),
    "llama-linear": ("Llama", _scaled(rope_type="linear", factor=2.0), {}),
    "llama-dynamic": ("Llama", _scaled(rope_type="dynamic", factor=2.0), {}),
    "llama-yarn": ("Llama", _scaled(rope_type="yarn", factor=4.0, original_max_position_embeddings=8), {}),
    "llama-llama3": (
        "Llama",
        _scaled(
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=16,
        ),
        {},
    ),
    "mistral": ("Mistral", {**_LLAMA, "sliding_window": 4}, {}),
    "qwen2": ("Qwen2", {**_LLAMA, "sliding_window": 4, "max_window_layers": 1}, {}),
    "qwen2-windows": (
        "Qwen2",
        {**_LLAMA, "num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
        {},
    ),
    "qwen3": ("Qwen3", {**_LLAMA, "head_dim": 8, "tie_word_embeddings": True}, {}),
    "qwen3-windows": ("Qwen3", {**_QWEN3, "num_hidden_layers": 3, "attention_bias": True}, {}),
    "gemma3": ("Gemma3", _GEMMA3, {}),
    "gemma3-scaled": (
        "Gemma3",
        {
            **_GEMMA3,
            "attention_bias": True,
            "final_logit_softcapping": 3.0,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            "tie_word_embeddings": False,
        },
        {},
    ),
    "annalog": ("", {**_TORCH, "model_type": "annalog"}, {}),
    "latex-ocr": ("", {**_LATEX, "model_type": "latex-ocr"}, {}),
}

# Cases whose config.json says it as files did before transformers 5.
OLD = ("bart", "t5-gated", "llama", "llama-linear", "llama-llama3", "mistral", "qwen2-windows", "gemma3-scaled")

SOURCE_LENGTHS = [9, 1, 6]
PROMPT_LENGTHS = [7, 2, 10]
NEW_TOKENS = 12
BEAMS = 4


def make(case, seed):
    """config.json's contents, tensors by their names in files, inputs and outputs of one case.

    The contents have those of generation_config.json under "generation", unless config.json says them.
    """
    return _of_transformers(case, seed) if CASES[case][0] else _of_torch(case, seed)


def _inputs(values, rng):
    inputs = {}
    if "num_mel_bins" in values:
        shape = (2, 2 * values["max_source_positions"], values["num_mel_bins"])
        inputs["frames"] = rng.standard_normal(shape, dtype=np.float32)
    elif "image_size" in values:
        inputs["pixels"] = rng.standard_normal((2, 1, *values["image_size"]), dtype=np.float32)
    elif values.get("is_encoder_decoder") or "encoder_layers" in values:
        inputs["ids"] = rng.integers(3, 39, (len(SOURCE_LENGTHS), max(SOURCE_LENGTHS)))
        inputs["lengths"] = np.array(SOURCE_LENGTHS)
    count = len(next(iter(inputs.values()), PROMPT_LENGTHS))
    inputs["prompts"] = rng.integers(3, 39, (count, max(PROMPT_LENGTHS)))
    inputs["prompt_lengths"] = np.array(PROMPT_LENGTHS[:count])
    return inputs


def randomize(parameters, rng):
    import torch

    with torch.no_grad():
        for parameter in parameters:
            centre = 1.0 if parameter.ndim == 1 and parameter.mean() == 1 else 0.0
            parameter.copy_(torch.from_numpy(rng.normal(centre, 0.25, tuple(parameter.shape))))


def _of_transformers(case, seed):
    import torch
    import transformers
    from safetensors.numpy import load_file

    family, changes, generation = CASES[case]
    seq2seq = family not in ("GPT2", "Llama", "Mistral", "Qwen2", "Qwen3", "Gemma3")
    suffix = {"GPT2": "LMHeadModel", "Marian": "MTModel"}.get(
        family, "ForConditionalGeneration" if seq2seq else "ForCausalLM"
    )
    config = getattr(transformers, f"{family}TextConfig" if family == "Gemma3" else f"{family}Config")(
        **changes, attn_implementation="eager"
    )
    model = getattr(transformers, family + suffix)(config).eval()
    if family == "T5" and changes.get("tie_word_embeddings") is False:  # transformers 5 makes none that is not tied
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    rng = np.random.default_rng(seed)
    sines = "embed_positions" if family == "Marian" else "-"
    randomize(dict.fromkeys(x for name, x in model.named_parameters() if sines not in name), rng)
    if family in ("Bart", "MBart", "Marian"):
        randomize([model.final_logits_bias], rng)
    if case not in ("bart", "marian"):  # so many that some sequences end
        generation = {"eos_token_id": [model.config.eos_token_id, 8, 13, 21, 34], **generation}
    model.generation_config.update(**generation)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = load_file(Path(folder) / "model.safetensors")
        values = json.loads((Path(folder) / "config.json").read_text())
        values["generation"] = json.loads((Path(folder) / "generation_config.json").read_text())
    if case in OLD:
        values = _before_5(case, values)
    inputs, outputs = _inputs(values, rng), {}
    with torch.inference_mode():
        for i, (prompt, length) in enumerate(zip(inputs["prompts"], inputs["prompt_lengths"], strict=True)):
            prompt = torch.from_numpy(prompt[None, :length])
            given = {"input_ids": prompt}
            if "frames" in inputs:
                given = {"input_features": torch.from_numpy(inputs["frames"][i : i + 1]).transpose(1, 2)}
            elif seq2seq:
                given = {"input_ids": torch.from_numpy(inputs["ids"][i : i + 1, : inputs["lengths"][i]])}
            if seq2seq:
                outputs[f"memory.{i}"] = model.get_encoder()(next(iter(given.values()))).last_hidden_state[0]
                outputs[f"logits.{i}"] = model(**given, decoder_input_ids=prompt).logits[0]
            else:
                outputs[f"logits.{i}"] = model(prompt).logits[0]
            if "input_ids" in given:
                given["attention_mask"] = torch.ones_like(given["input_ids"])
            for name, beams in (("greedy", 1), ("beams", BEAMS)):
                ids = transformers.GenerationMixin.generate(
                    model, **given, num_beams=beams, do_sample=False, max_new_tokens=NEW_TOKENS
                )
                outputs[f"{name}.{i}"] = ids[0, 1 if seq2seq else prompt.shape[1] :]
    return values, tensors, inputs, {name: x.numpy() for name, x in outputs.items()}


def _before_5(case, values):
    rotary = values.pop("rope_parameters", None)
    if case == "gemma3-scaled":
        values["rope_local_base_freq"] = rotary["sliding_attention"]["rope_theta"]
        rotary = rotary["full_attention"]
        del values["layer_types"]
    if rotary is not None:
        values["rope_theta"] = rotary.pop("rope_theta")
        if case == "llama-linear":
            rotary["type"] = rotary.pop("rope_type")
        values["rope_scaling"] = None if rotary.get("rope_type") == "default" else rotary
    values["torch_dtype"] = values.pop("dtype")
    if case == "t5-gated":
        del values["scale_decoder_outputs"]
        values["tie_word_embeddings"] = False
    if case == "bart":  # config.json alone
        values |= {**values.pop("generation"), "num_beams": 4, "max_length": 20, "task_specific_params": {"x": {}}}
    if case == "qwen2-windows":
        del values["layer_types"]
    return values


def _of_torch(case, seed):
    import torch
    from torch import nn
    from torch.nn.functional import layer_norm

    _, values, _ = CASES[case]
    width, eps, rng = values["d_model"], values["layer_norm_eps"], np.random.default_rng(seed)
    model = nn.Transformer(
        width,
        values["encoder_attention_heads"],
        values["encoder_layers"],
        values["decoder_layers"],
        values["encoder_ffn_dim"],
        activation=values["activation_function"],
        layer_norm_eps=eps,
        batch_first=True,
        norm_first=values["norm_first"],
    ).eval()
    if not values["norm_first"]:
        model.encoder.norm = model.decoder.norm = None
    images = "image_size" in values
    more = {
        "decoder.token_embedding.weight": (values["vocab_size"], width),
        "decoder.position_embedding.weight": (values["max_position_embeddings"], width),
        "generator.weight": (values["vocab_size"], width),
        "generator.bias": (values["vocab_size"],),
    }
    if images:
        patch = values["patch_size"]
        patches = math.prod(side // patch for side in values["image_size"])
        more |= {
            "encoder.patch_embedding.weight": (width, values["num_channels"], patch, patch),
            "encoder.patch_embedding.bias": (width,),
            "encoder.position_embedding.weight": (patches, width),
            **{f"{side}.embedding_norm.{x}": (width,) for side in ("encoder", "decoder") for x in ("weight", "bias")},
        }
    else:
        more |= {name.replace("decoder", "encoder"): more[name] for name in list(more) if name.startswith("decoder")}
    parameters = {name: nn.Parameter(torch.zeros(shape)) for name, shape in more.items()}
    randomize([*model.parameters(), *parameters.values()], rng)
    tensors = {name: x.detach() for name, x in [*model.named_parameters(), *parameters.items()]}
    scale = math.sqrt(width) if values["scale_embedding"] else 1.0

    def embed(side, tokens):
        x = tensors[f"{side}.token_embedding.weight"][tokens] * scale
        x = x + tensors[f"{side}.position_embedding.weight"][: len(tokens)]
        return norm(side, x) if images else x

    def norm(side, x):
        parts = (tensors[f"{side}.embedding_norm.{x}"] for x in ("weight", "bias"))
        return layer_norm(x, (width,), *parts, eps)

    def encode(i):
        if not images:
            return model.encoder(embed("encoder", inputs["ids"][i, : inputs["lengths"][i]])[None])
        weight, bias = (tensors[f"encoder.patch_embedding.{x}"] for x in ("weight", "bias"))
        pixels = torch.from_numpy(inputs["pixels"][i : i + 1])
        x = nn.functional.conv2d(pixels, weight, bias, stride=patch).flatten(2).transpose(1, 2)
        return model.encoder(norm("encoder", x + tensors["encoder.position_embedding.weight"]))

    def logits(tokens, memory):
        mask = nn.Transformer.generate_square_subsequent_mask(len(tokens))
        hidden = model.decoder(embed("decoder", tokens)[None], memory, tgt_mask=mask)[0]
        return hidden @ tensors["generator.weight"].T + tensors["generator.bias"]

    inputs, outputs = _inputs(values, rng), {}
    with torch.inference_mode():
        for i, (prompt, length) in enumerate(zip(inputs["prompts"], inputs["prompt_lengths"], strict=True)):
            memory = encode(i)
            outputs |= {f"memory.{i}": memory[0], f"logits.{i}": logits(prompt[:length], memory)}
            tokens = [values["decoder_start_token_id"]]
            while len(tokens) <= NEW_TOKENS and values["eos_token_id"] not in tokens[1:]:
                scores = logits(np.array(tokens), memory)[-1]
                scores[values.get("suppress_tokens", [])] = -np.inf
                tokens.append(int(scores.argmax()))
            outputs[f"greedy.{i}"] = torch.tensor(tokens[1:])
    numbers = {name: x.numpy() for name, x in tensors.items()}
    return values, numbers, inputs, {name: x.numpy() for name, x in outputs.items()}


def save(file, values, tensors, inputs, outputs):
    """Writes a case where tests.support.recorded reads it."""
    from safetensors.numpy import save_file

    arrays = {
        f"{part}.{name}": np.ascontiguousarray(x)
        for part, parts in (("state", tensors), ("input", inputs), ("output", outputs))
        for name, x in parts.items()
    }
    save_file(arrays, file, {"config": json.dumps(values)})


def main():
    import transformers

    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    FOLDER.mkdir(exist_ok=True)
    for case in sys.argv[1:] or CASES:
        values, tensors, inputs, outputs = make(case, seed=0)
        save(FOLDER / f"{case}.safetensors", values, tensors, inputs, outputs)
        print(case, [len(outputs[name]) for name in outputs if name.startswith(("greedy", "beams"))])


if __name__ == "__main__":
    main()
