"""Records what transformers' AutoTokenizer makes of texts beside every setting, for test_tokenizer_settings.py.

Run with transformers installed: python -m tests.data.record_tokenizers
"""

import base64
import contextlib
import json
import tempfile
import warnings
from pathlib import Path

FILE = Path(__file__).parent / "tokenizers.json"


def rules():
    """Those of a sentencepiece model that make one ligature two letters."""
    import sentencepiece

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "rules.tsv").write_text("FB01\t66 69\n")
        Path(folder, "text").write_text("hello world\n" * 9)
        sentencepiece.SentencePieceTrainer.train(
            input=f"{folder}/text",
            model_prefix=f"{folder}/x",
            vocab_size=12,
            normalization_rule_tsv=f"{folder}/rules.tsv",
        )
        from sentencepiece import sentencepiece_model_pb2

        model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
        model.ParseFromString(Path(folder, "x.model").read_bytes())
        return model.normalizer_spec.precompiled_charsmap


def answers(folder, texts, longest):
    """Tokens, the text that they are decoded to, and tokens of cut texts; None where transformers raises."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        results = []
        for text in texts:
            ids = tokenizer(text).input_ids
            cut = tokenizer(text, truncation=True, max_length=longest).input_ids
            results.append([ids, tokenizer.decode(ids, skip_special_tokens=True), cut if cut != ids else 0])
        return results
    except Exception:
        return None


def main():
    import transformers

    from tests.support import tiny_tokenizers as tiny

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    charsmap = rules()
    results, index = [], []
    for case in tiny.cases():
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(None):
            tiny.write_tokenizer(Path(folder), *case, charsmap)
            answer = answers(folder, tiny.TEXTS, tiny.LONGEST)
        if answer not in results:
            results.append(answer)
        index.append(results.index(answer))
    lines = ",\n".join(json.dumps(x, separators=(",", ":"), ensure_ascii=False) for x in results)
    text = base64.b64encode(charsmap).decode()
    FILE.write_text(f'{{"charsmap": "{text}",\n"cases": {json.dumps(index)},\n"results": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
