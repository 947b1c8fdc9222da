"""The options of decoding, and how they are read from generation_config.json."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from pyattn._checks import count, flag, real, token_ids

_NAME = "GenerationOptions"

_MAX_LENGTH = 2**40  # no sequence is longer
_MAX_BEAMS = 10_000  # each takes the memory of a sequence
_OF_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")
_OF_BEAMS = ("length_penalty", "early_stopping", "num_beam_groups")

# Keys that are not supported, and their values without effect.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "cache_implementation": ("dynamic", "static", "offloaded", "offloaded_static", "sliding_window", "hybrid"),
    "guidance_scale": (1,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0,),
    "token_healing": (False,),
    **dict.fromkeys(("constraints", "dola_layers", "force_words_ids", "max_time", "stop_strings"), ()),
    **dict.fromkeys(("top_h", "watermarking_config"), ()),
}


def _option(default: Any, check: Callable[..., Any], *limits: float) -> Any:
    """A field of what check makes of a given value, of what messages begin with, its name, the value and the limits."""
    return field(default=default, metadata={"check": (default, check, limits)})


def _length(function: str, name: str, given: Any, lowest: int) -> int:
    return min(count(function, name, given, lowest), _MAX_LENGTH)


def _ids(function: str, name: str, given: Any) -> tuple[int, ...]:
    ids = token_ids(function, name, [given] if name == "stop_tokens" and np.ndim(given) == 0 else given)
    return tuple(dict.fromkeys(ids.tolist()))


def _forced(function: str, name: str, given: Any) -> int | tuple[int, ...]:
    if isinstance(given, int | np.integer):
        return count(function, name, given)
    ids = _ids(function, name, given)
    if not ids:
        raise ValueError(f"{function}: {name} must be a token id, or several, not an empty list")
    return ids[0] if len(ids) == 1 else ids


def _words(function: str, name: str, given: Any) -> tuple[tuple[int, ...], ...]:
    if not isinstance(given, list | tuple):
        raise TypeError(f"{function}: {name} must be a list of lists of token ids, not {type(given).__name__}")
    words = tuple(tuple(token_ids(function, f"{name}[{i}]", x).tolist()) for i, x in enumerate(given))
    if () in words:
        raise ValueError(f"{function}: {name}[{words.index(())}] is empty; it must be a list of token ids")
    return words


def _bad_words(function: str, name: str, given: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(dict.fromkeys(_words(function, name, given)))


def _biases(function: str, name: str, given: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    pairs = given if isinstance(given, list | tuple) else [given]
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise TypeError(f"{function}: {name} must be a list of pairs of token ids and a number, not {given!r:.200}")
    words = _words(function, name, [pair[0] for pair in pairs])
    numbers = [real(function, name, pair[1], -np.inf, 1e30) for pair in pairs]
    return tuple(dict(zip(words, numbers, strict=True)).items())


def _decay(function: str, name: str, given: Any) -> tuple[int, float]:
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise TypeError(f"{function}: {name} must be (start, factor), not {given!r:.200}")
    return count(function, name, given[0]), real(function, name, given[1], 0, 1e6)


def _seed(function: str, name: str, given: Any) -> int | tuple[int, ...]:
    if isinstance(given, int | np.integer):
        return count(function, name, given)
    if not isinstance(given, Sequence | np.ndarray) or isinstance(given, str | bytes):
        accepted = "an integer, one for each prompt, or None"
        raise TypeError(f"{function}: {name} must be {accepted}; not {type(given).__name__}")
    return tuple(count(function, f"seed[{i}]", value) for i, value in enumerate(given))


def _early_stopping(function: str, name: str, given: Any) -> bool | str:
    if isinstance(given, str) and given != "never":
        raise ValueError(f'{function}: {name} must be True, False or "never", not {given!r}')
    return given if isinstance(given, str) else flag(function, name, given)


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How tokens are chosen and when a sequence ends. Names and meanings are those of Hugging Face transformers.

    Args:
        max_new_tokens: the greatest number of tokens of a result. This or max_length is needed.
        max_length: the same, the prompt counted; max_new_tokens has precedence.
        min_new_tokens: stop tokens are ruled out until a result has so many tokens.
        min_length: the same, the prompt counted; min_new_tokens has precedence.
        stop_tokens: a token id, or several; they end a sequence. A result includes the one that ended it.
        num_beams: the number of sequences that a beam search follows at once; 1: no beam search.
        length_penalty: -20 to 20: beams that ended rank by the sum of log-probabilities / tokens ** length_penalty.
        early_stopping: when a beam search ends. True: as soon as num_beams sequences have ended. False: once the best
            running sequence would rank below all of those if it ended now; "never": however it continues.
        num_return_sequences: results for a prompt, at most num_beams in a beam search; with do_sample, separate draws.
        do_sample: draw tokens at random, instead of taking the most probable one.
        temperature, top_k, top_p, min_p: sampling applies them in this order: logits are divided by temperature; the
            top_k greatest are kept (0: all; among equal ones, lower ids); then the fewest of these that together have a
            probability of top_p; then those that are at least min_p times as probable as the most probable one.
        typical_p, epsilon_cutoff, eta_cutoff: are applied after these: the tokens whose surprise is nearest to the
            expected one are kept that together have a probability of typical_p (Meister et al. 2022, arXiv:2202.00666);
            then those at least as probable as epsilon_cutoff; then those at least as probable as the lesser of
            eta_cutoff and sqrt(eta_cutoff) exp(-entropy) (Hewitt et al. 2022, arXiv:2210.15191). The most probable
            token passes the last two in any case.
        seed: for sampling: None for a new one each time, an int, or an int for each prompt. Whatever the others are,
            prompt i draws from a stream of its own, that of (seed, i), or, given a seed for each, of (its seed, 0).
        repetition_penalty: divides positive and multiplies negative logits of the tokens seen so far, in the prompt as
            well (Keskar et al. 2019, "CTRL", section 4.1); above 0.
        encoder_repetition_penalty: the reverse for the tokens that the encoder has read, or else those of the prompt:
            above 1 they become more probable.
        no_repeat_ngram_size: no n-gram of this size occurs twice, in the prompt and the result together; 0: any may.
        encoder_no_repeat_ngram_size: the result has no n-gram of this size of what the encoder has read, or the prompt.
        sequence_bias: pairs of token ids and a number, added to the last id's logit after the others.
        bad_words_ids: sequences of token ids that are never completed; single stop tokens are not ruled out.
        exponential_decay_length_penalty: (start, factor): after start new tokens, the logits x of stop tokens become
            x + |x| (factor ** tokens since then - 1).
        suppress_tokens, begin_suppress_tokens: ids that are never chosen, and ids that are not chosen first.
        forced_bos_token_id: the token that follows a prompt of one token, as encoder-decoder models have it; or several
            tokens, one of which follows, all with the same probability.
        forced_eos_token_id: the token that is chosen last where a sequence reaches its greatest length; or several.
        renormalize_logits: beam search makes probabilities add up to 1 again after all rules.
        return_scores: results without beams have a score as well, the sum of the log-probabilities of their tokens
            under the rules, before temperature and the other options of sampling.
        unread: keys and values that `from_dict` could not read, and that have no effect beside the other options.

    Raises:
        TypeError, ValueError: an option has a wrong type or value, or two do not go together.
    """

    max_new_tokens: int | None = _option(None, _length, 1)
    max_length: int | None = _option(None, _length, 1)
    min_new_tokens: int | None = _option(None, _length, 0)
    min_length: int = _option(0, _length, 0)
    stop_tokens: int | Sequence[int] = _option((), _ids)
    num_beams: int = _option(1, count, 1, _MAX_BEAMS)
    length_penalty: float = _option(1.0, real, -20, 20)
    early_stopping: bool | Literal["never"] = _option(False, _early_stopping)
    num_return_sequences: int = _option(1, count, 1, _MAX_BEAMS)
    do_sample: bool = _option(False, flag)
    temperature: float = _option(1.0, real, 1e-30, 1e6)
    top_k: int = _option(0, count)
    top_p: float = _option(1.0, real, 0, 1)
    min_p: float = _option(0.0, real, 0, 1)
    typical_p: float = _option(1.0, real, 1e-30, 1)
    epsilon_cutoff: float = _option(0.0, real, 0, 1)
    eta_cutoff: float = _option(0.0, real, 0, 1)
    seed: int | Sequence[int] | None = _option(None, _seed)
    repetition_penalty: float = _option(1.0, real, 1e-6, 1e6)
    encoder_repetition_penalty: float = _option(1.0, real, 1e-6, 1e6)
    no_repeat_ngram_size: int = _option(0, count)
    encoder_no_repeat_ngram_size: int = _option(0, count)
    sequence_bias: Sequence[tuple[Sequence[int], float]] = _option((), _biases)
    bad_words_ids: Sequence[Sequence[int]] = _option((), _bad_words)
    exponential_decay_length_penalty: tuple[int, float] | None = _option(None, _decay)
    suppress_tokens: Sequence[int] = _option((), _ids)
    begin_suppress_tokens: Sequence[int] = _option((), _ids)
    forced_bos_token_id: int | Sequence[int] | None = _option(None, _forced)
    forced_eos_token_id: int | Sequence[int] | None = _option(None, _forced)
    renormalize_logits: bool = _option(False, flag)
    return_scores: bool = _option(False, flag)
    unread: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for name, default, check, limits in _CHECKS:
            given = getattr(self, name)
            if given is not None or default is not None:
                object.__setattr__(self, name, check(_NAME, name, given, *limits))
        if self.num_beams > 1 and self.do_sample:
            raise ValueError(f"{_NAME}: do_sample does not go with num_beams={self.num_beams}; beams are never sampled")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"{_NAME}: num_return_sequences={self.num_return_sequences} needs do_sample, or as many beams; "
                f"num_beams is {self.num_beams}"
            )
        if self.max_new_tokens is not None and (self.min_new_tokens or 0) > self.max_new_tokens:
            raise ValueError(
                f"{_NAME}: min_new_tokens={self.min_new_tokens} is more than max_new_tokens={self.max_new_tokens}"
            )
        for key, value in self.unread:
            if self._takes(key):
                is_one = key in OPTION_NAMES
                raise ValueError(
                    f"{_NAME}: {key} is {value!r:.200}, which is not {'accepted' if is_one else 'supported'} beside "
                    f"num_beams={self.num_beams} and do_sample={self.do_sample}"
                )

    def _takes(self, key: str) -> bool:
        """Whether a key of generation_config.json has an effect beside the other options."""
        if key in _OF_SAMPLING:
            return self.do_sample
        if key in _OF_BEAMS:
            return self.num_beams > 1
        if key == "dola_layers":
            return self.num_beams == 1
        return key != "penalty_alpha" or (self.num_beams == 1 and not self.do_sample and self.top_k > 1)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **changes: Any) -> "GenerationOptions":
        """The options in a Hugging Face generation_config.json; `changes` are options by name, instead of those there.

        eos_token_id becomes stop_tokens. Absent keys and null mean transformers' default; that of top_k is 50. Keys
        that do not concern the choice of tokens are ignored (those about caches, outputs, speculation, the prompt's own
        tokens, and those of a model's own code), and so are values without effect: options of sampling without
        do_sample, options of beams without beams, token ids below 0; top_k -1 keeps all tokens, as 0 does.

        Raises:
            TypeError, ValueError: a value is wrong, or would change results in a way that is not supported.

        Example:
            >>> options = GenerationOptions.from_dict({"eos_token_id": 2, "num_beams": 4, "temperature": 0.0})
            >>> options.stop_tokens, options.num_beams, options.temperature
            ((2,), 4, 1.0)
        """
        given = {"top_k": 50} | {key: value for key, value in values.items() if value is not None}
        options = {key: given[key] for key in _KEYS if key in given}
        options["stop_tokens"] = given.get("eos_token_id", ())
        for key in ("stop_tokens", "suppress_tokens", "begin_suppress_tokens"):  # negative ids mean no token
            ids = options.get(key, ())
            ids = ids if isinstance(ids, list | tuple) else [ids]
            options[key] = [x for x in ids if not (type(x) is int and x < 0)]
        for key in ("min_length", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "top_k"):
            if type(options.get(key)) is int and options[key] < 0 and (key != "top_k" or options[key] == -1):
                options[key] = 0
        unread = [(key, given[key]) for key, none in _UNSUPPORTED.items() if key in given and given[key] not in none]
        mode = options | changes
        least, most = options.get("min_new_tokens"), mode.get("max_new_tokens")
        if type(least) is int and type(most) is int:  # up to its greatest length, a sequence does not end
            options["min_new_tokens"] = min(least, most)
        for key in sorted({*_OF_SAMPLING, *_OF_BEAMS} & options.keys() - changes.keys()):
            idle = not mode.get("do_sample") if key in _OF_SAMPLING else mode.get("num_beams", 1) == 1
            try:
                cls(**{key: options[key]})
            except (TypeError, ValueError):
                if idle:
                    unread.append((key, options.pop(key)))
        return cls(**(options | {"unread": tuple(unread)} | changes))


_CHECKS = [(option.name, *option.metadata["check"]) for option in fields(GenerationOptions) if option.metadata]

OPTION_NAMES = tuple(option.name for option in fields(GenerationOptions) if option.name != "unread")

# Keys of generation_config.json with the meaning of the option of that name; null means the option's default.
_KEYS = tuple(name for name in OPTION_NAMES if name not in ("stop_tokens", "seed", "return_scores"))


def changed_options(function: str, options: GenerationOptions | None, changes: Mapping[str, Any]) -> GenerationOptions:
    """The options (None: the defaults) with others in place of some; they are checked again only if there are any."""
    if options is not None and not isinstance(options, GenerationOptions):
        raise TypeError(f"{function}: options must be GenerationOptions or None, not {type(options).__name__}")
    if unknown := sorted(set(changes) - set(OPTION_NAMES)):
        raise TypeError(f"{function}: there is no option {unknown[0]!r}; there are {', '.join(OPTION_NAMES)}")
    options = options or GenerationOptions()
    if not changes:
        return options
    unread = tuple(pair for pair in options.unread if pair[0] not in changes)  # a change replaces what was not read
    return replace(options, unread=unread, **changes)


def with_valid(options: GenerationOptions, **values: Any) -> GenerationOptions:
    """The options with values that are known to be right beside the others: nothing is checked again."""
    changed = copy.copy(options)
    vars(changed).update(values)
    return changed
