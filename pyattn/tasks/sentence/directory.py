"""A sentence-transformers directory: its modules, its settings, and a digest of its files."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, TypeAlias

from pyattn import _checks
from pyattn.models.files import read_json, write_json
from pyattn.models.pretrained import WeightDtypes
from pyattn.tasks.sentence.inputs import Transformer
from pyattn.tasks.sentence.modules import MODULES, SCORES, SENTENCE, Module, Pooling
from pyattn.tasks.sentence.settings import check_model_type, read_prompts
from pyattn.tasks.sentence.tables import StaticEmbedding, WordEmbeddings

First: TypeAlias = Transformer | StaticEmbedding | WordEmbeddings
_TABLES: dict[str, Callable[[Path], First]] = {"StaticEmbedding": StaticEmbedding, "WordEmbeddings": WordEmbeddings}
SETTINGS = "config_sentence_transformers.json"
_PATTERNS = ("*.json", "model.safetensors", "*.jinja")  # files in a module's folder that may change a result


class Directory:
    """What a directory holds; one without modules.json is a plain model, to which sentence-transformers adds a Pooling.

    dtype, strict: for a Transformer's weights.
    """

    def __init__(self, directory: Path, dtype: WeightDtypes, strict: bool) -> None:
        listed = directory / "modules.json"
        is_plain = not listed.exists()
        self._read_settings(directory / SETTINGS, is_plain)
        (kind, folder), *others = [("Transformer", directory)] if is_plain else listed_modules(listed)
        self.first = _TABLES[kind](folder) if kind in _TABLES else Transformer(folder, dtype, strict, not is_plain)
        widths = dict(self.first.widths)
        self.modules = [MODULES[kind].read(folder, widths) for kind, folder in others]  # those that follow the first
        if isinstance(self.first, Transformer) and is_plain:
            self.modules.append(Pooling(listed, {"pooling_mode": _usual_pooling(self.first.config)}, widths))
        if SCORES in widths:
            raise ValueError(f"load: {listed}: a module makes scores of pairs; use Reranker")
        if SENTENCE not in widths:
            raise ValueError(f"load: {listed}: no module makes one vector of a text's tokens; a Pooling does")
        self.width = widths[SENTENCE]  # of the vectors
        folders = [directory, folder, *(folder for _, folder in others)]
        found = {file for folder in folders for pattern in _PATTERNS for file in folder.glob(pattern) if file.is_file()}
        names = {str(file.relative_to(directory)): file for file in found.union(self.first.weights)}
        self.files = dict(sorted(names.items()))  # every file that may change a vector, by its path in the directory

    def _read_settings(self, file: Path, is_plain: bool) -> None:
        settings = {} if is_plain or not file.exists() else read_json(file, dict)
        check_model_type(file, settings, "SentenceTransformer")
        usual = {"query": "", "document": ""}
        self.prompts, self.default_prompt_name = read_prompts(file, settings, usual)
        similarity = "cosine" if settings.get("similarity_fn_name") is None else settings["similarity_fn_name"]
        accepted = ("cosine", "dot", "euclidean", "manhattan")
        self.similarity_fn_name: str = _checks.choice("load", f"{file}: similarity_fn_name", similarity, accepted)
        cut = settings.get("truncate_dim")
        self.truncate_dim = None if cut is None else _checks.size("load", f"{file}: truncate_dim", cut)


def _usual_pooling(config: dict[str, Any]) -> str:
    """ "lasttoken" for causal language models, else "mean"."""
    names = config.get("architectures") or [""]
    causal = isinstance(names, list) and str(names[0]).endswith("ForCausalLM")
    return "lasttoken" if causal and config.get("is_causal", True) else "mean"


def listed_modules(
    file: Path,
    first: Iterable[str] = ("Transformer", *_TABLES),
    others: Iterable[str] = tuple(MODULES),
    aliases: Mapping[str, str] = {},
) -> list[tuple[str, Path]]:
    """The types and the folders of the modules in a modules.json: one that reads texts, and those that follow it.

    first, others: the types that are accepted. aliases: other libraries' names of some.
    """
    modules = read_json(file, list)
    if not modules:
        raise ValueError(f"load: {file}: the modules are none; a Transformer and a Pooling are usual")
    found = []
    for number, module in enumerate(modules):
        if not isinstance(module, dict) or not all(isinstance(module.get(key), str) for key in ("type", "path")):
            raise ValueError(f'load: {file}: each module must be an object with strings "type" and "path"')
        full = aliases.get(module["type"], module["type"])
        kind, path = full.rpartition(".")[2], PureWindowsPath(module["path"])  # it knows both "/" and "\\"
        accepted = tuple(others if number else first)
        if not full.startswith("sentence_transformers.") or kind not in accepted:
            which = "after the first" if number else "first"
            raise ValueError(
                f"load: {file}: the module {module['type']} is not supported {which}; those that are: "
                f"{', '.join(accepted) or 'none'} of sentence_transformers"
            )
        if path.anchor or ".." in path.parts or "\0" in module["path"]:
            raise ValueError(f"load: {file}: the path of a module must be inside the directory, not {module['path']!r}")
        found.append((kind, file.parent / module["path"]))
    names = [repr(module["name"]) for module in modules if "name" in module]
    if len(set(names)) < len(names):  # sentence-transformers would keep the last one
        raise ValueError(f"load: {file}: two modules have the same name")
    return found


def write_directory(folder: Path, first: First, modules: Sequence[Module], settings: dict[str, Any]) -> None:
    """Writes modules and settings in the format of today's sentence-transformers."""
    parts: list[First | Module] = [first, *modules]
    listed = []
    for number, module in enumerate(parts):
        path = f"{number}_{module.type.rpartition('.')[2]}" if number else ""
        (folder / path).mkdir(parents=True, exist_ok=True)
        module.save(folder / path)
        listed.append({"idx": number, "name": str(number), "path": path, "type": module.type})
    (folder / "modules.json").write_text(json.dumps(listed, indent=2) + "\n")
    write_json(folder / SETTINGS, {"model_type": "SentenceTransformer", **settings})


def digest_of(files: dict[str, Path]) -> bytes:
    """A digest of the files' names and contents."""
    import hashlib  # here: importing it takes a part of the time to the first embedding

    digest = hashlib.sha256()
    for name, file in files.items():
        content = hashlib.sha256()
        with file.open("rb") as opened:
            while part := opened.read(1 << 20):
                content.update(part)
        digest.update(repr((name, content.hexdigest())).encode())
    return digest.digest()
