"""Prompts that put a query and a document into one text, as the chat templates of rerankers do.

A chat template is a program, in Jinja's language. None is run here: those of rerankers are text with three places to
fill, each written in one of a few ways, which are read, and any other is refused.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyattn.models.files import read_json
from pyattn.models.tokenizer_classes import Settings

_ROLES = ("query", "document", "system")
_FILE = "chat_template.jinja"
_TAG = re.compile(r"\{([{%#])(-?)(.*?)(-?)([}%#])\}", re.DOTALL)
_OPENS, _ENDS = re.compile(r"\{[{%#]"), {"{": "}", "%": "%", "#": "#"}
_SET = re.compile(r"set\s+([A-Za-z_]\w*)\s*=\s*(.*)", re.DOTALL)
_STRING = r"\"[^\"\\]*\"|'[^'\\]*'"
_SELECT = r"""messages\s*\|\s*selectattr\(\s*['"]role['"]\s*,\s*['"](?:eq|==|equalto)['"]\s*,\s*['"](\w+)['"]\s*\)"""
# The content of the first message of a role, and what stands there without one
_EXPRESSIONS = (
    re.compile(
        rf"""{_SELECT}\s*\|\s*map\(\s*attribute\s*=\s*['"]content['"]\s*\)\s*\|\s*first"""
        rf"""(?:\s*\|\s*default\(\s*({_STRING})\s*\))?""",
    ),
    re.compile(rf"\(\s*{_SELECT}\s*\|\s*first\s*\)\s*\.\s*content()"),
)


class PairPrompt:
    """A template with a place for a query, one for a document, and perhaps one for an instruction.

    Args:
        template: in Jinja's language, as `chat_template` of sentence-transformers' rerankers: text, with
            `{{ messages | selectattr("role", "eq", ROLE) | map(attribute="content") | first }}` where ROLE is "query",
            "document" or "system", or with names that `{% set name = ... %}` gives to these. `default("...")` after
            that of "system" is the instruction that stands there unless a call gives one.
        source: where the template comes from, for messages.

    Raises:
        ValueError: there is something else in it, or no place for a query or a document, or two for one of these.
    """

    def __init__(self, template: str, source: str = "chat_template") -> None:
        self._source, self._names = source, dict[str, tuple[str, str]]()
        self.default = ""  # the instruction
        self._parts: list[str] = []  # of text
        self._roles: list[str] = []  # of the places between them
        text = ""
        for piece in self._pieces(template):
            if isinstance(piece, str):
                text += piece
                continue
            role, default = piece
            if role in self._roles:
                raise ValueError(f"load: {source}: the template has two places for the {role}; one is supported")
            self._parts.append(text)
            self._roles.append(role)
            self.default, text = (default if role == "system" else self.default), ""
        self._parts.append(text)
        for role in _ROLES[:2]:
            if role not in self._roles:
                raise ValueError(
                    f"load: {source}: the template has no place for the {role}: it is none of a reranker; "
                    "Reranker.from_pretrained(..., chat_template=...) takes another"
                )

    def fill(self, query: str, document: str, instruction: str = "") -> str:
        """The text. An empty instruction is that of the template."""
        texts = {"query": query, "document": document, "system": instruction or self.default}
        filled = "".join(part + texts[role] for part, role in zip(self._parts, self._roles, strict=False))
        return filled + self._parts[-1]

    @property
    def takes_instruction(self) -> bool:
        return "system" in self._roles

    def _pieces(self, template: str) -> Iterator[str | tuple[str, str]]:
        """Text, and the places between: a role and what stands there by default.

        White space goes as transformers has Jinja treat it (trim_blocks, lstrip_blocks): the newline after a block, and
        a block's indentation, are no text; "-" in a tag takes all white space on that side.
        """
        template = re.sub(r"\r\n?", "\n", template).removesuffix("\n")
        place, begins_line = 0, True
        for tag in _TAG.finditer(template):
            kind, before, inner, after, end = tag.groups()
            if end != _ENDS[kind]:
                raise self._refused(tag.group())
            text = template[place : tag.start()]
            lines, newline, indentation = text.rpartition("\n")
            if before:
                text = text.rstrip()
            elif kind != "{" and (newline or begins_line) and not indentation.strip():
                text = lines + newline
            yield text
            place = tag.end()
            if after:
                place = len(template) - len(template[place:].lstrip())
            elif kind != "{" and template.startswith("\n", place):
                place += 1
            begins_line = place > tag.end() and template[place - 1] == "\n"
            inner = inner.strip()
            if kind == "%":
                self._set(tag.group(), inner)
            elif kind == "{":
                yield self._names[inner] if inner in self._names else self._expression(tag.group(), inner)
        rest = template[place:]
        if _OPENS.search(rest):
            raise self._refused(rest)
        yield rest

    def _set(self, tag: str, inner: str) -> None:
        if (found := _SET.fullmatch(inner)) is None or found[1] == "messages":
            raise self._refused(tag)
        self._names[found[1]] = self._expression(tag, found[2].strip())

    def _expression(self, tag: str, inner: str) -> tuple[str, str]:
        # of the second, Jinja makes an error where there is no such message
        for pattern, roles in zip(_EXPRESSIONS, (_ROLES, _ROLES[:2]), strict=True):
            if (found := pattern.fullmatch(inner)) is not None and found[1] in roles:
                return found[1], (found[2] or "")[1:-1]
        raise self._refused(tag)

    def _refused(self, tag: str) -> ValueError:
        return ValueError(
            f"load: {self._source}: {tag[:200]!r} is not supported in the template of a reranker, which is not run; "
            "places for the content of the messages of the roles query, document and system are. "
            "Reranker.from_pretrained(..., chat_template=...) takes another"
        )


def read_prompt(folder: Path, given: str | None) -> PairPrompt:
    """The template that a directory has, or the one that is given in its place."""
    if given is not None:
        if not isinstance(given, str):
            raise TypeError(f"Reranker: chat_template must be a str or None, not {type(given).__name__}")
        return PairPrompt(given, "Reranker: chat_template")
    beside, file = Settings(folder), folder / _FILE
    if (folder / "additional_chat_templates").exists():
        raise ValueError(f"load: {folder / 'additional_chat_templates'}: several chat templates are not supported")
    if file.exists():
        try:
            return PairPrompt(file.read_text(encoding="utf-8"), str(file))
        except UnicodeDecodeError as error:
            raise ValueError(f"load: {file} is not UTF-8 ({error})") from error
    old = folder / "chat_template.json"  # of processors
    source, template = f"{beside.file}: chat_template", beside.values.get("chat_template")
    if old.exists():
        source, template = f"{old}: chat_template", read_json(old, dict).get("chat_template")
    template = _default(source, template)
    if template is None:
        raise ValueError(
            f"load: {folder} has no chat template, which says how a query and a document become a text; "
            "Reranker.from_pretrained(..., chat_template=...) takes one"
        )
    return PairPrompt(template, source)


def _default(source: str, template: Any) -> str | None:
    """That of several templates that is called "default"."""
    if isinstance(template, list):
        named = {x.get("name"): x.get("template") for x in template if isinstance(x, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise ValueError(f"load: {source} must be a string, not {type(template).__name__}")
    return template
