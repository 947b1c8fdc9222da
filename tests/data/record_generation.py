"""Records what transformers' generate makes of models that are tables, for tests/generation/test_transformers.py.

Run with torch and transformers installed: python -m tests.data.record_generation
"""

import json
import warnings
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "generation.json"

VOCABULARY = 23
STOP, OTHER_STOP = 2, 3
LONGEST = 40  # a prompt and what follows it


def tables(number):
    """The logits after each token, and what the token before that adds to them: exact sums in float32."""
    x = np.arange(2 * VOCABULARY**2, dtype=np.uint64) + np.uint64(1 + number * 10007)
    for multiplier in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):  # splitmix64's finalizer: any two models differ
        x = (x ^ (x >> np.uint64(30))) * np.uint64(multiplier)
    values = ((x >> np.uint64(41)).astype(np.int64) - 2**22).reshape(2, VOCABULARY, VOCABULARY)
    values[0, :, [STOP, OTHER_STOP]] += 2**20  # sequences of different lengths compete
    return (values / 2**20).astype(np.float32)  # in [-4, 5)


def some(ids):
    return [int(x) for x in ids]


def random_case(rng):
    """The number of a model, a prompt, and transformers' options."""
    options = {"max_new_tokens": int(rng.integers(1, 14))}
    if rng.random() < 0.9:
        options["eos_token_id"] = [STOP, OTHER_STOP] if rng.random() < 0.4 else STOP
    prompt = rng.integers(0, VOCABULARY, rng.choice([1, 1, 2, 5, 9])).tolist()
    if rng.random() < 0.7:
        options["num_beams"] = int(rng.integers(2, 6))
        options["length_penalty"] = float(rng.choice([-1.0, 0.0, 0.6, 1.0, 2.0, 10.0]))
        options["early_stopping"] = [False, True, "never"][rng.integers(3)]
        options["num_return_sequences"] = int(rng.integers(1, options["num_beams"] + 1))
        if rng.random() < 0.2:
            options["renormalize_logits"] = True
    extra = {
        "repetition_penalty": float(rng.choice([0.7, 1.3, 2.0])),
        "no_repeat_ngram_size": int(rng.integers(1, 4)),
        "min_new_tokens": int(rng.integers(0, options["max_new_tokens"] + 1)),
        "min_length": int(rng.integers(0, 10)),
        "forced_bos_token_id": 4,
        "forced_eos_token_id": STOP,
        "suppress_tokens": rng.integers(5, VOCABULARY, 3).tolist(),
        "begin_suppress_tokens": rng.integers(4, VOCABULARY, 9).tolist(),
        "bad_words_ids": [[STOP], *(some(rng.integers(5, VOCABULARY, k)) for k in (1, 1, 2, 2, 2, 2, 3))],
        "sequence_bias": [[some(rng.integers(4, VOCABULARY, k)), float(rng.normal(0, 3))] for k in (1, 1, 2, 2, 2, 3)],
        "encoder_repetition_penalty": float(rng.choice([0.7, 1.5])),
        "encoder_no_repeat_ngram_size": int(rng.integers(1, 3)),
        "max_length": len(prompt) + int(rng.integers(1, 14)),
    }
    if rng.random() < 0.3 and "num_beams" not in options:  # beams would meet in ties
        extra |= {"forced_bos_token_id": [4, 9], "forced_eos_token_id": [7, STOP]}
    if "eos_token_id" in options:
        extra["exponential_decay_length_penalty"] = [int(rng.integers(0, 5)), float(rng.choice([0.7, 1.2, 1.9]))]
    for name, value in extra.items():
        if rng.random() < 0.2:
            options[name] = value
            if name == "max_length":
                del options["max_new_tokens"]
                options.pop("min_new_tokens", None)
    return {"model": int(rng.integers(1000)), "prompt": prompt, "options": options}


def table_model():
    """transformers' generate over tables: `of(number)` chooses the model, `noise` disturbs it at each place anew."""
    import torch
    from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

    class TableModel(PreTrainedModel, GenerationMixin):
        config_class = PretrainedConfig
        main_input_name = "input_ids"

        def __init__(self, config):
            super().__init__(config)
            self.tables = torch.nn.Parameter(torch.zeros(2, VOCABULARY, VOCABULARY), requires_grad=False)

        def of(self, number, noise=0):
            self.tables.copy_(torch.from_numpy(tables(number)))
            self.noise = 1e-5 * torch.randn(LONGEST, VOCABULARY, generator=torch.Generator().manual_seed(0)) * noise
            return self

        def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **unused):
            return {"input_ids": input_ids}

        def forward(self, input_ids, attention_mask=None, **unused):
            logits = self.tables[0, input_ids]
            logits[:, 1:] += self.tables[1, input_ids[:, :-1]]
            logits += self.noise[: input_ids.shape[1]]
            return CausalLMOutput(logits=logits)

    return TableModel(PretrainedConfig(vocab_size=VOCABULARY))


def run(model, case):
    """The new tokens of each result, and in a beam search their scores."""
    import torch

    prompt = torch.tensor([case["prompt"]])
    beams = case["options"].get("num_beams", 1) > 1
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        use_cache=False,
        pad_token_id=VOCABULARY,  # no token: it can be told from those that were chosen
        return_dict_in_generate=True,
        output_scores=True,
        **case["options"],
    )
    results = []
    for tokens in output.sequences[:, prompt.shape[1] :].tolist():
        results.append([token for token in tokens if 0 <= token < VOCABULARY])
    return results, output.sequences_scores.tolist() if beams else None


SAMPLED = [
    {"temperature": 0.3},
    {"temperature": 2.5},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 100},
    {"top_p": 0.9},
    {"top_p": 0.2},
    {"top_p": 0.01},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"temperature": 1.7, "top_k": 12, "top_p": 0.8},
    {"temperature": 0.6, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 1.4, "top_k": 9, "top_p": 0.97, "min_p": 0.02},
    {"temperature": 1e-7},
    {"typical_p": 0.2},
    {"typical_p": 0.9, "top_k": 15},
    {"epsilon_cutoff": 0.03},
    {"epsilon_cutoff": 0.9},
    {"eta_cutoff": 0.05},
    {"eta_cutoff": 0.3, "temperature": 1.5},
    {"temperature": 1.2, "top_p": 0.99, "typical_p": 0.95, "epsilon_cutoff": 0.002, "eta_cutoff": 0.01},
]


def probabilities(options, logits):
    """What transformers would draw from, for logits (rows, vocabulary)."""
    import torch
    from transformers.generation import logits_process

    scores = torch.from_numpy(logits)
    for name, warper in (
        ("temperature", logits_process.TemperatureLogitsWarper),
        ("top_k", logits_process.TopKLogitsWarper),
        ("top_p", logits_process.TopPLogitsWarper),
        ("min_p", logits_process.MinPLogitsWarper),
        ("typical_p", logits_process.TypicalLogitsWarper),
        ("epsilon_cutoff", logits_process.EpsilonLogitsWarper),
        ("eta_cutoff", logits_process.EtaLogitsWarper),
    ):
        if name in options:
            scores = warper(options[name])(None, scores)
    return scores.softmax(dim=-1).numpy()


def record(seed, number):
    warnings.filterwarnings("ignore")
    rng = np.random.default_rng(seed)
    model = table_model()
    cases = []
    while len(cases) < number:
        case = random_case(rng)
        tokens, scores = run(model.of(case["model"]), case)
        if all(run(model.of(case["model"], noise), case)[0] == tokens for noise in (1, -1)):  # else rounding decides
            cases.append({**case, "tokens": tokens, "scores": scores})
    return cases


def main():
    import transformers

    transformers.logging.set_verbosity_error()
    sampled = [
        {"options": options, "probabilities": [[float(f"{x:.6g}") for x in row] for row in rows]}
        for options, rows in ((x, probabilities(x, tables(i)[0][:4])) for i, x in enumerate(SAMPLED))
    ]
    lines = [json.dumps(case, separators=(",", ":")) for case in record(seed=0, number=400)]
    FILE.write_text(
        '{"cases": [\n' + ",\n".join(lines) + '\n],\n"sampled": ' + json.dumps(sampled, separators=(",", ":")) + "}\n"
    )


if __name__ == "__main__":
    main()
