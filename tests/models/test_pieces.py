"""Texts of tokens as they come: whole characters, once and for all, and the same as of all tokens at once."""

from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny_tokenizers as tiny

pytest.importorskip("tokenizers")

from pyattn.models.pieces import Decoder

LOST = "\N{REPLACEMENT CHARACTER}"
FILE = Path("tokenizer.json")
MARK = tiny.MARK


def tokenizer_of(words, decoder, special=("<s>",)):
    from tokenizers import Tokenizer, models

    tokens = [*special, *words]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=words[0]))
    tokenizer.add_special_tokens(list(special))
    tokenizer.decoder = decoder
    return tokenizer


def byte_fallback():
    """As Llama's: bytes of what the vocabulary lacks."""
    from tokenizers import decoders

    steps = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return tokenizer_of([MARK + "the", MARK, "cat", MARK + "a", *BYTES], decoders.Sequence(steps))


BYTES = [f"<0x{i:02X}>" for i in range(256)]


def byte_level():
    from tokenizers import decoders, pre_tokenizers

    return tokenizer_of(["the", "Ġcat", "Ġ", *sorted(pre_tokenizers.ByteLevel.alphabet())], decoders.ByteLevel())


def metaspace():
    from tokenizers import decoders

    return tokenizer_of([MARK + "the", MARK, "cat", MARK + "a", "."], decoders.Metaspace())


def word_pieces():
    from tokenizers import decoders

    return tokenizer_of(["the", "##s", "cat", ".", "'", "t"], decoders.WordPiece(prefix="##"))


def cleaned():
    from tokenizers import decoders

    steps = [decoders.Metaspace(), decoders.Fuse(), *(decoders.Replace(x, x[1:]) for x in (" .", " n't", " ' "))]
    words = [MARK + "the", MARK, "cat", MARK + "n", "n", "'t", "'", ".", MARK + ".", MARK + "'"]
    return tokenizer_of(words, decoders.Sequence(steps))


def pieces(tokenizer, before, tokens):
    return list(Decoder(tokenizer, "decode", FILE).pieces(before, tokens))


def ids(tokenizer, *tokens):
    return [tokenizer.token_to_id(token) for token in tokens]


def of_bytes(tokenizer, text):
    return ids(tokenizer, *(f"<0x{byte:02X}>" for byte in text))


SMILE = "\N{SLIGHTLY SMILING FACE}"


@pytest.mark.parametrize("with_words", [True, False])
def test_bytes_of_a_prompt_are_not_those_of_what_follows(with_words):
    tokenizer = byte_fallback()
    prompt = ids(tokenizer, *([MARK + "the", MARK] if with_words else [])) + of_bytes(tokenizer, SMILE.encode())
    assert "".join(pieces(tokenizer, prompt, of_bytes(tokenizer, b"\xf0\x9f"))) == LOST * 2
    assert pieces(tokenizer, prompt, of_bytes(tokenizer, SMILE.encode() * 2)) == [SMILE] * 2
    after = of_bytes(tokenizer, SMILE.encode()) + ids(tokenizer, MARK + "a") + of_bytes(tokenizer, b"\xf0\x9f")
    assert pieces(tokenizer, prompt, after) == [SMILE, " a", LOST * 2]
    assert pieces(tokenizer, prompt, of_bytes(tokenizer, b"ab\xc3\xa9")) == ["a", "b", "é"]


def test_a_space_is_kept_behind_a_prompt_and_dropped_in_front_of_a_text():
    for make, space in ((byte_fallback, MARK + "a"), (metaspace, MARK + "a"), (byte_level, "Ġcat")):
        tokenizer = make()
        [first] = ids(tokenizer, space)
        for prompt in (ids(tokenizer, "the" if make is byte_level else MARK + "the"), ids(tokenizer, "<s>")):
            behind = pieces(tokenizer, [*prompt, *ids(tokenizer, "<s>")], [first])
            kept = make is byte_level or len(pieces(tokenizer, [], prompt)) == 1
            assert behind == [" " * kept + tokenizer.decode([first]).strip()]


@pytest.mark.parametrize("make", [byte_level, metaspace, word_pieces, cleaned], ids=lambda make: make.__name__)
def test_pieces_make_the_text_of_all_tokens(make):
    tokenizer, rng = make(), np.random.default_rng(0)
    words = tokenizer.get_vocab_size()
    for _ in range(200):
        tokens = rng.integers(0, words, rng.integers(1, 20)).tolist()
        given = pieces(tokenizer, [], tokens)
        assert "".join(given) == tokenizer.decode(tokens)
        assert "" not in given
        if make is not cleaned:  # of which even the prompt's last characters may change
            prompt = [tokenizer.get_vocab()["the" if make in (byte_level, word_pieces) else MARK + "the"]]
            before, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *tokens])
            assert "".join(pieces(tokenizer, prompt, tokens)) == whole[len(before) :]


def test_random_bytes_come_in_whole_characters():
    tokenizer, rng = byte_fallback(), np.random.default_rng(1)
    texts = ["a", "é", "中", SMILE]
    for _ in range(100):
        chosen = "".join(rng.choice(texts, 9))
        given = pieces(tokenizer, ids(tokenizer, MARK + "the"), of_bytes(tokenizer, chosen.encode()))
        assert given == list(chosen)


@pytest.mark.parametrize("make", [byte_fallback, byte_level, metaspace, word_pieces], ids=lambda make: make.__name__)
def test_the_cost_of_a_token_does_not_grow(make):
    tokenizer, decoded = make(), []

    class Counting:
        decoder, id_to_token = tokenizer.decoder, staticmethod(tokenizer.id_to_token)

        def decode(self, tokens):
            decoded.append(len(tokens))
            return tokenizer.decode(tokens)

    tokens = np.random.default_rng(2).integers(1, tokenizer.get_vocab_size(), 2000).tolist()
    assert "".join(pieces(Counting(), tokens[:500], tokens)) == "".join(pieces(tokenizer, tokens[:500], tokens))
    assert sum(decoded) < 30 * len(tokens)
    decoded.clear()
    list(Decoder(Counting(), "decode", FILE).pieces([], [tokenizer.get_vocab_size() - 1] * 3000))
    assert sum(decoded) < 60 * 3000


def test_a_decoder_whose_rules_cannot_be_told_gives_all_at_the_end():
    from tokenizers import Regex, decoders

    steps = decoders.Sequence([decoders.Metaspace(), decoders.Fuse(), decoders.Replace(Regex("a+"), "a")])
    tokenizer = tokenizer_of([MARK + "the", "a", "b"], steps)
    assert pieces(tokenizer, [], ids(tokenizer, MARK + "the", "a", "a", "b")) == ["theab"]
