"""`pyattn translate`: what a model with an encoder makes of texts."""

from argparse import Namespace
from pathlib import Path

from pyattn.cli.shared import GENERATIVE_MODEL, Parser, add_writing, printable, standard_input, writing_options
from pyattn.tasks.text_generator import TextGenerator

HELP = "translate texts, or do what else a model with an encoder was trained for, as summaries"
EPILOG = f"""\
{GENERATIVE_MODEL}Families: BART, mBART, T5 and Marian. Each TEXT becomes a line.
Without any, each line of --file or of standard input does.

examples:
  pyattn translate "Wo ist der Bahnhof?" --model ./marian-de-en
  pyattn translate --file letter.txt --model ./mbart --source de_DE --target en_XX > letter.en.txt
  pyattn translate "translate English to German: Good morning." --model google-t5/t5-small
"""


def add_arguments(command: Parser) -> None:
    command.add_argument("texts", metavar="TEXT", nargs="*", help="what to translate")
    command.add_argument("--file", metavar="FILE", help="translate the lines of a text file")
    command.add_argument("--source", metavar="LANGUAGE", help="what the texts are in, as de_DE, for models that ask")
    command.add_argument(
        "--target", metavar="LANGUAGE", help="what to translate to, as en_XX, or the token that translations begin with"
    )
    add_writing(command)


def run(arguments: Namespace) -> None:
    if arguments.texts and arguments.file:
        raise ValueError("give either texts or --file FILE")
    texts = arguments.texts
    if not texts:
        whole = Path(arguments.file).read_text(encoding="utf-8") if arguments.file else standard_input()
        texts = whole.splitlines()
    dtypes = {"dtype": arguments.dtype, "cache_dtype": arguments.cache_dtype}
    generator = TextGenerator.from_pretrained(arguments.model, **dtypes)
    if generator.model.encoder is None:
        raise ValueError(f"{arguments.model} has no encoder: `pyattn generate` continues texts with it")
    options = writing_options(arguments)
    languages = {"source": arguments.source, "target": arguments.target}
    if arguments.target is not None and not generator.languages:  # then any token may begin the translation
        token = generator.tokenizer.token_to_id(languages.pop("target"))
        if token is None:
            raise ValueError(f"{arguments.model} has no token {arguments.target!r} for --target")
        options["forced_bos_token_id"] = token
    written = iter(generator([text for text in texts if text.strip()], **languages, **options))
    for text in texts:
        print(printable(next(written)) if text.strip() else "")
