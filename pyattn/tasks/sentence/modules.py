"""The modules that follow the first one in a sentence-transformers directory: Pooling, Dense, LayerNorm, Normalize.

Each has a folder with a config.json, and one with weights has a model.safetensors. Every key is obeyed or refused by
name, and nothing that a file names is ever imported.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pyattn import _checks
from pyattn._checks import Array
from pyattn._module import Layer
from pyattn.layers import LayerNorm, Linear
from pyattn.layers.embeddings import sum_sequences
from pyattn.models.files import read_json, write_json
from pyattn.models.tensors import read_tensors, write_tensors

TOKENS, SENTENCE = "token_embeddings", "sentence_embedding"
SCORES = "scores"  # of rerankers
_NAMES = ("module_input_name", "module_output_name")

# Files from before release 5.4 have a switch for each mode; the modes that are on are concatenated in this order.
_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
MODES = tuple(_SWITCHES.values())

_MIN_NORM = np.float32(1e-12)  # as in torch's functional.normalize: zeros stay zeros


@dataclass
class Features:
    """What modules read and write: vectors of packed sequences, and of their tokens."""

    cu_seqlens: NDArray[np.int64]  # the borders of the sequences
    vectors: dict[str, Array]  # TOKENS: (total, width), SENTENCE: (sequences, width)
    prompt: int  # the number of tokens of the prompt at the beginning of each sequence


def unit(vectors: Array) -> Array:
    """Each row divided by its length."""
    norms = np.sqrt(np.einsum("nh,nh->n", vectors, vectors))
    divided: Array = vectors / np.maximum(norms, _MIN_NORM)[:, None]
    return divided


def pool(hidden: Array, cu_seqlens: Array, modes: tuple[str, ...], prompt: int = 0) -> NDArray[np.float32]:
    """One vector for each packed sequence, (total, width) -> (n, modes * width), without its first `prompt` rows.

    A sequence without further rows gives zeros, but "cls" gives the prompt's first row, as sentence-transformers does.
    """
    lengths, firsts = np.diff(cu_seqlens), cu_seqlens[:-1]
    rows, ends, kept = hidden, cu_seqlens, lengths
    if prompt:
        kept = np.maximum(lengths - prompt, 0)
        rows = hidden[np.arange(len(hidden)) - np.repeat(firsts, lengths) >= prompt]
        ends = np.concatenate([[0], np.cumsum(kept)])
    width = hidden.shape[1]
    pooled = np.zeros((lengths.size, len(modes), width), np.float32)
    divisor = np.maximum(kept, 1)[:, None].astype(np.float32)
    for number, mode in enumerate(modes):
        out = pooled[:, number]
        if mode == "cls":
            out[lengths > 0] = hidden[(firsts + np.where(lengths > prompt, prompt, 0))[lengths > 0]]
        elif mode == "max" and kept.any():  # reduceat would give the row after an empty segment
            out[kept > 0] = np.maximum.reduceat(rows, ends[:-1][kept > 0])
        elif mode == "lasttoken":
            out[kept > 0] = rows[ends[1:][kept > 0] - 1]
        elif mode == "weightedmean":  # weights are positions in the whole sequence, counted from 1
            places = np.arange(1, len(rows) + 1) - np.repeat(ends[:-1], kept) + prompt
            total = np.maximum(kept * (kept + 1) // 2 + kept * prompt, 1)[:, None].astype(np.float32)
            out[:] = sum_sequences(rows * places[:, None].astype(np.float32), ends) / total
        elif mode != "max":
            out[:] = sum_sequences(rows, ends) / (divisor if mode == "mean" else np.sqrt(divisor))
    return pooled.reshape(lengths.size, len(modes) * width)


class Module(Layer):
    """A step from features to features, whose parameters are those of model.safetensors."""

    type: ClassVar[str]  # the dotted name that today's sentence-transformers writes
    keys: ClassVar[tuple[str, ...]]  # that config.json may have
    needs_file: ClassVar[bool] = True  # releases before 5.4 write no config.json for some
    config: dict[str, Any]  # the contents of config.json, with today's keys

    def __init__(self, file: Path, given: dict[str, Any], widths: dict[str, int]) -> None:
        """given: the contents of the file. widths: those of the features before it, which become those after it."""
        self.config = given

    @classmethod
    def read(cls, folder: Path, widths: dict[str, int], usual: Mapping[str, Any] | None = None) -> "Module":
        """usual: what a key is where the file leaves it out."""
        file = folder / "config.json"
        given = read_json(file, dict) if cls.needs_file or file.exists() else {}
        check(file, given, dict.fromkeys(cls.keys))
        module = cls(file, {**(usual or {}), **given}, widths)
        if shapes := module._shapes():
            module.load_state_dict(_read_weights(folder, shapes))
        return module

    def __call__(self, features: Features) -> None:
        pass

    def save(self, folder: Path) -> None:
        write_json(folder / "config.json", self.config)
        if tensors := self.state_dict():
            write_tensors(folder / "model.safetensors", tensors)


class Pooling(Module):
    """One vector for each sequence from those of its tokens, by each of `modes`, side by side."""

    type = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    # The first two are not read: the model gives the width.
    keys = ("embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt", *_SWITCHES)

    def __init__(self, file: Path, given: dict[str, Any], widths: dict[str, int]) -> None:
        switched = [mode for switch, mode in _SWITCHES.items() if _flag(file, given, switch, False)]
        mode = given.get("pooling_mode", switched or "mean")
        modes = [mode] if isinstance(mode, str) else mode
        if not isinstance(modes, list) or not 0 < len(modes) <= len(MODES) or any(x not in MODES for x in modes):
            raise ValueError(
                f"load: {file}: pooling_mode must be one of {', '.join(MODES)}, or a list of some, not {mode!r}"
            )
        self.modes = tuple(modes)
        self.config = {
            "embedding_dimension": _input_width(file, widths, TOKENS),
            "pooling_mode": modes[0] if len(modes) == 1 else modes,
            "include_prompt": _flag(file, given, "include_prompt", True),
        }
        widths[SENTENCE] = len(modes) * widths[TOKENS]

    def __call__(self, features: Features) -> None:
        prompt = 0 if self.config["include_prompt"] else features.prompt
        features.vectors[SENTENCE] = pool(features.vectors[TOKENS], features.cu_seqlens, self.modes, prompt)


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, np.float32(0))


# torch's activations with their default arguments: a function, or the name of one that Linear fuses.
_ACTIVATIONS: dict[str, str | Callable[[Array], Array] | None] = {
    "torch.nn.modules.linear.Identity": None,
    "torch.nn.modules.activation.ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.Hardtanh": lambda x: np.clip(x, -1, 1),
    "torch.nn.modules.activation.LeakyReLU": lambda x: np.where(x > 0, x, x * np.float32(0.01)),
    "torch.nn.modules.activation.Mish": lambda x: x * np.tanh(_softplus(x)),
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.ReLU6": lambda x: np.clip(x, 0, 6),
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": lambda x: np.float32(0.5) * (np.tanh(x * np.float32(0.5)) + np.float32(1)),
    "torch.nn.modules.activation.Softplus": _softplus,
    "torch.nn.modules.activation.Softsign": lambda x: x / (1 + np.abs(x)),
    "torch.nn.modules.activation.Tanh": np.tanh,
}
_FULL_NAMES = {f"torch.nn.{name.rpartition('.')[2]}": name for name in _ACTIVATIONS} | {x: x for x in _ACTIVATIONS}


class Dense(Module):
    """activation(x weight^T + bias), plus x or a projection of x where the file says so."""

    type = "sentence_transformers.base.modules.dense.Dense"
    keys = ("in_features", "out_features", "bias", "activation_function", "use_residual", *_NAMES)

    def __init__(self, file: Path, given: dict[str, Any], widths: dict[str, int]) -> None:
        self.name = _feature(file, given, (SCORES,))
        self.output: str = given.get("module_output_name") or self.name
        inputs, outputs = (
            _checks.size("load", f"{file}: {key}", given.get(key)) for key in ("in_features", "out_features")
        )
        if inputs != _input_width(file, widths, self.name):
            raise ValueError(f"load: {file}: in_features is {inputs}, but {self.name} has width {widths[self.name]}")
        activation = given.get("activation_function", "torch.nn.modules.activation.Tanh")
        if activation not in tuple(_FULL_NAMES):
            raise ValueError(
                f"load: {file}: activation_function {activation!r} is not supported; those that are: "
                f"{', '.join(_ACTIVATIONS)}"
            )
        function = _ACTIVATIONS[_FULL_NAMES[activation]]
        has_bias, adds_input = _flag(file, given, "bias", True), _flag(file, given, "use_residual", False)
        self.linear = Linear(inputs, outputs, has_bias, activation=function if isinstance(function, str) else None)
        self.residual = Linear(inputs, outputs, bias=False) if adds_input and inputs != outputs else None
        self.config = {
            "in_features": inputs,
            "out_features": outputs,
            "bias": has_bias,
            "activation_function": _FULL_NAMES[activation],
            **dict(zip(_NAMES, (self.name, self.output), strict=True)),
            **({"use_residual": True} if adds_input else {}),
        }
        widths[self.output] = outputs

    def __call__(self, features: Features) -> None:
        rows = np.ascontiguousarray(features.vectors[self.name])
        out = self.linear(rows)
        if callable(function := _ACTIVATIONS[self.config["activation_function"]]):
            out = np.asarray(function(out), np.float32)
        if "use_residual" in self.config:
            out = out + (rows if self.residual is None else self.residual(rows))
        features.vectors[self.output] = out


class Norm(Module):
    """sentence-transformers' LayerNorm of sentence vectors."""

    type = "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm"
    keys = ("dimension",)

    def __init__(self, file: Path, given: dict[str, Any], widths: dict[str, int]) -> None:
        width = _checks.size("load", f"{file}: dimension", given.get("dimension"))
        if width != _input_width(file, widths, SENTENCE):
            raise ValueError(f"load: {file}: dimension is {width}, but {SENTENCE} has width {widths[SENTENCE]}")
        self.norm = LayerNorm(width)
        self.config = {"dimension": width}

    def __call__(self, features: Features) -> None:
        features.vectors[SENTENCE] = self.norm(features.vectors[SENTENCE])


class Normalize(Module):
    """Divides vectors by their lengths, those of tokens or those of sequences."""

    type = "sentence_transformers.base.modules.normalize.Normalize"
    keys, needs_file = _NAMES, False

    def __init__(self, file: Path, given: dict[str, Any], widths: dict[str, int]) -> None:
        self.name = _feature(file, given)
        self.config = dict.fromkeys(_NAMES, self.name)

    def __call__(self, features: Features) -> None:
        if self.name in features.vectors:  # else nothing happens, as in sentence-transformers
            features.vectors[self.name] = unit(features.vectors[self.name])


class Dropout(Module):
    """Has no effect outside of training."""

    type = "sentence_transformers.sentence_transformer.modules.dropout.Dropout"
    keys, needs_file = ("dropout",), False

    def __init__(self, file: Path, given: dict[str, Any], widths: dict[str, int]) -> None:
        super().__init__(file, given, widths)
        _input_width(file, widths, SENTENCE)


MODULES: dict[str, type[Module]] = {
    kind.type.rpartition(".")[2]: kind for kind in (Pooling, Dense, Norm, Normalize, Dropout)
}


def _read_weights(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The tensors of a module's model.safetensors, which must have exactly these names and shapes."""
    file = folder / "model.safetensors"
    tensors = tensors_of_module(file, lambda name: True)
    if tensors.keys() != shapes.keys():
        raise ValueError(f"load: {file} has the tensors {', '.join(sorted(tensors))}; needed: {', '.join(shapes)}")
    for name, shape in shapes.items():
        if not isinstance(tensors[name], np.ndarray) or tensors[name].shape != shape:
            raise ValueError(
                f"load: {file}: {name} must be floats of shape {shape}, as config.json says, not {tensors[name].shape}"
            )
    return tensors


def tensors_of_module(file: Path, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Tensors of a file; a pickle in its place, which older releases wrote and which may run code, is not opened."""
    pickled = file.with_name("pytorch_model.bin")
    if not file.exists() and pickled.exists():
        raise ValueError(
            f"load: {pickled} is a pickle, which may run code, and is not opened; model.safetensors is needed"
        )
    return dict(read_tensors(file, wanted))


def check(what: Any, value: Any, accepted: Any) -> None:
    """Refuses what is not read, since it could change a result.

    accepted: a tuple of values; a dict of an object's keys ("*": any other) and what is accepted for each; None: all.
    """
    if isinstance(accepted, dict):
        if not isinstance(value, dict):
            raise ValueError(f"load: {what} must be an object, not {value!r}")
        if (unknown := sorted(value.keys() - accepted.keys())) and "*" not in accepted:
            keys = ", ".join(sorted(accepted))
            raise ValueError(f"load: {what}: {', '.join(unknown)} is not supported; the keys that are: {keys}")
        for key, x in value.items():
            check(f"{what}: {key}", x, accepted.get(key, accepted.get("*")))
    elif accepted is not None and value not in accepted:
        values = ", ".join(map(repr, accepted)) or "null"
        raise ValueError(f"load: {what} {value!r} is not supported; accepted: {values}")


def _flag(file: Path, config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise ValueError(f"load: {file}: {key} must be true or false, not {value!r}")
    return value


def _feature(file: Path, config: Mapping[str, Any], others: tuple[str, ...] = ()) -> str:
    """The name of the features that a module reads and writes; others: that it may write in their place."""
    name = config.get("module_input_name", SENTENCE)
    _checks.choice("load", f"{file}: module_input_name", name, (SENTENCE, TOKENS))
    if (output := config.get("module_output_name")) not in (None, name, *others):
        raise ValueError(f"load: {file}: module_output_name must be that of the input, {name!r}, not {output!r}")
    return str(name)


def _input_width(file: Path, widths: Mapping[str, int], name: str) -> int:
    if name not in widths:
        needed = "a Pooling is needed in front" if name == SENTENCE else "the first module gives whole vectors"
        raise ValueError(f"load: {file}: this module reads {name}, which there is not: {needed}")
    return widths[name]
