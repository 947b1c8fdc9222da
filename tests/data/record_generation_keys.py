"""Records what transformers' generate makes of every key of generation_config.json, for test_generation_keys.py.

Run with torch and transformers installed: python -m tests.data.record_generation_keys
"""

import contextlib
import json
import tempfile
import warnings
from pathlib import Path

FILE = Path(__file__).parent / "generation_keys.json"

PROMPT = [5, 9, 5, 12, 30, 9]
BASES = {
    "gpt2": {"max_new_tokens": 7, "eos_token_id": 2},
    "bart": {"max_new_tokens": 7, "eos_token_id": 2, "decoder_start_token_id": 2, "pad_token_id": 1},
}
MODES = {"greedy": {}, "beams": {"num_beams": 3}}

# Values that are tried of each key beside null; those of transformers' GenerationConfig, and of older ones.
KEYS = {
    "max_length": [4, 12],
    "max_new_tokens": [2],
    "min_length": [5, -1],
    "min_new_tokens": [5, 30],
    "early_stopping": [True, False, "never"],
    "max_time": [100.0],
    "stop_strings": [["."]],
    "do_sample": [False],
    "num_beams": [1, 2],
    "use_mtp": [True],
    "use_cache": [False, True],
    "cache_implementation": ["static", "dynamic", "quantized"],
    "cache_config": [{"nbits": 4}],
    "max_cache_len": [20],
    "temperature": [0.0, 1e-7, 0.5, "hot"],
    "top_k": [-1, 0, 1, 5],
    "top_p": [0.0, 0.5, 1.5],
    "min_p": [0.2, 3.0],
    "top_h": [0.4],
    "typical_p": [0.2],
    "epsilon_cutoff": [0.3],
    "eta_cutoff": [0.3],
    "repetition_penalty": [1.7],
    "encoder_repetition_penalty": [3.0, 0.3],
    "length_penalty": [10, -1.0, 3.0],
    "no_repeat_ngram_size": [1, 2, -1],
    "encoder_no_repeat_ngram_size": [1, 2, -1],
    "bad_words_ids": ["ONE", "TWO", [[2]]],
    "renormalize_logits": [True],
    "forced_bos_token_id": [7, [7, 8]],
    "forced_eos_token_id": [2, 9],
    "remove_invalid_values": [True],
    "exponential_decay_length_penalty": [[1, 1.9]],
    "suppress_tokens": ["ONE", [-1], [400], []],
    "begin_suppress_tokens": ["ONE", [-1]],
    "sequence_bias": ["BIAS"],
    "token_healing": [False],
    "guidance_scale": [1, 1.0, 2.0],
    "watermarking_config": [{"bias": 9.0}],
    "num_return_sequences": [1],
    "output_attentions": [False],
    "output_hidden_states": [False],
    "output_scores": [True],
    "output_logits": [True],
    "return_dict_in_generate": [False],
    "pad_token_id": [3, -1],
    "bos_token_id": [4],
    "eos_token_id": [-1, [2, 11], "ONE", 400],
    "decoder_start_token_id": [6],
    "is_assistant": [False],
    "num_assistant_tokens": [3],
    "num_assistant_tokens_schedule": ["constant"],
    "assistant_confidence_threshold": [0.2],
    "prompt_lookup_num_tokens": [None],
    "max_matching_ngram_size": [2],
    "assistant_lookbehind": [3],
    "target_lookbehind": [3],
    "disable_compile": [True],
    "low_memory": [True],
    "penalty_alpha": [0.6, 0.0],
    "dola_layers": ["high"],
    "diversity_penalty": [0.5],
    "num_beam_groups": [1, 3],
    "constraints": [[]],
    "force_words_ids": [[[3]]],
    "prefill_chunk_size": [4],
    "forced_decoder_ids": [[[1, 7]]],
    "transformers_version": ["4.30.0"],
    "_from_model_config": [True],
    "something_else": [3],
}


def cases(firsts):
    """(case, mode, settings); firsts are the tokens that each case writes first without further settings."""
    for case in BASES:
        one, two = firsts[case][:2]
        values = {"ONE": one, "TWO": [[one, two], [two, one], [3, 4, 5]], "BIAS": [[[one], -2.5], [[one, two], 4.0]]}
        for mode in MODES:
            for key, given in {"": [None], **KEYS}.items():
                for value in [None, *given] if key else given:  # type: ignore[attr-defined]
                    value = values.get(value, value) if isinstance(value, str) else value
                    if key in ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens") and value == one:
                        value = [[one]] if key == "bad_words_ids" else [one]
                    yield case, mode, ({key: value} if key else {})


def answer(folder, case):
    """The new tokens; None where transformers raises."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    try:
        kind = AutoModelForCausalLM if case == "gpt2" else AutoModelForSeq2SeqLM
        model = kind.from_pretrained(folder).eval()
        output = model.generate(torch.tensor([PROMPT]))
        return output[0, len(PROMPT) if case == "gpt2" else 1 :].tolist()
    except Exception:
        return None


def write_case(folder, case, mode, settings):
    from tests.support import recorded

    config, state, _, _ = recorded.recorded(case, FILE.parent / "generative")
    plain = {key: value for key, value in config.items() if key not in ("generation", "forced_eos_token_id")}
    return recorded.write(folder, plain | {"generation": BASES[case] | MODES[mode] | settings}, state)


def main():
    import transformers

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()

    def record(*given):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(None):
            return answer(write_case(Path(folder), *given), given[0])

    firsts = {case: record(case, "greedy", {})[:2] for case in BASES}
    answers = [record(*given) for given in cases(firsts)]
    FILE.write_text(json.dumps({"firsts": firsts, "answers": answers}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
