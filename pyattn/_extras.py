"""Packages that pyattn does without until something needs them: those of its optional groups."""

import importlib
from typing import Any


def import_extra(name: str, purpose: str, group: str = "models") -> Any:
    """The module `name` of an optional group; ImportError with the remedy where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(f'{purpose} needs the package {name}: pip install "pyattn[{group}]"') from error
