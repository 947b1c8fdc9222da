"""Model directories with a recorded generative model and a tokenizer of its forty tokens."""

import json

from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.data.record_generative import FOLDER


def write_generator(folder, case, **changes):
    """w3 ... w39 are the words; <0>, <1> and <2> are special, and <2> ends what an encoder reads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    with safe_open(FOLDER / f"{case}.safetensors", "numpy") as file:
        config = json.loads(file.metadata()["config"]) | changes
    generation = config.pop("generation", None)
    tensors = {
        name.removeprefix("state."): x
        for name, x in load_file(FOLDER / f"{case}.safetensors").items()
        if name.startswith("state.")
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    save_file(tensors, folder / "model.safetensors")
    special = ["<0>", "<1>", "<2>"]
    vocabulary = {word: i for i, word in enumerate(special + [f"w{i}" for i in range(3, config["vocab_size"])])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if "encoder_layers" in config:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A <2>", special_tokens=[("<2>", 2)])
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
