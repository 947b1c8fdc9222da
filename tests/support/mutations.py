"""Hostile versions of files: of JSON, tokenizers, safetensors, .npz, and of bytes whatever they mean.

Each function takes a sound file's bytes and a generator, which makes every choice, and returns the bytes of another.
"""

import base64
import io
import json
import pickle
import struct
import zipfile
from functools import cache

import numpy as np


class Bomb:
    """Ends the process of whoever unpickles it."""

    def __reduce__(self):
        import os

        return os._exit, (77,)


def choose(rng, options):
    return options[rng.integers(len(options))]


# --- JSON

NUMBERS = [-1, 0, 1, 2, 3, 7, 8, 16, 17, 255, 256, 4096, 65537, 10**6, 2**24, 2**28, 2**30, 2**31 - 1, 2**31, 2**32 - 1]
NUMBERS += [2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, -(2**31), -(10**30), 0.5, 1.0, -0.0, 1e-310, 1e300]
WORDS = ["", "a", "A", "B", "[UNK]", "bert", "vit", "gelu", "Sequence", "..", "/", "/dev/zero", "\0", "ü\U0001f600"]
LENGTHS = [3000, 100_000]
DEPTHS = [20, 60, 120, 130, 300, 900, 950, 980, 990, 1000, 3000, 100_000]


def raw_value(rng):
    """The text of a value, perhaps one that json.dumps would not write."""
    kind = rng.integers(8)
    if kind < 3:
        return str(choose(rng, NUMBERS))
    if kind == 3:
        return choose(rng, ["NaN", "Infinity", "-Infinity", "1e999", "true", "false", "null", "[]", "{}", "9" * 5000])
    if kind == 4:
        return json.dumps(choose(rng, WORDS))
    if kind == 5:
        return choose(
            rng, ['"\\ud800"', '"\\u0000"', '"\\udc80x"', '"' + choose(rng, WORDS[1:]) * choose(rng, LENGTHS) + '"']
        )
    if kind == 6:
        depth = choose(rng, DEPTHS) + int(rng.integers(8))
        begin, end = choose(rng, [("[", "]"), ('{"a":', "}"), ('{"type":"Sequence","normalizers":[', "]}")])
        return begin * depth + "1" + end * depth
    return "[" + ",".join(str(choose(rng, NUMBERS)) for _ in range(rng.integers(5))) + "]"


def a_place(rng, value):
    """A container inside the value, and a key or an index of it; None in an empty one."""
    container, key = [value], 0
    while (
        isinstance(container[key], dict | list) and container[key] and (container[key] is value or rng.random() < 0.7)
    ):
        container = container[key]
        key = choose(rng, list(container)) if isinstance(container, dict) else int(rng.integers(len(container)))
    return container, key


def near(rng, value):
    """A value a little off, of the same type."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return choose(rng, [value + 1, value - 1, value * 2, -value, value // 2, value * 1000, float(value)])
    if isinstance(value, str):
        return choose(rng, [value + "x", value[1:], value * 2, value.upper(), value[::-1], choose(rng, WORDS) + value])
    if isinstance(value, list):
        return choose(rng, [value * 2, value[::-1], value[1:], value * 300, [*value, None], {"0": value}])
    return choose(rng, [[value], {"type": value}, dict(reversed(value.items())), {**value, "x": 1}])


def json_mutated(rng, content):
    value = json.loads(content)
    raws = {}

    def raw(text):
        raws[f'"@{len(raws)}@"'] = text
        return f"@{len(raws) - 1}@"

    for _ in range(rng.geometric(0.6)):
        container, key = a_place(rng, value)
        kind = rng.integers(7)
        if kind == 0 and container[key] is not value:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[choose(rng, [key + "x", *container, *WORDS])] = container.pop(key)
        elif kind == 2 and isinstance(container, dict):
            container[key] = raw(f"{json.dumps(container[key])}, {json.dumps(key)}: {raw_value(rng)}")
        elif kind == 3:
            other, place = a_place(rng, value)
            container[key] = json.loads(json.dumps(other[place]))
        elif kind == 4 and container[key] is not value:
            container[key] = near(rng, container[key])
        elif container[key] is not value:
            container[key] = raw(raw_value(rng))
        else:
            return raw_value(rng).encode()
    text = json.dumps(value, ensure_ascii=bool(rng.integers(2)))
    for _ in range(2):  # one may stand inside another
        for mark, inside in reversed(raws.items()):
            text = text.replace(mark, inside)
    return text.encode(errors="surrogatepass")


# --- tokenizers: parts that the library knows, in places where sound files do not have them


def charsmap(size, rest):
    return base64.b64encode(struct.pack("<I", size) + rest).decode()


def replacement(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


TEXT, OTHER = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
SEP = {"SpecialToken": {"id": "[SEP]", "type_id": 0}}


def template(*single, ids=(3,)):
    token = {"id": "[SEP]", "ids": list(ids), "tokens": ["[SEP]"] * len(ids)}
    return {"type": "TemplateProcessing", "single": single, "pair": [TEXT, OTHER], "special_tokens": {"[SEP]": token}}


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
NORMALIZERS = [
    {"type": name} for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel")
]
NORMALIZERS += [
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Prepend", "prepend": "x" * 3000},
    replacement("a", "aa"),
    replacement("", "a"),
    replacement("t", "t" * 1000),
    replacement(" ", "▁"),
    replacement(" {2,}", "▁", "Regex"),
    replacement("(a+)+$", "", "Regex"),
    replacement("(?:(?:a{1,1000}){1,1000}){1,1000}b", "a", "Regex"),
    replacement("", "aaa", "Regex"),
    replacement("(", "", "Regex"),
    {"type": "Precompiled", "precompiled_charsmap": ""},
    {"type": "Precompiled", "precompiled_charsmap": charsmap(2**32 - 8, b"abcd")},
    {"type": "Precompiled", "precompiled_charsmap": charsmap(0, b"a\0")},
    {"type": "Precompiled", "precompiled_charsmap": charsmap(1024, bytes(1024) + b"abc\0")},
]
PRE_TOKENIZERS = [{"type": name} for name in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "UnicodeScripts")]
PRE_TOKENIZERS += [
    BYTES,
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "Split", "pattern": {"Regex": "\\s+|(a|aa)+$"}, "behavior": "Isolated", "invert": False},
    {"type": "Split", "pattern": {"String": ""}, "behavior": "Removed", "invert": True},
    {"type": "FixedLength", "length": 0},
    {"type": "FixedLength", "length": 2},
    {"type": "Digits", "individual_digits": True},
    {"type": "Punctuation", "behavior": "MergedWithNext"},
    {"type": "CharDelimiterSplit", "delimiter": "a"},
]
POST_PROCESSORS = [
    template(TEXT, SEP),
    template(TEXT, TEXT),
    template(*[TEXT] * 1000),
    template(TEXT, OTHER),
    template(TEXT, {"SpecialToken": {"id": "[X]", "type_id": 0}}),
    template(TEXT, SEP, ids=(2**32 - 1,)),
    template(TEXT, SEP, ids=range(5000)),
    template(SEP),
    template(),
    BYTES,
    {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 1000]},
    {"type": "RobertaProcessing", "sep": ["", 3], "cls": ["", 2], "trim_offsets": True, "add_prefix_space": True},
]
LETTERS = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz▁Ġ")}
PAIRS = {"t": 0, "h": 1, "e": 2, "th": 3, "the": 4, "Ġ": 5, "Ġt": 6, "c": 7, "a": 8, "ca": 9}
BPE = {"type": "BPE", "unk_token": None, "vocab": PAIRS, "merges": [["t", "h"], ["th", "e"], ["Ġ", "t"], ["c", "a"]]}
UNIGRAM = {
    "type": "Unigram",
    "unk_id": 0,
    "byte_fallback": False,
    "vocab": [["<unk>", 0], ["▁", -2], ["▁the", -3], ["a", -4]],
}
MODELS = [
    BPE,
    {**BPE, "dropout": 0.5, "fuse_unk": True, "byte_fallback": True, "unk_token": "none"},
    {**BPE, "vocab": LETTERS, "merges": [["a", "b"]]},
    {**BPE, "vocab": {**PAIRS, "c": 2**32 - 1}, "continuing_subword_prefix": "abc", "end_of_word_suffix": "x" * 1000},
    UNIGRAM,
    {**UNIGRAM, "unk_id": None},
    {**UNIGRAM, "vocab": []},
    {**UNIGRAM, "vocab": [["", 1e308], ["t", -1e308], ["the", 1e308]], "byte_fallback": True},
    {"type": "WordLevel", "vocab": LETTERS, "unk_token": "none"},
    {
        "type": "WordPiece",
        "vocab": LETTERS,
        "unk_token": "none",
        "continuing_subword_prefix": "",
        "max_input_chars_per_word": 0,
    },
]
PARTS = {
    "normalizer": NORMALIZERS,
    "pre_tokenizer": PRE_TOKENIZERS,
    "post_processor": POST_PROCESSORS,
    "model": MODELS,
    "truncation": [{"direction": "Left", "max_length": 1, "strategy": "OnlySecond", "stride": 10}],
    "padding": [{"strategy": {"Fixed": 10**15}, "direction": "Left", "pad_id": 9, "pad_type_id": 0, "pad_token": "x"}],
    "added_tokens": [
        [{"id": id, "content": text, "single_word": False, "lstrip": True, "rstrip": True, "normalized": normalized,
          "special": not normalized}]
        for id, text, normalized in ((0, "", True), (2**32 - 1, "the", True), (47, "the", True), (5, "ü", False))
    ],
}  # fmt: skip
# tokenizer_config.json beside a tokenizer of WordPiece, BPE and Unigram.
TOKEN = {"content": "the", "lstrip": True, "normalized": False, "special": True}
TOKENIZER_SETTINGS = [
    {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "strip_accents": None, "truncation_side": "left"},
    {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True, "added_tokens_decoder": {"5": TOKEN}},
    {
        "tokenizer_class": "AlbertTokenizer",
        "keep_accents": True,
        "extra_special_tokens": ["the"],
        "mask_token": "[SEP]",
    },
]
LISTS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors"}


def tokenizer_mutated(rng, content):
    value = json.loads(content)
    for _ in range(rng.geometric(0.5)):
        name = choose(rng, list(PARTS))
        part = choose(rng, PARTS[name])
        if name in LISTS and rng.integers(2):
            if rng.integers(2):  # as a file of one step, many times
                parts = [part] * int(choose(rng, [1, 2, 10, 40, 64]))
            else:
                parts = [choose(rng, PARTS[name]) for _ in range(rng.integers(6))]
            part = {"type": "Sequence", LISTS[name]: parts}
        value[name] = part
    content = json.dumps(value).encode()
    return json_mutated(rng, content) if rng.random() < 0.3 else content


# --- safetensors

DTYPES = {
    "F32": "<f4",
    "F16": "<f2",
    "F64": "<f8",
    "I8": "<i1",
    "BF16": "<u2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "<u1",
    "BOOL": "<u1",
}
TENSOR_DTYPES = [*DTYPES, "F8_E4M3", "F4", "C64", "I4", "x", ""]


def tensors_of(content):
    """name -> (dtype, shape, bytes)."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    header.pop("__metadata__", None)
    return {name: (x["dtype"], x["shape"], data[slice(*x["data_offsets"])]) for name, x in header.items()}


def tensors_file(tensors):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, part) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    return with_header(json.dumps(header).encode(), data)


def with_header(header, data, length=None):
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def other_tensors(rng, content):
    """A sound file of other tensors: of other dtypes, shapes and names, fewer or more."""
    tensors = tensors_of(content)
    if rng.random() < 0.1:
        return tensors_file({name: tensors[name] for name in list(tensors)[: rng.integers(3)]})
    everywhere = rng.random() < 0.3
    kind = rng.integers(8)
    new_type = choose(rng, list(DTYPES))
    for name in list(tensors) if everywhere else [choose(rng, list(tensors))]:
        dtype, shape, data = tensors[name]
        values = np.frombuffer(data, DTYPES[dtype])
        if kind < 2:
            with np.errstate(all="ignore"):
                tensors[name] = (new_type, shape, np.nan_to_num(values * 50).astype(DTYPES[new_type]).tobytes())
            if new_type == "I8" and rng.integers(4):
                rows = shape[0] if shape else 1
                tensors[name + "_scale"] = ("F32", [rows], choose(rng, [0.1, np.nan, 1e38]) * np.ones(rows, "<f4"))
                tensors[name + "_scale"] = (*tensors[name + "_scale"][:2], tensors[name + "_scale"][2].tobytes())
        elif kind == 2:
            value = choose(rng, [np.nan, np.inf, -np.inf, 1e38, -3e38, 1e-45, 0])
            tensors[name] = (dtype, shape, np.full_like(values, value).tobytes())
        elif kind == 3:
            count = len(values)
            shapes = [
                [count],
                [1] * choose(rng, [1, 4, 40, 70]) + shape,
                shape[::-1],
                [count, 1],
                [0],
                [],
                [*shape, 1, 1],
            ]
            shapes += [[0, 2**62], [2**62, 0], [0] * 100, [0, 2**63], [0, 2**64 - 1]]
            shape = choose(rng, shapes)
            size = int(np.prod(np.array(shape, object)))
            tensors[name] = (dtype, shape, np.resize(values, size).tobytes() if size < 10**6 else data)
        elif kind == 4:
            del tensors[name]
        elif kind == 5:
            tensors[choose(rng, [name + "x", "bert." + name, name[1:], name + "_scale", "x" * 10_000, "\0", ""])] = (
                tensors[name]
            )
        elif kind == 6:
            tensors[choose(rng, list(tensors))] = tensors[name]
        else:
            tensors[name] = (choose(rng, TENSOR_DTYPES), shape, data)
    return tensors_file(tensors)


def tensors_mutated(rng, content):
    if rng.random() < 0.4:
        return other_tensors(rng, content)
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    kind = rng.integers(6)
    if kind == 0:
        return with_header(json_mutated(rng, header), data)
    if kind == 1:
        return with_header(
            header, data, choose(rng, [0, 1, length - 1, length + 1, len(content), 10**8, 2**63, 2**64 - 1])
        )
    if kind == 2:
        return with_header(header, data[: rng.integers(len(data))])
    if kind == 3:
        return with_header(header + choose(rng, [b" " * 9, b"\0" * 8, b"{}"]), data + bytes(rng.integers(100)))
    entries = json.loads(header)
    names = [name for name in entries if name != "__metadata__"]
    for name in rng.choice(names, min(len(names), rng.geometric(0.5)), replace=False):
        entry = entries[name]
        begin, end = entry["data_offsets"]
        if kind == 4:
            other = entries[choose(rng, names)]["data_offsets"]
            shifted = [begin + 4, end + 4]
            offsets = [
                other,
                shifted,
                [end, begin],
                [begin, end * 2],
                [0, len(data)],
                [2**63, 2**64 - 1],
                [begin],
                [-4, 0],
            ]
            entry["data_offsets"] = choose(rng, offsets)
        else:
            shape = entry["shape"]
            huge = [[2**32, 2**32], [2**63, 2], [10**18], [0, 2**62], [-1, -1], [1] * 1000, [2**64]]
            entry["shape"] = choose(rng, [*huge, [*shape, 2], shape[1:], [x * 2 for x in shape], [1.0], "4", None])
    return with_header(json.dumps(entries).encode(), data)


# --- .npz


def npy(descr, shape, data, version=(1, 0), order=False, text=None):
    text = text or f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape!r}, }}"
    encoded = text.encode() + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(encoded) % (1 << 16))
    return b"\x93NUMPY" + bytes(version) + length + encoded + data


def index_parts(content):
    """The header's JSON and the vectors."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return arrays["header"].tobytes(), arrays["vectors"]


@cache
def bomb(rows):
    """A small file of vectors that are large."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("vectors.npy", npy("<f4", (rows, 2**25 // rows), bytes(2**25 // rows * rows * 4)))
        passages = [["text", "file", 1, "name"]] * rows
        header = {"format": "pyattn search index 1", "model": "m", "fingerprint": "f", "passages": passages}
        text = json.dumps(header).encode()
        archive.writestr("header.npy", npy("|u1", (len(text),), text))
    return file.getvalue()


def index_mutated(rng, content):
    text, vectors = index_parts(content)
    method, number = zipfile.ZIP_STORED, len(text)
    header, body = npy("|u1", (len(text),), text), npy("<f4", vectors.shape, vectors.tobytes())
    names = ["header.npy", "vectors.npy"]
    kind = rng.integers(10)
    if kind == 0:
        text = json_mutated(rng, text)
        header = npy("|u1", (len(text),), text)
    elif kind == 1:
        text = choose(rng, [text[:-1], text * 2, b"", b"\xff" + text, b"[" * 100_000, text.replace(b"1", b"1e999")])
        header = npy("|u1", (len(text),), text)
    elif kind == 2:
        shapes = [
            (2**40,),
            (2**62, 2**62),
            (-1,),
            (number, 1),
            (),
            (number + 1,),
            (0,),
            (1,) * 70,
            5,
            None,
            (number,) * 3,
        ]
        descr = choose(
            rng, ["|u1", "<f8", "|O", "|V0", "<U1000000000", "|S0", [("a", "<f4")], "x", "<m8[s]", ("|u1", (4,))]
        )
        part = npy(descr, choose(rng, shapes), choose(rng, [text, pickle.dumps(Bomb())]))
        header, body = (part, body) if rng.integers(2) else (header, part)
    elif kind == 3:
        rows, width = vectors.shape
        shapes = [(rows, 2**40), (2**33, 0), (rows, 0), (width, rows), (rows, width, 1), (rows, 2**62), (rows, -1)]
        descr = choose(rng, ["<f4", "<f4", "<f4", ">f4", "<f8", "|O", "<c8", "<i4"])
        body = npy(descr, choose(rng, [vectors.shape, *shapes]), vectors.tobytes(), order=bool(rng.integers(2)))
    elif kind == 4:
        if rng.integers(2):
            return bomb(len(vectors))
        method = choose(rng, [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    elif kind == 5:
        texts = [
            "{" * 5000,
            "[" * 9000,
            "{'descr': '|u1', 'shape': (" + "9" * 5000 + ",), 'fortran_order': False}",
            "x" * 60_000,
        ]
        part = npy(None, None, text, choose(rng, [(1, 0), (2, 0), (3, 0), (9, 9)]), text=choose(rng, texts))
        header, body = (part, body) if rng.integers(2) else (header, part)
    elif kind == 6:
        names = choose(
            rng, [["header", "vectors"], ["../header.npy", "vectors.npy"], ["header.npy", "header.npy"], names[::-1]]
        )
    elif kind == 7:
        values = np.resize(choose(rng, [np.nan, np.inf, 3e38, -3e38, 1e-45]), vectors.shape).astype("<f4")
        body = npy("<f4", vectors.shape, values.tobytes())
    members = list(zip(names, [header, body], strict=True))
    if kind == 8:
        del members[rng.integers(2)]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, part in members:
            if name not in archive.namelist():
                archive.writestr(name, part)
    changed = bytearray(file.getvalue())
    if kind == 9:  # a field of the directory at the archive's end, or of a member's header
        signature, length = choose(rng, [(b"PK\1\2", 46), (b"PK\3\4", 30), (b"PK\5\6", 22)])
        place = changed.find(signature) + int(rng.integers(4, length - 3))
        changed[place : place + 4] = struct.pack("<I", int(choose(rng, [0, 1, 8, 255, 2**16, 2**31, 2**32 - 1])))
    return bytes(changed)


# --- bytes


def bytes_mutated(rng, content):
    content = bytearray(content)
    for _ in range(rng.geometric(0.4)):
        if not content:
            break
        place = int(rng.integers(len(content)))
        length = int(min(rng.geometric(0.1), len(content) - place))
        kind = rng.integers(6)
        if kind == 0:
            content[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            content[place : place + length] = rng.bytes(length)
        elif kind == 2:
            del content[place : place + length]
        elif kind == 3:
            content[place:place] = content[place : place + length] * int(choose(rng, [1, 2, 50]))
        elif kind == 4:
            content[place:place] = choose(
                rng, [b"\0", b"\xff\xff\xff\xff", b"\xef\xbb\xbf", b'"', b"[", b"{", b"\\u0000", b"e9"]
            )
        else:
            del content[place:]
    return bytes(content)
