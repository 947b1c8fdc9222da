"""The modules that follow the first one in a sentence-transformers directory: Pooling, Dense, LayerNorm, Normalize.

Each has a folder with a config.json, and one with weights has a model.safetensors. Every key is obeyed or refused by
name, and nothing that a file names is ever imported.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn import _checks
from pyattn.layers import LayerNorm, Linear
from pyattn.layers.embeddings import sum_sequences
from pyattn.models.files import read_json, write_json
from pyattn.models.tensors import read_tensors, write_tensors

Array = NDArray[Any]

TOKENS, SENTENCE = "token_embeddings", "sentence_embedding"

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
    """What modules read and write: vectors of packed sequences, whose borders are cu_seqlens, and of their tokens."""

    cu_seqlens: NDArray[np.int64]
    prompt: int = 0  # the number of tokens of the prompt at the beginning of each sequence
    tokens: Array | None = None  # (total, width)
    sentence: Array | None = None  # (sequences, width)

    def of(self, name: str) -> Array:
        value = self.tokens if name == TOKENS else self.sentence
        assert value is not None  # read_directory has refused directories where a module lacks its input
        return value

    def set(self, name: str, value: Array) -> None:
        if name == TOKENS:
            self.tokens = value
        else:
            self.sentence = value


def unit(vectors: Array) -> Array:
    """Each row divided by its length."""
    norms = np.sqrt(np.einsum("nh,nh->n", vectors, vectors))
    divided: Array = vectors / np.maximum(norms, _MIN_NORM)[:, None]
    return divided


def pool(hidden: Array, cu_seqlens: Array, modes: tuple[str, ...], prompt: int = 0) -> NDArray[np.float32]:
    """One vector for each packed sequence, (total, width) -> (n, modes * width), without its first `prompt` rows.

    A sequence without rows gives zeros, and so does one that is no longer than the prompt; only "cls" gives its first
    row then, as in sentence-transformers.
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
        elif mode == "max" and kept.any():  # reduceat would give the row behind an empty segment
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


class Module:
    """A step from features to features.

    `read` takes the module's folder and the widths of the features before it, by name; it changes those to the widths
    behind it.
    """

    type = ""  # the dotted name that today's sentence-transformers writes

    @classmethod
    def read(cls, folder: Path, widths: dict[str, int]) -> "Module":
        raise NotImplementedError

    def __call__(self, features: Features) -> None:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        write_json(folder / "config.json", self.config())

    def config(self) -> dict[str, Any]:
        """The contents of config.json, with today's keys."""
        raise NotImplementedError


class Pooling(Module):
    """One vector for each sequence from those of its tokens, by each of `modes`, side by side."""

    type = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"

    def __init__(self, width: int, modes: tuple[str, ...], include_prompt: bool = True) -> None:
        self.width, self.modes, self.include_prompt = width, modes, include_prompt

    @classmethod
    def read(cls, folder: Path, widths: dict[str, int]) -> "Pooling":
        file = folder / "config.json"
        config = read_json(file, dict)
        dimensions = (
            "embedding_dimension",
            "word_embedding_dimension",
        )  # not read: the model gives the width
        _known(file, config, {*dimensions, "pooling_mode", "include_prompt", *_SWITCHES})
        switched = [mode for switch, mode in _SWITCHES.items() if _flag(file, config, switch, False)]
        modes = config.get("pooling_mode", switched or "mean")
        given = [modes] if isinstance(modes, str) else modes
        if not isinstance(given, list) or not 0 < len(given) <= len(MODES) or any(mode not in MODES for mode in given):
            raise ValueError(
                f"load: {file}: pooling_mode must be one of {', '.join(MODES)}, or a list of some, not {modes!r}"
            )
        width = _input_width(file, widths, TOKENS)
        widths[SENTENCE] = len(given) * width
        return cls(width, tuple(given), _flag(file, config, "include_prompt", True))

    def __call__(self, features: Features) -> None:
        prompt = 0 if self.include_prompt else features.prompt
        features.sentence = pool(features.of(TOKENS), features.cu_seqlens, self.modes, prompt)

    def config(self) -> dict[str, Any]:
        modes = self.modes[0] if len(self.modes) == 1 else list(self.modes)
        return {"embedding_dimension": self.width, "pooling_mode": modes, "include_prompt": self.include_prompt}


def _sigmoid(x: Array) -> Array:
    return np.float32(0.5) * (np.tanh(x * np.float32(0.5)) + np.float32(1))


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
    "torch.nn.modules.activation.Sigmoid": _sigmoid,
    "torch.nn.modules.activation.Softplus": _softplus,
    "torch.nn.modules.activation.Softsign": lambda x: x / (1 + np.abs(x)),
    "torch.nn.modules.activation.Tanh": np.tanh,
}
_TANH = "torch.nn.modules.activation.Tanh"
_FULL_NAMES = {f"torch.nn.{name.rpartition('.')[2]}": name for name in _ACTIVATIONS} | {x: x for x in _ACTIVATIONS}


class Dense(Module):
    """activation(x weight^T + bias), plus x or a projection of x where the file says so."""

    type = "sentence_transformers.base.modules.dense.Dense"

    def __init__(
        self, name: str, activation: str, linear: Linear, has_bias: bool, residual: Linear | None, adds_input: bool
    ) -> None:
        self.name, self.activation = name, activation
        self.linear, self.has_bias = linear, has_bias
        self.residual, self.adds_input = residual, adds_input

    @classmethod
    def read(cls, folder: Path, widths: dict[str, int]) -> "Dense":
        file = folder / "config.json"
        config = read_json(file, dict)
        _known(file, config, {"in_features", "out_features", "bias", "activation_function", "use_residual", *_NAMES})
        name = _feature(file, config)
        inputs, outputs = (
            _checks.size("load", f"{file}: {key}", config.get(key)) for key in ("in_features", "out_features")
        )
        if inputs != _input_width(file, widths, name):
            raise ValueError(f"load: {file}: in_features is {inputs}, but {name} has width {widths[name]}")
        given = config.get("activation_function", _TANH)
        if given not in tuple(_FULL_NAMES):
            raise ValueError(
                f"load: {file}: activation_function {given!r} is not supported; those that are: "
                f"{', '.join(_ACTIVATIONS)}"
            )
        shapes: dict[str, tuple[int, ...]] = {"linear.weight": (outputs, inputs)}
        if has_bias := _flag(file, config, "bias", True):
            shapes["linear.bias"] = (outputs,)
        if (adds_input := _flag(file, config, "use_residual", False)) and inputs != outputs:
            shapes["residual.weight"] = (outputs, inputs)
        tensors = read_weights(folder, shapes)
        activation = _ACTIVATIONS[_FULL_NAMES[given]]
        fused = activation if isinstance(activation, str) else None
        linear = Linear(inputs, outputs, has_bias, activation=fused)
        linear.load_state_dict({key.partition(".")[2]: x for key, x in tensors.items() if key.startswith("linear.")})
        residual = None
        if "residual.weight" in shapes:
            residual = Linear(inputs, outputs, bias=False)
            residual.load_state_dict({"weight": tensors["residual.weight"]})
        widths[name] = outputs
        return cls(name, _FULL_NAMES[given], linear, has_bias, residual, adds_input)

    def __call__(self, features: Features) -> None:
        rows = np.ascontiguousarray(features.of(self.name))
        out = self.linear(rows)
        if callable(function := _ACTIVATIONS[self.activation]):
            out = np.asarray(function(out), np.float32)
        if self.adds_input:
            out = out + (rows if self.residual is None else self.residual(rows))
        features.set(self.name, out)

    def save(self, folder: Path) -> None:
        super().save(folder)
        layers = {"linear": self.linear} | ({} if self.residual is None else {"residual": self.residual})
        held = {f"{name}.{key}": x for name, layer in layers.items() for key, x in layer.state_dict().items()}
        write_tensors(folder / "model.safetensors", held)

    def config(self) -> dict[str, Any]:
        return {
            "in_features": self.linear.in_features,
            "out_features": self.linear.out_features,
            "bias": self.has_bias,
            "activation_function": self.activation,
            **dict.fromkeys(_NAMES, self.name),
            **({"use_residual": True} if self.adds_input else {}),
        }


class Norm(Module):
    """sentence-transformers' LayerNorm of sentence vectors."""

    type = "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm"

    def __init__(self, norm: LayerNorm) -> None:
        self.norm = norm

    @classmethod
    def read(cls, folder: Path, widths: dict[str, int]) -> "Norm":
        file = folder / "config.json"
        config = read_json(file, dict)
        _known(file, config, {"dimension"})
        width = _checks.size("load", f"{file}: dimension", config.get("dimension"))
        if width != _input_width(file, widths, SENTENCE):
            raise ValueError(f"load: {file}: dimension is {width}, but {SENTENCE} has width {widths[SENTENCE]}")
        tensors = read_weights(folder, {"norm.weight": (width,), "norm.bias": (width,)})
        norm = LayerNorm(width)
        norm.load_state_dict({name.removeprefix("norm."): x for name, x in tensors.items()})
        return cls(norm)

    def __call__(self, features: Features) -> None:
        features.sentence = self.norm(features.of(SENTENCE))

    def save(self, folder: Path) -> None:
        super().save(folder)
        write_tensors(folder / "model.safetensors", {f"norm.{key}": x for key, x in self.norm.state_dict().items()})

    def config(self) -> dict[str, Any]:
        return {"dimension": self.norm.width}


class Normalize(Module):
    """Divides vectors by their lengths, those of tokens or those of sequences."""

    type = "sentence_transformers.base.modules.normalize.Normalize"

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def read(cls, folder: Path, widths: dict[str, int]) -> "Normalize":
        file = folder / "config.json"
        config = read_json(file, dict) if file.exists() else {}  # releases before 5.4 write none
        _known(file, config, set(_NAMES))
        return cls(_feature(file, config))

    def __call__(self, features: Features) -> None:
        if (self.name == TOKENS and features.tokens is None) or (self.name == SENTENCE and features.sentence is None):
            return  # as in sentence-transformers, nothing happens where these vectors are not made yet
        features.set(self.name, unit(features.of(self.name)))

    def config(self) -> dict[str, Any]:
        return dict.fromkeys(_NAMES, self.name)


class Dropout(Module):
    """Has no effect outside of training."""

    type = "sentence_transformers.sentence_transformer.modules.dropout.Dropout"

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = dict(config)

    @classmethod
    def read(cls, folder: Path, widths: dict[str, int]) -> "Dropout":
        file = folder / "config.json"
        config = read_json(file, dict) if file.exists() else {}
        _known(file, config, {"dropout"})
        _input_width(file, widths, SENTENCE)
        return cls(config)

    def __call__(self, features: Features) -> None:
        pass

    def config(self) -> dict[str, Any]:
        return self._config


MODULES: dict[str, type[Module]] = {
    kind.type.rpartition(".")[2]: kind for kind in (Pooling, Dense, Norm, Normalize, Dropout)
}

_NAMES = ("module_input_name", "module_output_name")


def read_weights(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The tensors of a module's model.safetensors, which must have exactly these names and shapes."""
    file = folder / "model.safetensors"
    refuse_pickle(file)
    tensors = read_tensors(file, lambda name: True)
    if tensors.keys() != shapes.keys():
        raise ValueError(f"load: {file} has the tensors {', '.join(sorted(tensors))}; needed: {', '.join(shapes)}")
    for name, shape in shapes.items():
        if not isinstance(tensors[name], np.ndarray) or tensors[name].shape != shape:
            raise ValueError(
                f"load: {file}: {name} must be floats of shape {shape}, as config.json says, not {tensors[name].shape}"
            )
    return tensors


def refuse_pickle(file: Path) -> None:
    """Raises ValueError if the only weights are a pickle, which older releases wrote and which may run code."""
    pickled = file.with_name("pytorch_model.bin")
    if not file.exists() and pickled.exists():
        raise ValueError(
            f"load: {pickled} is a pickle, which may run code, and is not opened; model.safetensors is needed"
        )


def _known(file: Path, config: Mapping[str, Any], keys: set[str]) -> None:
    """Raises ValueError for keys that are not read here, since they could change a result."""
    if unknown := sorted(map(str, config.keys() - keys)):
        raise ValueError(
            f"load: {file}: {', '.join(unknown)} is not supported; the keys that are: {', '.join(sorted(keys))}"
        )


def _flag(file: Path, config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise ValueError(f"load: {file}: {key} must be true or false, not {value!r}")
    return value


def _feature(file: Path, config: Mapping[str, Any]) -> str:
    """The name of the features that a module reads and writes."""
    name = config.get("module_input_name", SENTENCE)
    _checks.choice("load", f"{file}: module_input_name", name, (SENTENCE, TOKENS))
    if (output := config.get("module_output_name")) not in (None, name):
        raise ValueError(f"load: {file}: module_output_name must be that of the input, {name!r}, not {output!r}")
    return str(name)


def _input_width(file: Path, widths: Mapping[str, int], name: str) -> int:
    if name not in widths:
        needed = "a Pooling is needed in front" if name == SENTENCE else "the first module gives whole vectors"
        raise ValueError(f"load: {file}: this module reads {name}, which there is not: {needed}")
    return widths[name]
