"""A sentence-transformers directory: its modules, its settings, and a digest of its files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from pyattn import _checks
from pyattn.models.files import read_json, write_json
from pyattn.models.pretrained import WeightDtypes
from pyattn.tasks.sentence.inputs import Input, Transformer
from pyattn.tasks.sentence.modules import MODULES, SENTENCE, TOKENS, Module, Pooling
from pyattn.tasks.sentence.tables import StaticEmbedding, WordEmbeddings

_TABLES: dict[str, Callable[[Path], Input]] = {"StaticEmbedding": StaticEmbedding, "WordEmbeddings": WordEmbeddings}
_FIRST = ("Transformer", *_TABLES)
_OURS = "sentence_transformers."
SETTINGS = "config_sentence_transformers.json"
_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
# Files in a module's folder that may change a result.
_PATTERNS = ("*.json", "model.safetensors", "*.jinja")


@dataclass
class Directory:
    """The first module, those that follow it, and the settings of config_sentence_transformers.json.

    width: the vectors' width. files: every file that may change a vector, by its path in the directory.
    """

    first: Input
    modules: list[Module]
    width: int
    files: dict[str, Path]
    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity_fn_name: str
    truncate_dim: int | None


def read_directory(directory: Path, dtype: WeightDtypes, strict: bool) -> Directory:
    """Reads a directory; one without modules.json is a plain model, to which sentence-transformers adds a Pooling.

    dtype, strict: for a Transformer's weights.
    """
    listed = directory / "modules.json"
    folders = [directory]
    if not listed.exists():
        plain = Transformer(directory, dtype, strict, with_modules=False)
        first: Input = plain
        width = first.widths[TOKENS]
        modules: list[Module] = [Pooling(width, (_usual_pooling(plain),))]
        settings: dict[str, Any] = {}
    else:
        settings = _read_settings(directory / SETTINGS)
        (kind, folder), *others = _listed_modules(listed)
        folders += [folder for _, folder in ((kind, folder), *others)]
        if kind == "Transformer":
            first = Transformer(folder, dtype, strict, with_modules=True)
        else:
            first = _TABLES[kind](folder)
        widths = dict(first.widths)
        modules = [MODULES[kind].read(folder, widths) for kind, folder in others]
        if SENTENCE not in widths:
            raise ValueError(f"load: {listed}: no module makes one vector of a text's tokens; a Pooling does")
        width = widths[SENTENCE]
    files = {file for folder in folders for pattern in _PATTERNS for file in folder.glob(pattern) if file.is_file()}
    files |= set(first.weights)
    names = {str(file.relative_to(directory)): file for file in files}
    sorted_files = dict(sorted(names.items()))
    return Directory(first, modules, width, sorted_files, **_checked_settings(settings, directory / SETTINGS))


def _usual_pooling(first: Transformer) -> str:
    """ "lasttoken" for causal language models, else "mean"."""
    names = first.config.get("architectures") or [""]
    causal = isinstance(names, list) and str(names[0]).endswith("ForCausalLM")
    return "lasttoken" if causal and first.config.get("is_causal", True) else "mean"


def _listed_modules(file: Path) -> list[tuple[str, Path]]:
    """The types and the folders of the modules in a modules.json: one that reads texts, and those that follow it."""
    modules = read_json(file, list)
    if not all(isinstance(x, dict) and isinstance(x.get(key), str) for x in modules for key in ("type", "path")):
        raise ValueError(f'load: {file}: each module must be an object with strings "type" and "path"')
    known = [module["type"].rpartition(".")[2] for module in modules]
    for number, (module, kind) in enumerate(zip(modules, known, strict=True)):
        accepted = tuple(MODULES) if number else _FIRST
        if not module["type"].startswith(_OURS) or kind not in accepted:
            which = "behind the first" if number else "first"
            raise ValueError(
                f"load: {file}: the module {module['type']} is not supported {which}; those that are: "
                f"{', '.join(accepted)} of sentence_transformers"
            )
    if not modules:
        raise ValueError(f"load: {file}: the modules are none; a Transformer and a Pooling are usual")
    names = [repr(module["name"]) for module in modules if "name" in module]
    if len(set(names)) < len(names):  # sentence-transformers would keep the last one
        raise ValueError(f"load: {file}: two modules have the same name")
    for module in modules:
        path = PureWindowsPath(module["path"])  # it knows both "/" and "\\"
        if path.anchor or ".." in path.parts or "\0" in module["path"]:
            raise ValueError(f"load: {file}: the path of a module must be inside the directory, not {module['path']!r}")
    return [(kind, file.parent / module["path"]) for kind, module in zip(known, modules, strict=True)]


def _read_settings(file: Path) -> dict[str, Any]:
    settings = read_json(file, dict) if file.exists() else {}
    if (kind := settings.get("model_type", "SentenceTransformer")) != "SentenceTransformer":
        raise ValueError(f"load: {file}: model_type {kind!r} is not supported; 'SentenceTransformer' is")
    return settings


def _checked_settings(settings: dict[str, Any], file: Path) -> dict[str, Any]:
    """The fields of a Directory that config_sentence_transformers.json sets."""
    prompts = {} if settings.get("prompts") is None else settings["prompts"]
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str | None) for prompt in prompts.values()):
        raise ValueError(f"load: {file}: prompts must be an object of strings, not {prompts!r}")
    prompts = {name: prompt or "" for name, prompt in ({"query": "", "document": ""} | prompts).items()}
    default = settings.get("default_prompt_name")
    if default is not None:
        _checks.choice("load", f"{file}: default_prompt_name", default, prompts)
    similarity = settings.get("similarity_fn_name")
    if similarity is not None:
        _checks.choice("load", f"{file}: similarity_fn_name", similarity, _SIMILARITIES)
    cut = settings.get("truncate_dim")
    return {
        "prompts": prompts,
        "default_prompt_name": default,
        "similarity_fn_name": similarity or "cosine",
        "truncate_dim": None if cut is None else _checks.size("load", f"{file}: truncate_dim", cut),
    }


def write_directory(folder: Path, first: Input, modules: Sequence[Module], settings: dict[str, Any]) -> None:
    """Writes modules and settings in the format of today's sentence-transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    first.save(folder)
    listed = [{"idx": 0, "name": "0", "path": "", "type": first.type}]
    for number, module in enumerate(modules, start=1):
        path = f"{number}_{module.type.rpartition('.')[2]}"
        (folder / path).mkdir(exist_ok=True)
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
