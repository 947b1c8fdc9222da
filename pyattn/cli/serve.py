"""`pyattn serve`: embeddings and scores over HTTP."""

import argparse
import os
import re
import signal
from argparse import Namespace

from pyattn._extras import import_extra
from pyattn.cli.shared import Parser, add_model, positive

_KEY_VARIABLE = "PYATTN_API_KEY"
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

HELP = "answer over HTTP: embeddings as OpenAI's API gives them, and documents ranked"
EPILOG = f"""\
  POST /v1/embeddings  {{"input": "a text", "model": "any"}}     as OpenAI's API
  POST /rerank         {{"query": "...", "texts": ["...", ...]}}  as text-embeddings-inference,
                       or with "documents" and "top_n", as Cohere's API
  GET  /health  /info  /metrics  /v1/models

Vectors and scores have the same bits as those of SentenceEncoder.encode and of
Reranker.predict. Texts of requests that come at once are computed together.
Settings have the names of text-embeddings-inference. The key that requests must
send is better given as {_KEY_VARIABLE} in the environment than as an argument,
which other users of the machine can read. Ctrl-C or SIGTERM ends the server when
what it has taken is answered. All cores are used; PYATTN_NUM_THREADS sets how
many; OMP_WAIT_POLICY=passive leaves them to clients of the same machine while the
server waits. Several processes: gunicorn --preload, as docs/server.md says.

examples:
  pyattn serve --model BAAI/bge-small-en-v1.5 --port 8000
  pyattn serve --model ./embedder --reranker ./reranker --dtype int8
  curl localhost:8000/v1/embeddings -H "Content-Type: application/json" \\
    -d '{{"input": ["the cat sat", "on a mat"]}}'
"""


def add_arguments(command: Parser) -> None:
    add_model(command, help="directory of an embedder, or an id on the Hugging Face hub")
    command.add_argument("--reranker", metavar="MODEL", help="the same of a reranker")
    command.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all (default: %(default)s)"
    )
    command.add_argument("--port", type=_port, default=8000, help="0: any that is free (default: %(default)s)")
    command.add_argument(
        "--api-key", metavar="KEY", help=f"requests must send it as bearer (default: ${_KEY_VARIABLE})"
    )
    command.add_argument(
        "--served-model-name", metavar="NAME", help="what answers call the model (default: its folder)"
    )
    command.add_argument("--default-prompt-name", metavar="NAME", help="prompt of requests that name none")
    command.add_argument(
        "--auto-truncate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="cut texts beyond the model's length, or answer them by 400 (default: cut)",
    )
    counts = {
        "max_batch_tokens": (16384, "tokens that are computed together"),
        "max_concurrent_requests": (512, "requests that may wait; more are answered by 429"),
        "max_client_batch_size": (32, "texts of a request; more are answered by 413"),
    }
    for name, (default, told) in counts.items():
        command.add_argument(
            f"--{name.replace('_', '-')}",
            metavar="N",
            type=positive,
            default=default,
            help=f"{told} (default: {default})",
        )
    command.add_argument(
        "--payload-limit", metavar="BYTES", type=_bytes, default=2_000_000, help="of a body, as 2MB (default: 2MB)"
    )
    command.add_argument("--access-log", action="store_true", help="write a line for each request")


def run(arguments: Namespace) -> None:
    if arguments.model is None and arguments.reranker is None:
        raise ValueError("give --model, --reranker or both (see pyattn serve --help)")
    uvicorn = import_extra("uvicorn", "pyattn serve", "serve")
    from pyattn import server

    names = ("max_batch_tokens", "max_concurrent_requests", "max_client_batch_size", "payload_limit", "auto_truncate")
    settings = {name: getattr(arguments, name) for name in (*names, "default_prompt_name")}
    application = server.application(
        arguments.model,
        arguments.reranker,
        dtype=arguments.dtype,
        api_key=arguments.api_key or os.environ.get(_KEY_VARIABLE) or None,
        served_model_name=arguments.served_model_name,
        **settings,
    )
    # The server gives the signal that ended it to whoever would have had it; the end is as it should be, so status 0.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    uvicorn.run(
        application,
        host=arguments.host,
        port=arguments.port,
        access_log=arguments.access_log,
        ws="none",
        server_header=False,
        proxy_headers=False,  # nothing here asks for the client's address
        timeout_graceful_shutdown=60,
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 to 65535, not {text!r}")
    return int(text)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"([1-9]\d{0,11})\s*([KMG]?I?B?)", text.upper())
    if found is None or found[2] not in _UNITS:
        raise argparse.ArgumentTypeError(f"must be a number of bytes, as 2MB or 500000, not {text!r}")
    return int(found[1]) * _UNITS[found[2]]
