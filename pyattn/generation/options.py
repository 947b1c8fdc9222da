"""The options of decoding, and how they are read from generation_config.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from pyattn._checks import count, flag, real, token_ids

_NAME = "GenerationOptions"

# Keys of generation_config.json that mean what the option of the same name means; None is the option's default.
_SAME = (
    "max_new_tokens",
    "max_length",
    "min_new_tokens",
    "min_length",
    "num_beams",
    "length_penalty",
    "early_stopping",
    "num_return_sequences",
    "do_sample",
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "renormalize_logits",
)

# Keys that would change results, and their values that do not.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "constraints": (),
    "diversity_penalty": (0,),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": (),
    "guidance_scale": (1,),
    "max_time": (),
    "num_beam_groups": (1,),
    "penalty_alpha": (0,),
    "remove_invalid_values": (False,),
    "sequence_bias": (),
    "stop_strings": (),
    "token_healing": (False,),
    "top_h": (),
    "typical_p": (1,),
    "watermarking_config": (),
}


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How tokens are chosen and when a sequence ends. Names and meanings are those of Hugging Face transformers.

    Args:
        max_new_tokens: how many tokens a result may have. This or max_length is needed.
        max_length: the same with the prompt counted; max_new_tokens has precedence.
        min_new_tokens: stop tokens are ruled out until a result has so many tokens.
        min_length: the same with the prompt counted; min_new_tokens has precedence.
        stop_tokens: an id, or several: the tokens that end a sequence. A result holds the one that ended it.
        num_beams: 1, or how many sequences a beam search follows at once.
        length_penalty: beam search ranks ended sequences by the sum of log-probabilities / tokens ** length_penalty;
            from -5 to 5.
        early_stopping: when a beam search ends. True: as soon as num_beams sequences have ended. False: once the best
            running sequence would rank below all of those if it ended now. "never": once it must, however it goes on.
        num_return_sequences: how many results a prompt gets, at most num_beams in a beam search; with do_sample, as
            many independent draws.
        do_sample: draw tokens at random, instead of taking the most probable one.
        temperature, top_k, top_p, min_p: of sampling, in this order: logits are divided by temperature; the top_k
            greatest are kept (0: all; of equal ones, lower ids); of those, the fewest that together have a probability
            of top_p; of those, the ones at least min_p times as probable as the most probable.
        seed: of sampling: None for a new one each time, an int, or an int for each prompt. Prompt i draws from a
            stream of its own, that of (seed, i), or, given a seed for each, that of (its seed, 0): what it gets does
            not depend on the other prompts.
        repetition_penalty: divides positive and multiplies negative logits of the tokens seen so far, in the prompt as
            well (Keskar et al. 2019, "CTRL", section 4.1); above 0.
        no_repeat_ngram_size: no so many tokens in a row occur twice, those of the prompt counted; 0 switches it off.
        suppress_tokens, begin_suppress_tokens: ids that are never chosen, and ids that are not chosen first.
        forced_bos_token_id: the token that follows a prompt of one token, as of encoder-decoder models.
        forced_eos_token_id: the token that is chosen last where a sequence reaches its greatest length.
        renormalize_logits: beam search makes probabilities add up to 1 again after all rules.
        return_scores: results without beams have a score as well, the sum of the log-probabilities of their tokens
            under the rules, but before temperature and what follows it.

    Raises:
        TypeError, ValueError: an option has a wrong type or value, or two do not go together.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int | None = None
    min_length: int = 0
    stop_tokens: int | Sequence[int] = ()
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | Sequence[int] | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    suppress_tokens: Sequence[int] = ()
    begin_suppress_tokens: Sequence[int] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    renormalize_logits: bool = False
    return_scores: bool = False

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        for name, least in (
            ("min_length", 0),
            ("num_beams", 1),
            ("num_return_sequences", 1),
            ("top_k", 0),
            ("no_repeat_ngram_size", 0),
        ):
            set_(self, name, count(_NAME, name, getattr(self, name), least))
        for name, least in (
            ("max_new_tokens", 1),
            ("max_length", 1),
            ("min_new_tokens", 0),
            ("forced_bos_token_id", 0),
            ("forced_eos_token_id", 0),
        ):
            if getattr(self, name) is not None:
                set_(self, name, count(_NAME, name, getattr(self, name), least))
        for name, lowest, highest in (
            ("length_penalty", -5, 5),
            ("temperature", 1e-6, 1e6),
            ("top_p", 0, 1),
            ("min_p", 0, 1),
            ("repetition_penalty", 1e-6, 1e6),
        ):
            set_(self, name, real(_NAME, name, getattr(self, name), lowest, highest))
        for name in ("do_sample", "renormalize_logits", "return_scores"):
            set_(self, name, flag(_NAME, name, getattr(self, name)))
        for name in ("stop_tokens", "suppress_tokens", "begin_suppress_tokens"):
            given = getattr(self, name)
            ids = token_ids(_NAME, name, [given] if name == "stop_tokens" and np.ndim(given) == 0 else given)
            set_(self, name, tuple(dict.fromkeys(ids.tolist())))
        if self.seed is not None:
            one = isinstance(self.seed, int | np.integer)
            set_(self, "seed", count(_NAME, "seed", self.seed) if one else _seeds(self.seed))
        if self.early_stopping != "never":
            if isinstance(self.early_stopping, str):
                raise ValueError(f'{_NAME}: early_stopping must be True, False or "never", not {self.early_stopping!r}')
            set_(self, "early_stopping", flag(_NAME, "early_stopping", self.early_stopping))
        self._check_together()

    def _check_together(self) -> None:
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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GenerationOptions":
        """The options in a Hugging Face generation_config.json.

        eos_token_id becomes stop_tokens; bad_words_ids of one token each become suppress_tokens. What is absent or null
        has transformers' default: of top_k, 50. Keys that tell nothing about the choice of tokens are ignored (of
        caches, outputs, speculation, the prompt's own tokens, and those of a model's own code).

        Raises:
            TypeError, ValueError: a value is wrong, or would change results in a way that is not supported.

        Example:

            >>> options = GenerationOptions.from_dict({"eos_token_id": 2, "num_beams": 4, "use_cache": True})
            >>> options.stop_tokens, options.num_beams
            ((2,), 4)
        """
        given = {key: value for key, value in values.items() if value is not None}
        for key, neutral in _UNSUPPORTED.items():
            if key in given and given[key] not in neutral:
                raise ValueError(f"{_NAME}: {key} of generation_config.json is not supported; it is {given[key]!r}")
        options = {key: given[key] for key in _SAME if key in given}
        options["top_k"] = given.get("top_k", 50)
        options["stop_tokens"] = given.get("eos_token_id", ())
        for key in ("forced_bos_token_id", "forced_eos_token_id"):
            if isinstance(options.get(key), list) and len(options[key]) == 1:
                options[key] = options[key][0]
        if bad := given.get("bad_words_ids"):
            if not isinstance(bad, list) or any(not isinstance(word, list) or len(word) != 1 for word in bad):
                raise ValueError(f"{_NAME}: bad_words_ids must be lists of one token id each, not {bad!r}")
            stops = np.atleast_1d(options["stop_tokens"]).tolist()
            # transformers never rules out the end of a sequence in this way
            words = [word[0] for word in bad if word[0] not in stops]
            options["suppress_tokens"] = [*options.get("suppress_tokens", ()), *words]
        return cls(**options)


OPTION_NAMES = tuple(field.name for field in fields(GenerationOptions))


def _seeds(seed: Any) -> tuple[int, ...]:
    if not isinstance(seed, Sequence | np.ndarray) or isinstance(seed, str | bytes):
        raise TypeError(f"{_NAME}: seed must be an integer, one for each prompt, or None; not {type(seed).__name__}")
    return tuple(count(_NAME, f"seed[{i}]", value) for i, value in enumerate(seed))
