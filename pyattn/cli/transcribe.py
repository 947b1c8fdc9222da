"""`pyattn transcribe`: what is said in WAV files, as text, subtitles or JSON."""

import json
import sys
from argparse import Namespace
from dataclasses import asdict

from pyattn.cli.shared import Parser, add_beams, add_cache, add_model, printable, safe
from pyattn.tasks.audio import RATE, read_wave, resample
from pyattn.tasks.speech import SpeechRecognizer

HELP = "write down what is said in WAV files, or translate it to English"
EPILOG = """\
FILE is a WAV file of any rate and number of channels, of integers, floats, A-law
or mu-law; others become one with: ffmpeg -i talk.mp3 -c:a pcm_s16le talk.wav
MODEL is a Whisper: a directory that holds config.json, model.safetensors,
tokenizer.json and generation_config.json, or an id on the Hugging Face hub.
Those whose names end in .en know English only; larger ones make fewer mistakes.

examples:
  pyattn transcribe talk.wav
  pyattn transcribe interview.wav --language de --translate --srt > interview.srt
  pyattn transcribe *.wav --model openai/whisper-base --dtype int8 --json
"""


def add_arguments(command: Parser) -> None:
    command.add_argument("files", metavar="FILE", nargs="+", help="WAV files")
    command.add_argument(
        "--language", metavar="CODE", help="spoken language, as de (default: the model's, or found by listening)"
    )
    command.add_argument("--translate", action="store_true", help="write English text, whatever is spoken")
    add_beams(command)
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON, with the times of each segment")
    form.add_argument("--srt", action="store_true", help="print subtitles")
    add_model(command, default="openai/whisper-tiny", help="a Whisper (default: %(default)s)")
    add_cache(command)


def run(arguments: Namespace) -> None:
    # The sounds are read before the model, which may have to be fetched: an error in a file comes at once.
    sounds = [(resample(*read_wave(file)), RATE) for file in arguments.files]
    dtypes = {"dtype": arguments.dtype, "cache_dtype": arguments.cache_dtype}
    recognizer = SpeechRecognizer.from_pretrained(arguments.model, **dtypes)
    transcripts = recognizer.transcribe(
        sounds,
        language=arguments.language,
        task="translate" if arguments.translate else None,
        num_beams=arguments.num_beams,
        show_progress=sys.stderr.isatty(),
    )
    if arguments.json:
        results = [{"file": file} | asdict(x) for file, x in zip(arguments.files, transcripts, strict=True)]
        print(json.dumps(results, indent=2, ensure_ascii=False))
        return
    for file, transcript in zip(arguments.files, transcripts, strict=True):
        if len(transcripts) > 1:
            print(f"{printable(file)}:")
        print(safe(transcript.srt()) if arguments.srt else printable(transcript.text))
