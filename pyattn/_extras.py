"""Packages that pyattn does without until something needs them: those of the optional group "models"."""

import importlib
from typing import Any


def import_extra(name: str, purpose: str) -> Any:
    """The module `name` of the optional group "models"; ImportError with the remedy where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(f'{purpose} needs the package {name}: pip install "pyattn[models]"') from error
