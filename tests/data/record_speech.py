"""Records what transformers' Whisper says under each key of generation_config.json, for tests/tasks/test_speech.py.

Run with torch and transformers installed: python -m tests.data.record_speech
"""

import json
import tempfile
from pathlib import Path

from tests.support.tiny_whisper import END, IDS, SETTINGS, sound, write_whisper

FILE = Path(__file__).parent / "audio" / "whisper.json"


ABSENT = "absent"
_DE, _TRANSLATE, _NO_STAMPS = IDS["<|de|>"], IDS["<|translate|>"], IDS["<|notimestamps|>"]

# Changes of SETTINGS, and of what a call says
CASES = [
    ({}, {}),
    ({}, {"timestamps": False}),
    ({}, {"language": "en"}),
    ({}, {"language": "German", "task": "translate"}),
    ({}, {"num_beams": 3}),
    *(({"max_initial_timestamp_index": value}, {}) for value in (0, 1, 20, None, ABSENT)),
    *(({"is_multilingual": value}, {}) for value in (None, False, ABSENT)),
    ({"is_multilingual": ABSENT}, {"language": "en"}),
    *(({"language": value}, {}) for value in ("en", "english", "<|en|>", "English", None)),
    ({"language": "en"}, {"language": "de"}),
    ({"language": "en"}, {"task": "translate"}),
    ({"task": "translate"}, {}),
    ({"task": "translate"}, {"language": "en"}),
    ({"task": "translate"}, {"task": "transcribe"}),
    ({"language": "en", "task": "translate"}, {}),
    ({"forced_decoder_ids": [[1, IDS["<|en|>"]], [2, _TRANSLATE], [3, _NO_STAMPS]]}, {}),
    ({"forced_decoder_ids": [[1, IDS["<|en|>"]], [2, _TRANSLATE], [3, _NO_STAMPS]]}, {"timestamps": False}),
    ({"forced_decoder_ids": [[1, IDS["<|en|>"]], [2, _TRANSLATE]]}, {"task": "transcribe"}),
    ({"forced_decoder_ids": [[1, IDS["<|en|>"]], [2, _TRANSLATE]]}, {"language": "de"}),
    ({"forced_decoder_ids": [[1, IDS["<|en|>"]], [2, _TRANSLATE]], "task": "transcribe"}, {}),
    ({"forced_decoder_ids": [[1, None], [2, _TRANSLATE]]}, {}),
    ({"forced_decoder_ids": [[2, _TRANSLATE]], "task": "transcribe"}, {}),
    *(({"suppress_tokens": value}, {}) for value in ([IDS["w15"], IDS["w30"]], [], None, ABSENT)),
    *(({"begin_suppress_tokens": value}, {"timestamps": False}) for value in ([_NO_STAMPS + 184], [], None, ABSENT)),
    *(({"max_length": value}, {}) for value in (1, 10, 40)),
    ({"max_new_tokens": 5}, {}),
    ({"max_new_tokens": 5, "max_length": 9}, {"timestamps": False}),
    ({"eos_token_id": IDS["w15"]}, {}),
    ({"eos_token_id": IDS["w15"]}, {"timestamps": False}),
    ({"eos_token_id": [END, _NO_STAMPS + 755]}, {"timestamps": False}),
    ({"decoder_start_token_id": IDS["<|startofprev|>"]}, {}),
    ({"no_timestamps_token_id": IDS["<|nospeech|>"]}, {"timestamps": False}),
    ({"no_timestamps_token_id": _NO_STAMPS + 20}, {}),
    ({"lang_to_id": {"<|en|>": IDS["<|en|>"]}}, {}),
    ({"lang_to_id": {"<|fr|>": IDS["w3"], "<|de|>": _DE}}, {"language": "french"}),
    ({"task_to_id": {"transcribe": _TRANSLATE, "translate": IDS["w4"]}, "task": "transcribe"}, {}),
    ({"repetition_penalty": 3.0}, {}),
    ({"no_repeat_ngram_size": 2}, {"timestamps": False}),
    ({"num_beams": 3}, {}),
    ({"num_beams": 3, "length_penalty": 0.2, "num_return_sequences": 2}, {}),
    ({"bad_words_ids": [[IDS["w15"]]]}, {}),
    ({"min_new_tokens": 20, "repetition_penalty": 3.0}, {}),
    ({"do_sample": True, "temperature": 2.0, "top_p": 0.5}, {}),
    ({"return_timestamps": True, "prev_sot_token_id": 3, "alignment_heads": [[0, 0]], "pad_token_id": 5}, {}),
    ({"condition_on_prev_tokens": True}, {}),
    ({"suppress_tokens": [-1]}, {}),
    ({"suppress_tokens": [9999, IDS["w15"]], "begin_suppress_tokens": [-1]}, {}),
    ({"compression_ratio_threshold": 1e6}, {}),
]


def settings(changes):
    return {key: value for key, value in {**SETTINGS, **changes}.items() if value != ABSENT}


def main():
    import torch
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, logging
    from transformers.generation import GenerationMixin

    logging.set_verbosity_error()
    extractor = WhisperFeatureExtractor(feature_size=8)
    features = extractor(sound(5), sampling_rate=16000, return_tensors="pt").input_features
    seen = []
    generate = GenerationMixin.generate

    def spy(self, *arguments, **options):
        out = generate(self, *arguments, **options)
        tokens = (out if isinstance(out, torch.Tensor) else out.sequences)[0].tolist()
        length = options["decoder_input_ids"].shape[1]
        seen.append({"prompt": tokens[:length], "tokens": tokens[length:]})
        return out

    GenerationMixin.generate = spy
    recorded = []
    with tempfile.TemporaryDirectory() as folder:
        for changes, call in CASES:
            directory = write_whisper(Path(folder) / "model", settings(changes))
            model = WhisperForConditionalGeneration.from_pretrained(directory).eval()
            seen.clear()
            options = {key: value for key, value in call.items() if key != "timestamps"}  # type: ignore[attr-defined]
            model.generate(features, return_timestamps=call.get("timestamps", True), **options)  # type: ignore[attr-defined]
            recorded.append(seen[0])
    FILE.write_text(json.dumps(recorded, separators=(",", ":")).replace("},", "},\n") + "\n")


if __name__ == "__main__":
    main()
