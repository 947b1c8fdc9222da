"""Models that transformers does not have: their code lies beside weights on the hub. For recorders, not for tests.

They are written in plain torch from what that code computes:

- `New`: Alibaba-NLP/new-impl, modeling.py and configuration.py (GTE; Zhang et al. 2024, arXiv:2407.19669). Where its
  keys say nothing else it computes what transformers' own Gte does from the same tensors: record_families.py asserts
  it.
- `JinaBert`: jinaai/jina-bert-implementation, modeling_bert.py and configuration_bert.py (Jina Embeddings 2; Günther et
  al. 2023, arXiv:2310.19923): BERT whose logits have -m |i - j| in place of positions, and whose feed-forward blocks
  may be gated.

Training, caches and what only changes speed are left out. Classes have the names of transformers', its ways of reading
and writing files, and the tensors' published names.
"""

import math
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.functional import gelu, relu
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import modeling_outputs as outputs
from transformers.activations import ACT2FN


class NewConfig(PreTrainedConfig):
    model_type = "new"
    vocab_size: Any = 30528
    hidden_size: Any = 768
    num_hidden_layers: Any = 12
    num_attention_heads: Any = 12
    intermediate_size: Any = 3072
    hidden_act: Any = "gelu"
    hidden_dropout_prob: Any = 0.1
    attention_probs_dropout_prob: Any = 0.0
    max_position_embeddings: Any = 2048
    type_vocab_size: Any = 1
    initializer_range: Any = 0.02
    layer_norm_type: Any = "layer_norm"
    layer_norm_eps: Any = 1e-12
    position_embedding_type: Any = "rope"
    rope_theta: Any = 10000.0
    rope_scaling: Any = None
    classifier_dropout: Any = None
    pack_qkv: Any = True
    unpad_inputs: Any = False
    use_memory_efficient_attention: Any = False
    logn_attention_scale: Any = False
    logn_attention_clip1: Any = False
    pad_token_id: Any = 0
    tie_word_embeddings: Any = True


class JinaBertConfig(PreTrainedConfig):
    model_type = "bert"
    vocab_size: Any = 30522
    hidden_size: Any = 768
    num_hidden_layers: Any = 12
    num_attention_heads: Any = 12
    intermediate_size: Any = 3072
    hidden_act: Any = "gelu"
    hidden_dropout_prob: Any = 0.1
    attention_probs_dropout_prob: Any = 0.1
    max_position_embeddings: Any = 512
    type_vocab_size: Any = 2
    initializer_range: Any = 0.02
    layer_norm_eps: Any = 1e-12
    pad_token_id: Any = 0
    position_embedding_type: Any = "absolute"
    use_cache: Any = True
    classifier_dropout: Any = None
    feed_forward_type: Any = "original"
    emb_pooler: Any = None
    tie_word_embeddings: Any = True


def hidden(mask):
    """What is added to logits, (B, 1, 1, L), where mask is 0."""
    return 0.0 if mask is None else (1.0 - mask[:, None, None].float()) * torch.finfo(torch.float32).min


def attend(query, key, value, heads, bias):
    """Softmax attention of one batch of (B, L, E)."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias
    return (logits.softmax(-1) @ value).transpose(1, 2).flatten(-2)


def rotated(x, heads, angles):
    """(B, L, E), features i and i + width / 2 of a head turned by angles (L, width / 2)."""
    first, second = x.unflatten(-1, (heads, -1)).chunk(2, -1)
    cosines, sines = (f(angles)[None, :, None].to(x.dtype) for f in (torch.cos, torch.sin))
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], -1).flatten(-2)


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


class NewEmbeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        if config.position_embedding_type not in ("absolute", "rope"):
            raise ValueError(config.position_embedding_type)
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.position_embeddings = self.token_type_embeddings = None
        if config.position_embedding_type == "absolute":
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        if config.type_vocab_size > 0:
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, ids, types):
        x = self.word_embeddings(ids)
        if self.token_type_embeddings is not None:
            x = x + self.token_type_embeddings(torch.zeros_like(ids) if types is None else types)
        if self.position_embeddings is not None:
            x = x + self.position_embeddings(torch.arange(ids.shape[1]))
        return self.LayerNorm(x)


class NewLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, self.heads, self.config = config.hidden_size, config.num_attention_heads, config
        self.attention, self.mlp = nn.Module(), nn.Module()
        if config.pack_qkv:
            self.attention.qkv_proj = nn.Linear(width, 3 * width)
        else:
            for name in "qkv":
                self.attention.add_module(f"{name}_proj", nn.Linear(width, width))
        self.attention.o_proj = nn.Linear(width, width)
        self.mlp.up_gate_proj = nn.Linear(width, 2 * config.intermediate_size, bias=False)
        self.mlp.down_proj = nn.Linear(config.intermediate_size, width)
        norm = {"layer_norm": nn.LayerNorm, "rms_norm": RMSNorm}[config.layer_norm_type]
        self.attn_ln, self.mlp_ln = (norm(width, config.layer_norm_eps) for _ in range(2))
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, x, angles, scale, bias):
        attention = self.attention
        if self.config.pack_qkv:
            query, key, value = attention.qkv_proj(x).chunk(3, -1)
        else:
            query, key, value = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
        if angles is not None:
            query, key = (rotated(part, self.heads, angles) for part in (query, key))
        x = self.attn_ln(x + attention.o_proj(attend(query * scale, key, value, self.heads, bias)))
        up, gate = self.mlp.up_gate_proj(x).chunk(2, -1)
        return self.mlp_ln(x + self.mlp.down_proj(self.activation(gate) * up))


class Pooler(nn.Module):
    """tanh of a linear map of the first token."""

    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x):
        return torch.tanh(self.dense(x[:, 0]))


class _Pretrained(PreTrainedModel):
    def _init_weights(self, module):
        pass


class NewPreTrainedModel(_Pretrained):
    config_class = NewConfig
    base_model_prefix = "new"


class NewModel(NewPreTrainedModel):
    def __init__(self, config, add_pooling_layer=False):
        super().__init__(config)
        self.embeddings, self.encoder = NewEmbeddings(config), nn.Module()
        self.encoder.layer = nn.ModuleList(NewLayer(config) for _ in range(config.num_hidden_layers))
        self.pooler = Pooler(config) if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings.word_embeddings

    def frequencies(self):
        """Angles from one position to the next, with fixed or mixed NTK scaling (https://kexue.fm/archives/9706)."""
        config = self.config
        width = config.hidden_size // config.num_attention_heads
        exponents = torch.arange(0, width, 2) / width
        if config.rope_scaling is None:
            return config.rope_theta**-exponents
        if config.rope_scaling["type"] != "ntk":
            raise ValueError(config.rope_scaling["type"])
        factor, mixed = config.rope_scaling["factor"], config.rope_scaling.get("mixed_b")
        if mixed is None:
            return (config.rope_theta * factor) ** -exponents / factor ** (2 / width)
        a = math.log(factor) / (width / 2) ** mixed
        return config.rope_theta**-exponents / torch.exp(a * torch.arange(1, width // 2 + 1) ** mixed)

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, **ignored):
        config, length = self.config, input_ids.shape[1]
        x, angles, scale = self.embeddings(input_ids, token_type_ids), None, 1.0
        if config.position_embedding_type == "rope":
            angles = torch.arange(length)[:, None] * self.frequencies()
        if config.logn_attention_scale:
            scale = math.log(length) / math.log(config.max_position_embeddings)
            scale = max(scale, 1.0) if config.logn_attention_clip1 else scale
        for layer in self.encoder.layer:
            x = layer(x, angles, scale, hidden(attention_mask))
        return outputs.BaseModelOutputWithPooling(x, None if self.pooler is None else self.pooler(x))


class _Head(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.decoder, self.activation = nn.Linear(width, config.vocab_size), ACT2FN[config.hidden_act]

    def forward(self, x):
        return self.decoder(self.norm(self.activation(self.dense(x))))


class NewForMaskedLM(NewPreTrainedModel):
    _tied_weights_keys: ClassVar = {"lm_head.decoder.weight": "new.embeddings.word_embeddings.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.new, self.lm_head = NewModel(config), _Head(config)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head.decoder

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, **ignored):
        return outputs.MaskedLMOutput(
            logits=self.lm_head(self.new(input_ids, attention_mask, token_type_ids).last_hidden_state)
        )


class NewForSequenceClassification(NewPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.new = NewModel(config, add_pooling_layer=True)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, **ignored):
        return outputs.SequenceClassifierOutput(
            logits=self.classifier(self.new(input_ids, attention_mask, token_type_ids).pooler_output)
        )


class NewForTokenClassification(NewPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.new, self.classifier = NewModel(config), nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, **ignored):
        return outputs.TokenClassifierOutput(
            logits=self.classifier(self.new(input_ids, attention_mask, token_type_ids).last_hidden_state)
        )


class NewForQuestionAnswering(NewPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.new, self.qa_outputs = NewModel(config), nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, **ignored):
        start, end = self.qa_outputs(self.new(input_ids, attention_mask, token_type_ids).last_hidden_state).unbind(-1)
        return outputs.QuestionAnsweringModelOutput(start_logits=start, end_logits=end)


class JinaBertEmbeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        if config.position_embedding_type != "alibi":
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.kind = config.position_embedding_type

    def forward(self, ids, types):
        x = self.word_embeddings(ids) + self.token_type_embeddings(torch.zeros_like(ids) if types is None else types)
        if self.kind == "absolute":
            x = x + self.position_embeddings(torch.arange(ids.shape[1]))
        return self.LayerNorm(x)


class _Dense(nn.Module):
    """A linear map, and the norm of its sum with what the block was given."""

    def __init__(self, inputs, width, config):
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(inputs, width), nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, x, given):
        return self.LayerNorm(self.dense(x) + given)


class JinaBertLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, inner, self.heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
        self.attention, self.attention.self = nn.Module(), nn.Module()
        for name in ("query", "key", "value"):
            self.attention.self.add_module(name, nn.Linear(width, width))
        self.attention.output = _Dense(width, width, config)
        self.inner, self.kind = inner, config.feed_forward_type
        if self.kind.endswith("glu"):
            self.activation = {"reglu": relu, "geglu": gelu}[self.kind]
            self.mlp = nn.Module()
            self.mlp.gated_layers = nn.Linear(width, 2 * inner, bias=False)
            self.mlp.wo, self.mlp.layernorm = nn.Linear(inner, width), nn.LayerNorm(width, eps=config.layer_norm_eps)
        else:
            self.activation = ACT2FN[config.hidden_act]
            self.intermediate, self.output = nn.Module(), _Dense(inner, width, config)
            self.intermediate.dense = nn.Linear(width, inner)

    def forward(self, x, bias):
        parts = self.attention.self
        context = attend(parts.query(x), parts.key(x), parts.value(x), self.heads, bias)
        x = self.attention.output(context, x)
        if not self.kind.endswith("glu"):
            return self.output(self.activation(self.intermediate.dense(x)), x)
        gated = self.mlp.gated_layers(x)
        inner = self.activation(gated[..., : self.inner]) * gated[..., self.inner :]
        return self.mlp.layernorm(self.mlp.wo(inner) + x)


def slopes(heads):
    """ALiBi's, by the recursion of its authors' code."""
    nearest = 2 ** math.floor(math.log2(heads))
    first = [2 ** (-8 * (i + 1) / nearest) for i in range(nearest)]
    return first if nearest == heads else first + slopes(2 * nearest)[0::2][: heads - nearest]


class JinaBertPreTrainedModel(_Pretrained):
    config_class = JinaBertConfig
    base_model_prefix = "bert"


class JinaBertModel(JinaBertPreTrainedModel):
    def __init__(self, config, add_pooling_layer=True):
        super().__init__(config)
        if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
            raise NotImplementedError("decoders")
        self.embeddings, self.encoder = JinaBertEmbeddings(config), nn.Module()
        self.encoder.layer = nn.ModuleList(JinaBertLayer(config) for _ in range(config.num_hidden_layers))
        self.pooler = Pooler(config) if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings.word_embeddings

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, **ignored):
        places = torch.arange(input_ids.shape[1])
        distance = (places[:, None] - places).abs()
        bias = -torch.tensor(slopes(self.config.num_attention_heads))[:, None, None] * distance
        x = self.embeddings(input_ids, token_type_ids)
        for layer in self.encoder.layer:
            x = layer(x, bias.to(x.dtype) + hidden(attention_mask))
        return outputs.BaseModelOutputWithPooling(x, None if self.pooler is None else self.pooler(x))


class _Predictions(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.transform, self.decoder = nn.Module(), nn.Linear(width, config.vocab_size)
        self.bias = self.decoder.bias
        self.transform.dense = nn.Linear(width, width)
        self.transform.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, x):
        return self.decoder(self.transform.LayerNorm(self.activation(self.transform.dense(x))))


class JinaBertForMaskedLM(JinaBertPreTrainedModel):
    _tied_weights_keys: ClassVar = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config):
        super().__init__(config)
        self.bert, self.cls = JinaBertModel(config, add_pooling_layer=False), nn.Module()
        self.cls.predictions = _Predictions(config)
        self.post_init()

    def get_output_embeddings(self):
        return self.cls.predictions.decoder

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, **ignored):
        return outputs.MaskedLMOutput(
            logits=self.cls.predictions(self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state)
        )


class JinaBertForSequenceClassification(JinaBertPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.bert, self.classifier = JinaBertModel(config), nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, **ignored):
        return outputs.SequenceClassifierOutput(
            logits=self.classifier(self.bert(input_ids, attention_mask, token_type_ids).pooler_output)
        )
