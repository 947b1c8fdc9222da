"""A ColBERT's directory, as sentence-transformers from 6.2 on writes it, PyLate before, or Stanford's ColBERT."""

import copy
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyattn import _checks
from pyattn._checks import Array
from pyattn._extras import import_extra
from pyattn.models.files import read_json
from pyattn.models.pretrained import WeightDtypes
from pyattn.models.tensors import read_tensors
from pyattn.tasks.sentence.directory import SETTINGS, listed_modules
from pyattn.tasks.sentence.inputs import Transformer
from pyattn.tasks.sentence.modules import MODULES, TOKENS, Dense, Module, Normalize, check
from pyattn.tasks.sentence.settings import check_model_type, read_prompts
from pyattn.tasks.texts import without_surrogates

STANFORD = "HF_ColBERT"  # the architecture in config.json of Stanford's
_PYLATE = "ColBERT"  # the model_type of PyLate's
_LENGTHS = ("query_length", "document_length")
_ALIASES = {"pylate.models.Dense.Dense": Dense.type}
_MASK = "MultiVectorMask"
_KEYS = ("query_prefix", "document_prefix", "do_query_expansion", "attend_to_expansion_tokens", "attend_to_mask_tokens")


@dataclass(frozen=True)
class Expansion:
    """How queries grow: to `length` tokens, by the token `token`; longer ones are cut if fixed."""

    length: int
    token: int
    is_fixed: bool
    attends: bool  # whether tokens see those that were added


class TokenTransformer(Transformer):
    """A Transformer whose settings may give lengths of queries and documents, and how queries grow."""

    also = (*_LENGTHS, "query_expansion")

    def _read_model(self, kind: Any, dtype: WeightDtypes, strict: bool) -> Any:
        names = self.config.get("architectures")
        is_stanford = isinstance(names, list) and STANFORD in names  # which has linear.weight beside the model's
        return super()._read_model(kind, dtype, strict and not is_stanford)

    def cut_to(self, length: int | None, file: Path) -> tuple[Any, int | None]:
        """The tokenizer with a length of its own, and the length."""
        if length is None or length == self.max_seq_length:
            return self.tokenizer, self.max_seq_length
        least = self.tokenizer.num_special_tokens_to_add(is_pair=False)
        _checks.count("load", f"{file}: a length of queries or documents", length, least + 1, self._most)
        tokenizer = copy.deepcopy(self.tokenizer)
        tokenizer.enable_truncation(**{**tokenizer.truncation, "max_length": length})
        return tokenizer, length


class Directory:
    """What a directory holds.

    Attributes:
        first, modules: the Transformer, and what follows it, which gives the vectors of tokens.
        prompts, default_prompt_name, similarity_fn_name: of config_sentence_transformers.json.
        tokenizers: of queries and of documents, with the lengths to which these are cut.
        expansion: of queries, or None.
        skipped: token ids that give no vectors, of queries and of documents.
        width: of the vectors.
    """

    def __init__(self, directory: Path, dtype: WeightDtypes, strict: bool) -> None:
        listed, file = directory / "modules.json", directory / SETTINGS
        self._mask: dict[str, Any] | None = None
        if listed.exists():
            said = read_json(file, dict) if file.exists() else {}
            if (is_pylate := said.get("model_type") == _PYLATE) is False:
                check_model_type(file, said, "MultiVectorEncoder")
            others = (*(kind for kind in MODULES if kind in ("Dense", "Normalize", "Dropout")), _MASK)
            (_, folder), *rest = listed_modules(listed, ("Transformer",), others, _ALIASES)
            self.first = TokenTransformer(folder, dtype, strict, True)
            self._read_modules(rest)
        else:
            file, said, is_pylate = _stanford_settings(directory)
            self.first = TokenTransformer(directory, dtype, strict, False)
            self.modules: list[Module] = []
            self.width = self.first.widths[TOKENS]
            self._add_projection(directory)
        if is_pylate:  # whose files list neither of these
            words = said.get("skiplist_words")
            self._mask = {"skiplist_words": list(string.punctuation) if words is None else words}
            self.modules.append(Normalize(file, {"module_input_name": TOKENS}, {TOKENS: self.width}))
        self._read_settings(file, said)
        self._read_skipped(file)

    def _read_modules(self, rest: list[tuple[str, Path]]) -> None:
        self.modules, widths = [], dict(self.first.widths)
        for kind, folder in rest:
            if kind == _MASK:
                self._mask = read_json(folder / "config.json", dict)
                kept: dict[str, Any] = {"keep_only_token_ids": (None, [])}
                check(folder / "config.json", self._mask, {"skiplist_words": None, "skiplist_tasks": None, **kept})
            else:
                usual = {"module_input_name": TOKENS} if kind == "Dense" else {}
                module = MODULES[kind].read(folder, widths, usual)
                if getattr(module, "name", TOKENS) != TOKENS:
                    raise ValueError(f"load: {folder}: module_input_name must be {TOKENS!r}: there are no sentences")
                self.modules.append(module)
        self.width = widths[TOKENS]

    def _add_projection(self, directory: Path) -> None:
        """Stanford's, which lies among the weights of the model."""
        found: dict[str, Any] = {}
        for weights in self.first.weights:
            found |= read_tensors(weights, lambda name: name == "linear.weight")
        weight = found.get("linear.weight")
        if not isinstance(weight, np.ndarray) or weight.ndim != 2 or weight.shape[1] != self.width:
            raise ValueError(f"load: {directory}: linear.weight must be floats of shape (width, {self.width})")
        given = {"in_features": self.width, "out_features": len(weight), "bias": False, "module_input_name": TOKENS}
        given["activation_function"] = "torch.nn.modules.linear.Identity"
        dense = Dense(directory / "config.json", given, dict(self.first.widths))
        dense.load_state_dict({"linear.weight": weight})
        self.modules.append(dense)
        self.width = len(weight)

    def _read_settings(self, file: Path, said: Mapping[str, Any]) -> None:
        read_prompts(file, {"prompts": said.get("prompts")}, {})  # which checks them
        prompts, prefixes = dict(said.get("prompts") or {}), []
        for name in ("query", "document"):
            if f"{name}_prefix" in said:
                prefix = _text(file, f"{name}_prefix", said)
                prefixes.append(prefix)
                prompts[name] = prefix + (prompts.get(name) or "").removeprefix(prefix)
        self.prompts, self.default_prompt_name = read_prompts(
            file, {**said, "prompts": prompts}, {"query": "", "document": ""}
        )
        similarity = said.get("similarity_fn_name")
        similarity = "maxsim" if similarity in (None, "cosine", "dot", "MaxSim") else similarity
        self.similarity_fn_name: str = _checks.choice(
            "load", f"{file}: similarity_fn_name", similarity, ("maxsim", "meanmaxsim")
        )
        _register(self.first.tokenizer, prefixes, file)
        settings = {**_from_pylate(said), **{key: x for key, x in self.first.said.items() if key in self.first.also}}
        self.expansion = self._read_expansion(file, settings.get("query_expansion"))
        lengths: dict[str, int | None] = {}
        for key in _LENGTHS:
            given = settings.get(key)
            lengths[key] = None if given is None else _checks.size("load", f"{file}: {key}", given)
        if self.expansion is not None:
            length = lengths["query_length"]
            if length is not None and length < self.expansion.length:
                raise ValueError(
                    f"load: {file}: query_length ({length}) is less than that of query_expansion "
                    f"({self.expansion.length})"
                )
            if self.expansion.is_fixed:
                lengths["query_length"] = self.expansion.length
        self.tokenizers = [self.first.cut_to(lengths[key], file) for key in _LENGTHS]

    def _read_expansion(self, file: Path, given: Any) -> Expansion | None:
        if given is None:
            return None
        what = f"{file}: query_expansion"
        accepted = {"strategy": ("fixed", "min"), "attend": (True, False), "token": None, "length": None}
        check(what, given, accepted)
        length = _checks.count("load", f"{what}: length", given.get("length"), 1, self.first.model.config.longest)
        if "strategy" not in given:
            raise ValueError(f"load: {what}: strategy must be 'fixed' or 'min'; there is none")
        named, tokenizer = self.first.named, self.first.tokenizer
        usual = named.get("mask_token", "[MASK]"), "[MASK]", "<mask>", named.get("eos_token", "</s>")
        names = usual if given.get("token") is None else (given["token"],)
        ids = [number for name in names if (number := tokenizer.token_to_id(without_surrogates(str(name)))) is not None]
        if not ids:
            raise ValueError(f"load: {what}: the tokenizer has no token {' or '.join(map(repr, names))}")
        return Expansion(length, ids[0], given["strategy"] == "fixed", given.get("attend", False))

    def _read_skipped(self, file: Path) -> None:
        """As sentence-transformers: words that are no token of their own are not skipped."""
        given = self._mask or {}
        words, tasks = given.get("skiplist_words") or [], given.get("skiplist_tasks")
        tasks = ["document"] if tasks is None else [tasks] if isinstance(tasks, str) else tasks
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"load: {file}: skiplist_words must be a list of strings, not {words!r}")
        if not isinstance(tasks, list) or not set(tasks) <= {"query", "document"}:
            raise ValueError(f"load: {file}: skiplist_tasks must be of 'query' and 'document', not {tasks!r}")
        ids = [self.first.tokenizer.token_to_id(without_surrogates(word)) for word in words]
        numbers = np.array([number for number in ids if number is not None], np.int64)
        none: Array = np.zeros(0, np.int64)
        self.skipped = [numbers if task in tasks else none for task in ("query", "document")]


def _from_pylate(said: Mapping[str, Any]) -> dict[str, Any]:
    """Lengths and growth of queries that PyLate wrote beside the prompts, in today's words."""
    found = {key: said[key] for key in _LENGTHS if said.get(key) is not None}
    if "query_expansion" in said:
        return found | {"query_expansion": said["query_expansion"]}
    if not any(key in said for key in (*_LENGTHS, *_KEYS, "skiplist_words")):
        return found
    if said.get("do_query_expansion") is False:
        return found
    attends = said.get("attend_to_expansion_tokens", said.get("attend_to_mask_tokens"))
    length = found.pop("query_length", None) or 32
    return found | {"query_expansion": {"strategy": "fixed", "attend": bool(attends), "length": length}}


def _stanford_settings(directory: Path) -> tuple[Path, dict[str, Any], bool]:
    """artifact.metadata in PyLate's words."""
    names = read_json(directory / "config.json", dict).get("architectures") or [""]
    if not isinstance(names, list) or STANFORD not in names:
        raise ValueError(
            f"load: {directory}: without modules.json, a model of architecture {STANFORD} is needed, not {names!r}; "
            "SentenceEncoder and SparseEncoder read others"
        )
    file = directory / "artifact.metadata"
    given = read_json(file, dict) if file.exists() else {}
    said: dict[str, Any] = {
        "query_prefix": (_text(file, "query_token_id", given) or "[unused0]") + " ",
        "document_prefix": (_text(file, "doc_token_id", given) or "[unused1]") + " ",
        "query_length": given.get("query_maxlen") or 32,
        "document_length": given.get("doc_maxlen"),
        "attend_to_mask_tokens": given.get("attend_to_mask_tokens"),
        "skiplist_words": None if given.get("mask_punctuation", True) else [],
    }
    return file, said, True


def _text(file: Path, key: str, given: Mapping[str, Any]) -> str:
    """A string that tokenizers take; "" where there is none."""
    text = given.get(key) or ""
    if not isinstance(text, str):
        raise ValueError(f"load: {file}: {key} must be a string, not {text!r}")
    return without_surrogates(text)


def _register(tokenizer: Any, prefixes: list[str], file: Path) -> None:
    """Prefixes that the tokenizer has as a token, but does not find in texts, become special tokens, which it does."""
    for value in filter(str.strip, prefixes):
        known = next((x for x in (value, value.split(None, 1)[0]) if tokenizer.token_to_id(x) is not None), None)
        if known is not None and tokenizer.encode(known, add_special_tokens=False).tokens != [known]:
            library = import_extra("tokenizers", f"load: reading {file}")
            tokenizer.add_special_tokens([library.AddedToken(known, normalized=False, special=True)])
