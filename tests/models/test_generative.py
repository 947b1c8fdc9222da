"""Every generative family against transformers: recorded by tests/data/record_generative.py, and anew if installed."""

import dataclasses

import numpy as np
import pytest

from bench.torch_families import MODEL_TYPES
from pyattn import models
from pyattn.generation import GenerationOptions
from pyattn.models.families import GENERATIVE_FAMILIES
from pyattn.precision import Quantized, to_int8
from tests.data.record_generative import BEAMS, CASES, FOLDER, NEW_TOKENS, make
from tests.support.problems import num_threads
from tests.support.recorded import recorded, write

TOLERANCE = 1e-5
WITHOUT_ENCODER = ("gpt2", "llama", "mistral", "qwen2")


def loaded(case, folder, **options):
    config, tensors, inputs, outputs = recorded(case, FOLDER)
    return models.load(write(folder, config, tensors), **options), inputs, outputs


def encoded(model, inputs, rows=slice(None)):
    """The memory of some of the samples, or None."""
    for name in ("frames", "pixels"):
        if name in inputs:
            return model.encode(inputs[name][rows])
    return model.encode(inputs["ids"][rows], inputs["lengths"][rows]) if "ids" in inputs else None


def prompts_of(inputs):
    return [prompt[:length] for prompt, length in zip(inputs["prompts"], inputs["prompt_lengths"], strict=True)]


def largest_difference(model, inputs, outputs):
    """Between our results, of all samples at once, and theirs of one after the other."""
    memory = encoded(model, inputs)
    results = {"logits": model(inputs["prompts"], memory), "memory": None if memory is None else memory.hidden}
    worst = 0.0
    for name, expected in outputs.items():
        kind, row = name.split(".")
        if kind in results:
            worst = max(worst, abs(results[kind][int(row)][: len(expected)] - expected).max())
    return worst


def check_tokens(model, inputs, outputs):
    """What is written, by all rows at once."""
    memory = encoded(model, inputs)
    prompts = prompts_of(inputs) if memory is None else None
    for name, beams in (("greedy", 1), ("beams", BEAMS)):
        expected = [outputs[key] for key in sorted(outputs) if key.startswith(name)]
        if expected:
            results = model.generate(prompts, memory=memory, num_beams=beams, max_new_tokens=NEW_TOKENS)
            assert [x.tokens.tolist() for x in results] == [x.tolist() for x in expected], name


@pytest.mark.parametrize("case", ["llama", "gpt2", "bart"])
@pytest.mark.parametrize("is_causal", [False, None])
def test_a_decoder_that_is_not_causal_is_refused(case, is_causal, tmp_path):
    config, tensors, *_ = recorded(case, FOLDER)
    with pytest.raises(ValueError, match=r"^load: .*config.json: is_causal must be one of True, not (False|None)"):
        models.load(write(tmp_path, {**config, "is_causal": is_causal}, tensors))


def test_every_family_is_recorded():
    families = {recorded(case, FOLDER)[0]["model_type"] for case in CASES}
    assert families == GENERATIVE_FAMILIES.keys() >= MODEL_TYPES.keys()


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_transformers_as_recorded(case, tmp_path):
    model, inputs, outputs = loaded(case, tmp_path)
    assert isinstance(model, models.GenerativeModel)
    assert largest_difference(model, inputs, outputs) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_writes_what_transformers_writes_as_recorded(case, tmp_path):
    check_tokens(*loaded(case, tmp_path))


@pytest.mark.oracle
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")  # theirs
def test_agrees_with_transformers_as_installed(case, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    config, tensors, inputs, outputs = make(case, seed=1)
    model = models.load(write(tmp_path, config, tensors))
    assert largest_difference(model, inputs, outputs) < TOLERANCE
    check_tokens(model, inputs, outputs)


def begun(model, memory, sequences, capacity):
    """A continuation of so many sequences."""
    continuation = model.start(memory, batch_size=sequences, capacity=capacity)
    if memory is None:
        continuation.reorder(np.arange(sequences))
    return continuation


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_steps_give_what_all_at_once_gives(case, dtype, tmp_path):
    """The same bits, whatever the parts, and for rows of different lengths."""
    model, inputs, _ = loaded(case, tmp_path, dtype=dtype)
    memory, prompts = encoded(model, inputs), inputs["prompts"]
    whole = model(prompts, memory)
    rows, length = prompts.shape
    for sizes in ([1] * length, [3, 1, length - 4], [length]):
        continuation, done = begun(model, memory, rows, length), 0
        for size in sizes:
            logits = continuation.step(prompts[:, done : done + size])
            done += size
            np.testing.assert_array_equal(logits, whole[:, done - 1])
            np.testing.assert_array_equal(continuation.lengths, done)
    lengths = inputs["prompt_lengths"]
    ragged = begun(model, memory, rows, length).step(prompts, lengths)
    np.testing.assert_array_equal(ragged, whole[np.arange(rows), lengths - 1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_same_bits_in_any_company(case, dtype, tmp_path):
    """A row alone, and among others in another order, on any number of threads."""
    model, inputs, _ = loaded(case, tmp_path, dtype=dtype)
    prompts = inputs["prompts"]
    alone = [model(prompts[i : i + 1], encoded(model, inputs, slice(i, i + 1)))[0] for i in range(len(prompts))]
    order = np.array([1, 0, len(prompts) - 1, 0, 1, 1] * 5)
    for count in (1, 2, 5):
        with num_threads(count):
            together = model(prompts[order], encoded(model, inputs, order))
            np.testing.assert_array_equal(together, [alone[i] for i in order])


def test_windows_may_be_passed_many_times(tmp_path):
    """A cache of a window holds a part of what was written; what it has dropped is not seen anyway."""
    for case in ("mistral", "qwen2-windows"):
        config, tensors, inputs, _ = recorded(case, FOLDER)
        model = models.load(write(tmp_path / case, config | {"max_position_embeddings": 200}, tensors))
        (prompt, *_), written = prompts_of(inputs), []
        result = model.generate([prompt], max_new_tokens=150, stop_tokens=())[0].tokens
        tokens = np.concatenate([prompt, result])[None]
        written = model(tokens)[0, len(prompt) - 1 : -1].argmax(axis=1)
        np.testing.assert_array_equal(result, written)


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_matters(case, tmp_path):
    """Each tensor that is read, moved a little, moves the result by far more than the tolerance."""
    config, tensors, inputs, outputs = recorded(case, FOLDER)
    plain = models.load(write(tmp_path, config, tensors))
    prefix = GENERATIVE_FAMILIES[config["model_type"]].prefix
    taken = plain._stored().keys()
    assert taken == {name.removeprefix(prefix) for name in tensors}
    for name, tensor in tensors.items():
        if name.endswith("k_proj.bias"):
            continue  # it adds the same to all scores of a query: softmax does not see it
        ramp = np.linspace(0.05, 0.3, tensor.size, dtype=np.float32).reshape(tensor.shape)
        moved = models.load(write(tmp_path, config, {**tensors, name: tensor + ramp}))
        assert largest_difference(moved, inputs, outputs) > 20 * TOLERANCE, name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_saved_and_loaded(case, dtype, tmp_path):
    config, *_ = recorded(case, FOLDER)
    model, inputs, _ = loaded(case, tmp_path, dtype=dtype)
    model.save_pretrained(tmp_path / "saved")
    again = models.load(tmp_path / "saved", dtype=dtype)
    expected = model(inputs["prompts"], encoded(model, inputs))
    np.testing.assert_array_equal(again(inputs["prompts"], encoded(again, inputs)), expected)
    assert again.weight_dtypes == model.weight_dtypes
    assert (again.options, again.start_token) == (model.options, model.start_token)
    assert (tmp_path / "saved" / "generation_config.json").exists() == ("generation" in config)
    exact = models.load(tmp_path)
    logits = exact(inputs["prompts"], encoded(exact, inputs))
    error = np.linalg.norm(expected - logits) / np.linalg.norm(logits)
    assert error <= {"float32": 0, "bfloat16": 0.03, "int8": 0.05}[dtype]
    assert (expected.argmax(axis=-1) == logits.argmax(axis=-1)).mean() >= 0.9


def test_int8_is_saved_as_such(tmp_path):
    """Of GPT-2's transposed weights as well; a file that has no head of its own gets none."""
    for case, weight in (("gpt2", "h.0.attn.c_attn.weight"), ("llama-tied", "layers.1.mlp.down_proj.weight")):
        model, *_ = loaded(case, tmp_path / case, dtype={"*": "int8"})
        stored = model._stored()
        assert isinstance(stored[weight], Quantized) and "lm_head.weight" not in stored
        assert isinstance(model._held()["head.weight"], Quantized)


def test_a_head_that_was_tied_is_saved_once_it_is_not(tmp_path):
    model, *_ = loaded("whisper", tmp_path)
    state = model.state_dict()
    state["head.weight"] = state["head.weight"] + 1
    model.load_state_dict(state)
    model.save_pretrained(tmp_path / "saved")
    again = models.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.state_dict()["head.weight"], state["head.weight"])


def test_int8_tensors_of_a_file_anywhere(tmp_path):
    """What is stored as int8 is read as what it stands for where int8 is not wanted."""
    config, tensors, inputs, _ = recorded("bart", FOLDER)
    for name in ("model.shared.weight", "model.decoder.layers.0.fc1.weight"):
        elements, scales = to_int8(tensors[name])
        tensors |= {name: elements, name + "_scale": scales}
    for dtype in ("float32", "int8"):
        model = models.load(write(tmp_path, config, tensors), dtype=dtype)
        model.save_pretrained(tmp_path / dtype)
        again = models.load(tmp_path / dtype, dtype=dtype)
        memory = encoded(model, inputs)
        np.testing.assert_array_equal(again(inputs["prompts"], memory), model(inputs["prompts"], memory))


@pytest.mark.parametrize("case", ["bart", "t5-gated", "gpt2", "llama", "whisper"])
def test_other_spellings(case, tmp_path):
    """Without the model's prefix, and with what older files hold besides."""
    config, tensors, inputs, outputs = recorded(case, FOLDER)
    prefix = GENERATIVE_FAMILIES[config["model_type"]].prefix
    tensors = {name.removeprefix(prefix): x for name, x in tensors.items()}
    zeros = np.zeros((1, 1, 4, 4), np.float32)
    if case == "bart":
        tensors |= {f"{side}.embed_tokens.weight": tensors["shared.weight"] for side in ("encoder", "decoder")}
        tensors["lm_head.weight"] = tensors["shared.weight"]
    elif case == "gpt2":
        tensors |= {"h.0.attn.bias": zeros, "h.1.attn.masked_bias": zeros}
    elif case == "llama":
        tensors["layers.0.self_attn.rotary_emb.inv_freq"] = zeros
    elif case == "t5-gated":
        tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = zeros
    model = models.load(write(tmp_path, config, tensors))
    assert largest_difference(model, inputs, outputs) < TOLERANCE


def test_tensors_that_are_refused(tmp_path):
    for case, name, changed, message in (
        ("llama", "lm_head.weight", None, r"missing tensors: lm_head\.weight"),
        ("gpt2-inner", "lm_head.weight", None, r"missing tensors: lm_head\.weight"),
        ("bart", "model.decoder.layers.1.encoder_attn.k_proj.bias", None, r"missing tensors: .*encoder_attn\.k_proj"),
        ("mistral", "model.layers.0.self_attn.k_proj.weight", (16, 16), r"k_proj\.weight has shape \(16, 16\)"),
        ("gpt2", "transformer.h.0.mlp.c_fc.weight", (64, 16), r"c_fc\.weight has shape \(64, 16\); .* \(16, 64\)"),
        ("whisper", "model.encoder.conv1.weight", (16, 6, 4), r"conv1\.weight has shape \(16, 6, 4\)"),
        ("t5", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (9, 2), "has shape"),
        ("qwen2", "model.layers.0.self_attn.q_norm.weight", (4,), "tensors that a qwen2 model does not have"),
        ("llama", "model.layers.2.mlp.up_proj.weight", (4, 4), "tensors that a llama model does not have"),
    ):
        config, tensors, *_ = recorded(case, FOLDER)
        tensors.pop(name, None)
        if changed is not None:
            tensors[name] = np.zeros(changed, np.float32)
        with pytest.raises(ValueError, match=f"^load: .*{message}"):
            models.load(write(tmp_path, config, tensors))


def test_null_ties_t5_as_true_does(tmp_path):
    config, tensors, *_ = recorded("t5", FOLDER)
    config.pop("scale_decoder_outputs", None)
    scales = [
        models.load(write(tmp_path, config | {"tie_word_embeddings": value}, tensors)).config.spec.logits.scale
        for value in (None, True, False)
    ]
    assert scales[0] == scales[1] != scales[2]


def test_each_tensor_is_needed(tmp_path):
    for case in ("bart", "t5-gated", "gpt2", "llama-biases", "latex-ocr"):
        config, tensors, *_ = recorded(case, FOLDER)
        for name in tensors:
            rest = {other: x for other, x in tensors.items() if other != name}
            if name == "final_logits_bias" or (case, name) in (
                ("t5-gated", "lm_head.weight"),  # which transformers 5 ties, whatever tie_word_embeddings says
                ("t5-gated", "shared.weight"),
            ):
                models.load(write(tmp_path, config, rest))
                continue
            with pytest.raises(ValueError, match="^load: .*(missing tensors|config.json asks for more)"):
                models.load(write(tmp_path, config, rest))


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("bart", {"model_type": "opt"}, "model_type must be one of .*'gpt2'.*, not 'opt'"),
        ("bart", {"d_model": 10**12}, "d_model is 1000000000000, which is more than any model's"),
        ("bart", {"d_model": 2**30}, "config.json asks for more"),
        ("bart", {"vocab_size": 2**31 - 1}, "config.json asks for more"),
        ("bart", {"decoder_layers": 4096}, "config.json asks for more|missing tensors"),
        ("bart", {"encoder_layers": 4097}, "encoder_layers is 4097, which is more"),
        ("bart", {"encoder_layers": 4096}, "config.json asks for more"),
        ("bart", {"encoder_layers": 0}, "encoder_layers must be a positive integer, not 0"),
        ("bart", {"encoder_attention_heads": 3}, "hidden_size 16 must be a multiple of encoder_attention_heads 3"),
        ("bart", {"decoder_attention_heads": 5}, "hidden_size 16 must be a multiple of num_attention_heads 5"),
        ("bart", {"scale_embedding": "yes"}, "scale_embedding must be true or false, not 'yes'"),
        ("bart", {"tie_word_embeddings": "no"}, "tie_word_embeddings must be one of True, False, not 'no'"),
        ("bart", {"max_position_embeddings": 2**30}, "config.json asks for more"),
        ("bart", {"max_position_embeddings": 23}, "embed_positions.weight has shape"),
        ("bart", {"activation_function": "tanh"}, "activation_function must be one of"),
        ("marian", {"share_encoder_decoder_embeddings": False}, "missing tensors: decoder.embed_tokens.weight, enc"),
        ("marian", {"share_encoder_decoder_embeddings": 0}, "share_encoder_decoder_embeddings must be true or false"),
        ("t5", {"feed_forward_proj": "gelu-relu"}, "feed_forward_proj must be .*, not 'gelu-relu'"),
        ("t5", {"feed_forward_proj": ["relu"]}, "is not a whole configuration"),
        ("t5", {"relative_attention_num_buckets": 3}, "relative_attention_num_buckets must be 4 or more"),
        ("t5", {"relative_attention_max_distance": 4}, "relative_attention_max_distance more than half of it"),
        (
            "t5",
            {"relative_attention_num_buckets": 2**30, "relative_attention_max_distance": 2**31 - 1},
            "config.json asks for more",
        ),
        ("t5", {"d_kv": 2**30}, "has shape"),
        ("t5", {"scale_decoder_outputs": 1}, "scale_decoder_outputs must be true or false, not 1"),
        ("whisper", {"max_source_positions": 2**30}, "has shape"),
        ("whisper", {"num_mel_bins": -1}, "num_mel_bins must be a positive integer, not -1"),
        ("gpt2", {"n_inner": 0}, "n_inner must be an integer from 1"),
        ("gpt2", {"n_head": 3}, "hidden_size 16 must be a multiple of num_attention_heads 3"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx must be one of False"),
        ("gpt2", {"n_positions": 2**31 - 1}, "config.json asks for more"),
        ("llama", {"num_key_value_heads": 3}, "num_attention_heads 4 must be a multiple of num_key_value_heads 3"),
        ("llama", {"rope_theta": 0}, "rope_theta, .*, must be a positive number, not 0"),
        ("llama", {"rope_scaling": {"type": "longrope"}}, "rope_type must be one of 'default', .*, not 'longrope'"),
        ("llama", {"rope_scaling": {"type": "linear"}}, r"missing \['factor'\]"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": -1}}, "factor must be positive"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": [2.0]}}, "is not a whole configuration of llama"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0, "x": 1}}, r"unknown \['x'\]"),
        ("llama", {"rope_parameters": {"rope_type": ["yarn"]}}, "rope_type must be one of 'default'"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor must be 1, not 0.5"),
        ("llama", {"rope_scaling": 3}, "is not a whole configuration of llama"),
        ("llama", {"head_dim": 5}, "rotary positions need heads of an even width, not 5"),
        ("llama", {"rms_norm_eps": -1}, "rms_norm_eps must be a number in"),
        ("mistral", {"sliding_window": 0}, "sliding_window must be an integer from 1"),
        ("mistral", {"sliding_window": 2.5}, "sliding_window must be an integer from 1"),
        ("qwen2-windows", {"layer_types": ["sliding_attention"]}, "layer_types must be 3 of"),
        ("qwen2-windows", {"max_window_layers": None}, "max_window_layers must be an integer"),
        ("latex-ocr", {"image_size": [8]}, "image_size must be a positive integer"),
        ("latex-ocr", {"image_size": [8, 10]}, r"image_size \(8, 10\) must be a multiple of patch_size \(4, 4\)"),
        ("latex-ocr", {"image_size": 2**20, "patch_size": 2**20}, "has shape"),
        ("latex-ocr", {"norm_first": False}, "norm_first must be one of True"),
    ],
)
def test_configurations_that_are_refused(case, changes, message, tmp_path):
    config, tensors, *_ = recorded(case, FOLDER)
    with pytest.raises(ValueError, match=f"^load: .*({message})"):
        models.load(write(tmp_path, config | changes, tensors))


def test_more_positions_than_memory_are_no_harm(tmp_path):
    """Those that are computed are, as they are needed."""
    for case in ("marian", "llama"):
        config, tensors, inputs, outputs = recorded(case, FOLDER)
        model = models.load(write(tmp_path / case, config | {"max_position_embeddings": 2**31 - 1}, tensors))
        assert largest_difference(model, inputs, outputs) < TOLERANCE


def test_windows_are_those_of_the_family(tmp_path):
    def windows(case, **changes):
        config, tensors, *_ = recorded(case, FOLDER)
        values = {key: value for key, value in (config | changes).items() if value != "absent"}
        layers = models.load(write(tmp_path, values, tensors)).config.spec.decoder.layers
        near = tuple(None if layer.window is None else layer.window[0] for layer in layers)
        return () if set(near) == {None} else near

    assert windows("mistral") == (3, 3)
    assert windows("mistral", sliding_window=None) == ()
    assert windows("mistral", sliding_window="absent") == (4095, 4095)
    assert windows("llama", sliding_window=4) == ()
    assert windows("qwen2", sliding_window=4, use_sliding_window="absent") == ()
    assert windows("qwen2-windows") == (None, 3, 3)
    assert windows("qwen2-windows", sliding_window=None) == ()
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    assert windows("qwen2-windows", layer_types=kinds) == (3, None, None)


def test_options_are_those_of_the_directory(tmp_path):
    config, tensors, inputs, _ = recorded("bart", FOLDER)
    model = models.load(write(tmp_path / "a", config, tensors))
    assert model.options == GenerationOptions.from_dict(config)
    assert (model.options.num_beams, model.options.forced_eos_token_id, model.start_token) == (4, 2, 2)
    told = {"generation": {"num_beams": 2, "max_new_tokens": 3, "decoder_start_token_id": 7}}
    model = models.load(write(tmp_path / "b", config | told, tensors))
    assert (model.options.num_beams, model.options.forced_eos_token_id, model.start_token) == (2, None, 7)
    memory = encoded(model, inputs)
    assert [len(x.tokens) for x in model.generate(memory=memory)] == [3, 3, 3]
    model.options = dataclasses.replace(model.options, max_new_tokens=2)
    assert [len(x.tokens) for x in model.generate(memory=memory)] == [2, 2, 2]
    assert [len(x.tokens) for x in model.generate(memory=memory, max_new_tokens=4)] == [4, 4, 4]
    given = GenerationOptions(max_length=5)
    assert [len(x.tokens) for x in model.generate(memory=memory, options=given)] == [4, 4, 4]
    start = {key: value for key, value in config.items() if key != "decoder_start_token_id"}
    assert models.load(write(tmp_path / "c", start, tensors)).start_token == config["bos_token_id"]


def test_how_long_texts_get(tmp_path):
    """20 tokens where nothing is said; never more than the model has positions for."""
    config, tensors, inputs, _ = recorded("llama-dynamic", FOLDER)
    quiet = config | {"generation": {}}
    model = models.load(write(tmp_path, quiet | {"max_position_embeddings": 64}, tensors))
    prompts = prompts_of(inputs)
    assert [len(x.tokens) for x in model.generate(prompts)] == [20, 20, 20]
    assert [len(x.tokens) for x in model.generate(prompts, max_length=1000)] == [64 - len(x) for x in prompts]
    with pytest.raises(ValueError, match="a prompt of 10 tokens and max_new_tokens=55 more .*positions for 64"):
        model.generate(prompts, max_new_tokens=55)
    with pytest.raises(ValueError, match="a prompt of 50 tokens and max_new_tokens=20 more are too many"):
        model.generate([np.zeros(50, int)])
    config, tensors, inputs, _ = recorded("llama", FOLDER)
    endless = models.load(write(tmp_path / "endless", config | {"generation": {}}, tensors))
    assert [len(x.tokens) for x in endless.generate(prompts)] == [20, 20, 20]
    assert [len(x.tokens) for x in endless.generate(prompts, max_length=50)] == [50 - len(x) for x in prompts]


@pytest.mark.parametrize("case", ["bart", "whisper", "mistral"])
def test_streams_what_generate_gives(case, tmp_path):
    model, inputs, _ = loaded(case, tmp_path)
    memory = encoded(model, inputs)
    prompts = prompts_of(inputs) if memory is None else None
    options = {"memory": memory, "num_beams": 1, "max_new_tokens": NEW_TOKENS}
    streamed = [[] for _ in inputs["prompts"]]
    for row, token in model.stream(prompts, **options):
        streamed[row].append(token)
    assert streamed == [x.tokens.tolist() for x in model.generate(prompts, **options)]


def test_draws_and_prefixes_pass_through(tmp_path):
    model, inputs, _ = loaded("gpt2", tmp_path)
    prompts = prompts_of(inputs)
    first, *_ = model.generate(prompts, do_sample=True, num_return_sequences=3, seed=0, max_new_tokens=5)
    assert len(first.alternatives) == 2
    alone = model.generate(prompts[:1], do_sample=True, num_return_sequences=3, seed=0, max_new_tokens=5)[0]
    np.testing.assert_array_equal(alone.tokens, first.tokens)
    results = model.generate(prompts, prefixes=[5, 6], max_new_tokens=4, num_beams=2)
    assert all(x.tokens[:2].tolist() == [5, 6] for x in results)
    only = model.generate(prompts, adjust=lambda rows, logits: np.eye(40, dtype=np.float32)[[9] * len(rows)])
    assert all(set(x.tokens.tolist()) == {9} for x in only)


def test_nothing_gives_nothing(tmp_path):
    for case in ("bart", "whisper", "latex-ocr", "llama"):
        model, inputs, _ = loaded(case, tmp_path / case)
        memory = encoded(model, inputs, slice(0, 0))
        assert model(np.zeros((0, 3), int), memory).shape == (0, 3, 40)
        assert model.generate([], memory=memory) == [] == list(model.stream([], memory=memory))
        whole = encoded(model, inputs)
        assert model(inputs["prompts"][:, :0], whole).shape == (len(inputs["prompts"]), 0, 40)


@pytest.mark.parametrize(
    ("case", "call", "error", "message"),
    [
        ("bart", lambda m, x: m(x), ValueError, "bart has an encoder: memory, what encode returns, is needed"),
        ("bart", lambda m, x: m(x, x), TypeError, "memory must be what encode returned, not ndarray"),
        ("bart", lambda m, x: m(x[:2], m.encode(x)), ValueError, "memory has 3 samples, but there are 2 sequences"),
        ("bart", lambda m, x: m(x + 40, m.encode(x)), ValueError, r"token_ids must be in \[0, 40\), not in"),
        ("bart", lambda m, x: m(x[0], m.encode(x)), ValueError, r"token_ids has shape \(10,\); \(B, L\)"),
        ("bart", lambda m, x: m(x * 1.0, m.encode(x)), TypeError, "token_ids"),
        ("bart", lambda m, x: m(np.tile(x, 3), m.encode(x)), ValueError, "30 tokens; the model has positions for 24"),
        ("bart", lambda m, x: m.encode(np.tile(x, 3)), ValueError, "30 tokens; the model has positions for 24"),
        ("bart", lambda m, x: m.encode(x, [1, 2]), ValueError, "lengths must be integers of 0 to 10, 3 of them"),
        ("bart", lambda m, x: m.encode(x, [1, 2, 11]), ValueError, "lengths must be integers of 0 to 10, 3 of them"),
        ("bart", lambda m, x: m.encode(-x), ValueError, r"inputs must be in \[0, 40\)"),
        ("bart", lambda m, x: m.encode(x[0]), ValueError, r"inputs have shape \(10,\); \(B, S\) is needed"),
        ("bart", lambda m, x: m.generate(), ValueError, "prompts are needed by a model without|memory"),
        ("bart", lambda m, x: m.generate(x), ValueError, "bart has an encoder: memory"),
        ("bart", lambda m, x: m.start(capacity=3), ValueError, "bart has an encoder: memory"),
        (
            "bart",
            lambda m, x: m.generate(x[:1], memory=m.encode(x)),
            ValueError,
            "3 samples, but there are 1 sequences",
        ),
        ("llama", lambda m, x: m.encode(x), ValueError, "llama has no encoder"),
        ("llama", lambda m, x: m.generate(), ValueError, "prompts are needed"),
        ("llama", lambda m, x: m.generate("hello"), TypeError, "prompts must be a list of arrays of token ids"),
        ("llama", lambda m, x: m.generate(3), TypeError, "prompts must be a list of arrays of token ids"),
        ("llama", lambda m, x: m.generate([[]]), ValueError, r"prompts\[0\] is empty"),
        ("llama", lambda m, x: m.generate([[40]]), ValueError, r"tokens must be in \[0, 40\)"),
        ("llama", lambda m, x: m.generate(x, beams=4), TypeError, "there is no option 'beams'"),
        ("llama", lambda m, x: m.generate(x, {"num_beams": 4}), TypeError, "options must be GenerationOptions or None"),
        ("llama", lambda m, x: m.generate(x, stop_tokens=40), ValueError, "name token 40; the vocabulary has 40"),
        ("llama", lambda m, x: m.stream(x, num_beams=4), ValueError, "one result for each prompt, without beams"),
        ("gpt2", lambda m, x: m(np.tile(x, 4)), ValueError, "40 tokens; the model has positions for 32"),
        ("llama", lambda m, x: m(x, object()), TypeError, "memory must be what encode returned, not object"),
        ("llama", lambda m, x: m.start(capacity=0), ValueError, "capacity must be a positive integer, not 0"),
        ("whisper", lambda m, x: m.encode(x), TypeError, "inputs have dtype int64; float32 is needed"),
        ("whisper", lambda m, x: m.encode(np.zeros((1, 18, 7), np.float32)), ValueError, r"\(B, 18, 6\) is needed"),
        ("whisper", lambda m, x: m.encode(np.zeros((1, 19, 6), np.float32)), ValueError, r"\(B, 18, 6\) is needed"),
        ("whisper", lambda m, x: m.encode(np.zeros((1, 18, 6), np.float32), [3]), ValueError, "lengths are for tokens"),
        (
            "latex-ocr",
            lambda m, x: m.encode(np.zeros((1, 8, 12), np.float32)),
            ValueError,
            r"\(B, 1, 8, 12\) is needed",
        ),
    ],
)
def test_calls_that_are_refused(case, call, error, message, tmp_path):
    model, inputs, _ = loaded(case, tmp_path)
    with pytest.raises(error, match=message):
        call(model, inputs["prompts"])


@pytest.mark.parametrize("case", ["mistral", "gpt2"])
def test_steps_that_are_refused_change_nothing(case, tmp_path):
    model, inputs, _ = loaded(case, tmp_path)
    tokens = inputs["prompts"]
    continuation = begun(model, None, 3, 30)
    continuation.step(tokens)
    for wrong, lengths, error, message in (
        (tokens[:2], None, ValueError, r"tokens has shape \(2, 10\); \(3, L\), L 1 or more, is needed"),
        (tokens[:, :0], None, ValueError, r"tokens has shape \(3, 0\)"),
        (tokens[0], None, ValueError, r"tokens has shape \(10,\)"),
        (tokens / 2, None, TypeError, "tokens"),
        (tokens + 40, None, ValueError, r"must be in \[0, 40\)"),
        (tokens, [1, 2], ValueError, "lengths"),
        (tokens, [0, 1, 2], ValueError, "lengths"),
        (tokens, [1, 2, 11], ValueError, "lengths"),
        (np.tile(tokens, 3), None, ValueError, "would have 40 tokens; the model has positions for 32"),
    ):
        if case == "mistral" and "positions" in message:  # which it has for ever, and its caches roll
            continue
        with pytest.raises(error, match=message):
            continuation.step(wrong, lengths)
        np.testing.assert_array_equal(continuation.lengths, 10)
    again = begun(model, None, 3, 30)
    again.step(tokens)
    np.testing.assert_array_equal(continuation.step(tokens), again.step(tokens))
