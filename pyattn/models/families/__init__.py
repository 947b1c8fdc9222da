"""The families of models, in modules that are found because they are here.

A module has one or more tables of its `Family`s by model_type: TEXT_FAMILIES and IMAGE_FAMILIES of encoders,
GENERATIVE_FAMILIES of models that write, STATE_FAMILIES of such as give the hidden states of texts, which decoders
alone do in any case. Names of tensors are Hugging Face's as they stand in published files. In the models a name on the
left is a parameter of TextEncoder, ImageEncoder or GenerativeModel; of an attention layer in_proj stands for q_proj,
k_proj and v_proj below one another, where files have these as one.
"""

import importlib
import pkgutil

from pyattn.models.family import Family, for_states

TEXT_FAMILIES: dict[str, Family] = {}
IMAGE_FAMILIES: dict[str, Family] = {}
GENERATIVE_FAMILIES: dict[str, Family] = {}
STATE_FAMILIES: dict[str, Family] = {}

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    _tables = vars(importlib.import_module(f"{__name__}.{_module}"))
    _decoders = {x: y for x, y in _tables.get("GENERATIVE_FAMILIES", {}).items() if "encoder_layers" not in y.keys}
    STATE_FAMILIES.update({name: for_states(family) for name, family in _decoders.items()})
    for _name in ("TEXT_FAMILIES", "IMAGE_FAMILIES", "GENERATIVE_FAMILIES", "STATE_FAMILIES"):
        globals()[_name].update(_tables.get(_name, {}))
