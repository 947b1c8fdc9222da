"""Hugging Face's transformers on pyattn's attention: `attn_implementation="pyattn"`."""

import functools
import inspect
import re
import sys
from typing import Any

import torch
from torch import Tensor

from pyattn._extras import import_extra
from pyattn.torch import scaled_dot_product_attention, varlen_attention  # it says that torch is missing

NAME, UNPADDED = "pyattn", "pyattn_flash"  # transformers hands padding itself to names that contain "flash"

# What models hand on that attention has no part in, or that its mask holds already
PASSED_OVER = {
    "cache_position",
    "cu_seq_lens_k",
    "cu_seq_lens_q",
    "deterministic",
    "logits_to_keep",
    "max_length_k",
    "max_length_q",
    "num_items_in_batch",
    "output_hidden_states",
    "output_router_logits",
    "position_embeddings",
    "position_ids",
    "return_dict",
    "use_cache",
    "use_top_left_mask",
}


def register() -> tuple[str, ...]:
    """Makes pyattn's attention known to transformers, and returns the names that models may be loaded with.

    "pyattn" serves attention with masks, position biases (T5), soft caps (Gemma 2), sinks (gpt-oss), windows and
    grouped heads as they come; "pyattn_flash", where this version of transformers lets it in, also computes without
    padding, as the models that know packed sequences do for FlashAttention. Both are for inference and for
    training, with dropout of attention weights. May be called repeatedly.

    Models that do not let their attention be chosen raise ValueError when they are made with these names: those for
    which "sdpa" does, or, for "pyattn_flash", FlashAttention.

    Raises:
        ImportError: transformers is missing, or older than 4.56.

    Example:
        >>> import pyattn.transformers
        >>> pyattn.transformers.register()
        ('pyattn', 'pyattn_flash')
        >>> from transformers import AutoModel
        >>> model = AutoModel.from_pretrained("bert-base-uncased", attn_implementation="pyattn")  # doctest: +SKIP
    """
    transformers = import_extra("transformers", "pyattn.transformers.register", group="torch")
    try:
        masks = import_extra("transformers.masking_utils", "pyattn.transformers.register", group="torch")
        interface, mask_interface = transformers.AttentionInterface, masks.AttentionMaskInterface
    except (ImportError, AttributeError):
        raise ImportError(
            f"pyattn.transformers.register: transformers {transformers.__version__} has no AttentionInterface with "
            'masks; remedy: pip install "transformers>=4.56"'
        ) from None
    _enter_choice(transformers.PreTrainedModel)
    interface.register(NAME, attention_forward)
    mask_interface.register(NAME, masks.sdpa_mask)
    if not _enter_flash():
        return (NAME,)
    interface.register(UNPADDED, unpadded_attention_forward)
    mask_interface.register(UNPADDED, masks.flash_attention_mask)
    return NAME, UNPADDED


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    output_attentions: bool = False,
    window: tuple[int, int] | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention as transformers calls it: query (B, H, L, D), key (B, Hkv, S, D), value (B, Hkv, S, Dv), a mask
    (B, 1, L, S) or None; returns out (B, L, H, Dv), and the weights (B, H, L, S) if somebody wants them."""
    _refuse(NAME, others)
    output_attentions = output_attentions or _are_recorded()
    if dropout and output_attentions:
        raise ValueError(f"{NAME}: weights are not computed beside dropout of {dropout}; model.eval() goes without")
    rows, keys = query.shape[-2], key.shape[-2]
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    options: dict[str, Any] = {
        "scale": scaling,
        "softcap": softcap,
        "sinks": s_aux,
        "window": window,
        "dropout_p": dropout,
    }
    if attention_mask is not None:
        attention_mask = attention_mask[..., :keys]  # of a cache, it may be longer
        if attention_mask.dtype is not torch.bool:
            attention_mask = attention_mask.to(query.dtype)
    elif is_causal and (rows > 1 or _left_out(rows, **others)):  # of an empty static cache, keys go on beyond the rows
        options |= {"is_causal": True, "query_offset": _left_out(rows, **others)}
    if attention_mask is None and is_causal and sliding_window is not None and sliding_window < keys:
        options["window"] = (sliding_window - 1, 0)
    if position_bias is not None:
        options["bias"] = position_bias[..., :keys].to(query.dtype)
    options["return_weights"] = output_attentions
    result = scaled_dot_product_attention(query, key, value, attention_mask, **options)
    out, weights = result if output_attentions else (result, None)
    return out.transpose(1, 2).contiguous(), weights


def _left_out(rows: int, position_ids: Tensor | None = None, **_: Any) -> int:
    """How many rows a model has left out in front of the last ones, whose logits alone are asked for (Gemma 4)."""
    return 0 if position_ids is None else max(0, position_ids.shape[-1] - rows)


def unpadded_attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    output_attentions: bool = False,
    **options: Any,
) -> tuple[Tensor, None]:
    """The same with the mask (B, S) of a padded batch or none: transformers' path for FlashAttention, which leaves out
    padding, and takes the packed sequences that cu_seq_lens or position_ids describe."""
    refused = {
        "position_bias": position_bias is not None,
        "output_attentions": output_attentions or _are_recorded(),
        "a mask of queries and keys": attention_mask is not None and attention_mask.ndim != 2,
    }
    for wrong, given in refused.items():
        if given:
            raise ValueError(f'{UNPADDED}: {wrong} is not served; attn_implementation="{NAME}" serves it')
    is_causal = module.is_causal if is_causal is None else is_causal
    if attention_mask is not None and not is_causal:
        # Of cross-attention the mask is the keys' alone, which that path takes for one of queries too.
        mask = attention_mask[:, None, None].bool()
        sliding_window = options.pop("sliding_window", None)
        window = None if sliding_window is None else (sliding_window - 1,) * 2
        return attention_forward(module, query, key, value, mask, scaling, dropout, window=window, **options)
    flash = import_extra("transformers.modeling_flash_attention_utils", UNPADDED, group="torch")
    rows_first = (x.transpose(1, 2) for x in (query, key, value))
    options |= {"query_length": query.shape[2], "is_causal": is_causal, "softmax_scale": scaling, "dropout": dropout}
    return flash._flash_attention_forward(*rows_first, attention_mask, attn_implementation=UNPADDED, **options), None


def _refuse(name: str, others: dict[str, Any]) -> None:
    unknown = sorted(key for key, x in others.items() if x is not None and key not in PASSED_OVER)
    if unknown:
        raise ValueError(
            f"{name}: {', '.join(unknown)} of this model is not known; attn_implementation='eager' may serve it"
        )


def _are_recorded() -> bool:
    """Whether transformers takes the weights from what a layer returns, which not every model tells its attention.

    That is private to transformers; where it is missing, models hand on output_attentions.
    """
    recording = sys.modules.get("transformers.utils.output_capturing")
    if recording is None:
        return False
    collector = recording._active_collector
    recorded = collector.global_var if torch.compiler.is_compiling() else collector.get()
    return recorded is not None and any(name.endswith("attentions") for name in recorded)


def _enter_choice(model: Any) -> None:
    """Refuses models that do not let their attention be chosen, where transformers refuses "sdpa" for them.

    They would go on with attention of their own, and with masks that were made for pyattn's.
    """
    original = model.get_correct_attn_implementation
    if getattr(original, "knows_pyattn", False):
        return

    @functools.wraps(original)
    def get_correct_attn_implementation(self: Any, requested: str | None, *others: Any, **options: Any) -> Any:
        if requested in (NAME, UNPADDED) and not _lets_choose(type(self), model, flash=requested == UNPADDED):
            raise ValueError(
                f"{requested}: the attention of {type(self).__name__} cannot be chosen by this name; remedies: "
                'attn_implementation="eager", or, where it is part of a model, a dictionary with a name for each part'
            )
        return original(self, requested, *others, **options)

    get_correct_attn_implementation.knows_pyattn = True  # type: ignore[attr-defined]
    model.get_correct_attn_implementation = get_correct_attn_implementation


def _lets_choose(kind: Any, model: Any, flash: bool) -> bool:
    """Whether a class of models says so, and holds to it, or says nothing and has no attention, only models within."""
    by_name = kind._supports_sdpa or kind._supports_attention_backend
    family = [base for base in kind.__mro__ if issubclass(base, model)][-2]
    try:
        source = inspect.getsource(sys.modules[family.__module__])
    except (KeyError, OSError, TypeError):
        source = "class Attention"  # it may be anything, as in a notebook
    if not (by_name or kind._supports_flash_attn):
        return re.search(r"^class \w*Attention", source, re.MULTILINE) is None
    if flash and not kind._supports_flash_attn:
        return False
    # Some have a class for each of the names that transformers has itself
    return bool(by_name) and (kind._supports_attention_backend or "ATTENTION_CLASSES[" not in source)


def _enter_flash() -> bool:
    """Answers transformers where it looks for FlashAttention by the name UNPADDED, if it has the place.

    That is private to transformers, and was found in versions 5.20 to 5.24.
    """
    try:
        from transformers import modeling_flash_attention_utils as utils

        pads = (utils._pad_input, utils._unpad_input)
        original = utils._lazy_imports
        of_cache = (None,) if hasattr(utils, "_flash_with_kvcache_fn") else ()  # which later versions also ask for
    except (ImportError, AttributeError):
        return False
    if not getattr(original, "knows_pyattn", False):

        def lazy_imports(implementation: str | None, *others: Any, **options: Any) -> Any:
            if implementation == UNPADDED:
                return _flash_function, _flash_varlen_function, *of_cache, *pads
            return original(implementation, *others, **options)

        lazy_imports.knows_pyattn = True  # type: ignore[attr-defined]
        utils._lazy_imports = lazy_imports
    return True


def _flash_function(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """flash_attn_func, as transformers calls it: query (B, L, H, D), key and value (B, S, Hkv, D)."""
    heads_first = (x.transpose(1, 2) for x in (query, key, value))
    return scaled_dot_product_attention(*heads_first, **_options(**options)).transpose(1, 2)


def _flash_varlen_function(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    s_aux: Tensor | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """flash_attn_varlen_func of packed sequences (total, H, D); its signature tells transformers what is served."""
    options = _options(softmax_scale, causal, window_size, softcap, s_aux, dropout_p)
    return varlen_attention(query, key, value, cu_seqlens_q, cu_seqlens_k, **options)


def _options(
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    s_aux: Tensor | None = None,
    dropout_p: float = 0.0,
) -> dict[str, Any]:
    """FlashAttention's options by pyattn's names; both see causal queries from the last key on."""
    left, right = (None if side < 0 else side for side in window_size)
    return {
        "scale": softmax_scale,
        "is_causal": causal,
        "window": (left, right),
        "softcap": softcap or None,
        "sinks": s_aux,
        "dropout_p": dropout_p,
    }
