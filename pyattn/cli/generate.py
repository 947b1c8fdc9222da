"""`pyattn generate`: what follows a prompt."""

from argparse import Namespace

from pyattn.cli.shared import GENERATIVE_MODEL, Parser, add_writing, safe, standard_input, writing_options
from pyattn.tasks.text_generator import TextGenerator

HELP = "write what follows a prompt, as it is chosen"
EPILOG = f"""\
{GENERATIVE_MODEL}Families: GPT-2, Llama, Mistral, Qwen2, Qwen3, Gemma 3, which go on where the prompt
ends; BART and T5, which read it first. Without a prompt, standard input is one.

examples:
  pyattn generate "Once upon a time" --model HuggingFaceTB/SmolLM2-135M
  pyattn generate "Once upon a time" --model ./model --sample --temperature 0.8 --seed 1
  pyattn generate --model ./model --dtype int8 --tokens 500 < prompt.txt
"""


def add_arguments(command: Parser) -> None:
    command.add_argument("prompt", metavar="PROMPT", nargs="?", help="the text to continue")
    command.add_argument(
        "--sample", action="store_true", help="draw at random, as do the next three (default: the most probable)"
    )
    command.add_argument("--temperature", metavar="T", type=float, help="above 1 more adventurous, below 1 less")
    command.add_argument(
        "--top-p", metavar="P", type=float, help="draw from the most probable tokens, which make up the share P"
    )
    command.add_argument("--seed", metavar="N", type=int, help="draw the same every time")
    add_writing(command)


def run(arguments: Namespace) -> None:
    prompt = standard_input() if arguments.prompt is None else arguments.prompt
    dtypes = {"dtype": arguments.dtype, "cache_dtype": arguments.cache_dtype}
    generator = TextGenerator.from_pretrained(arguments.model, **dtypes)
    options = writing_options(arguments)
    if arguments.sample or options.keys() & {"temperature", "top_p", "seed"}:
        options |= {"do_sample": True, "num_beams": 1}
    if options.get("num_beams", 1) > 1:
        print(safe(generator([prompt], **options)[0]))
        return
    for piece in generator.stream(prompt, **options):
        print(safe(piece), end="", flush=True)
    print()
