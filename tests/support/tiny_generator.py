"""Model directories with a recorded generative model and a tokenizer of its forty tokens."""

from tests.data.record_generative import FOLDER
from tests.support.recorded import recorded, write


def write_generator(folder, case, **changes):
    """w3 ... w39 are the words; <0>, <1> and <2> are special, and <2> ends what an encoder reads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    config, tensors, *_ = recorded(case, FOLDER)
    config |= changes
    write(folder, config, tensors)
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
