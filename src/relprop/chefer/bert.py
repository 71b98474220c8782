"""BERT for the classification of sequences, with the names of Hugging Face."""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from relprop import _compat
from relprop._entries import (
    MOST_CLASSES,
    MOST_FEATURES,
    MOST_LAYERS,
    MOST_TOKENS,
    number,
    one_of,
    whole,
)
from relprop._errors import InputError
from relprop.chefer import weights
from relprop.chefer.functional import clone, clone3, first, gelu, layer_norm, linear
from relprop.places import named

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}
# Buffers, and heads of other tasks that a checkpoint may hold as well.
_IGNORED = ("*.position_ids", "*.embeddings.token_type_ids", "cls.*")
_CHECKS = {
    "vocab_size": whole(1, MOST_TOKENS),
    "hidden_size": whole(1, MOST_FEATURES),
    "num_hidden_layers": whole(1, MOST_LAYERS),
    "num_attention_heads": whole(1, MOST_FEATURES),
    "intermediate_size": whole(1, MOST_FEATURES),
    "max_position_embeddings": whole(1, MOST_TOKENS),
    "num_labels": whole(1, MOST_CLASSES),
    "hidden_act": one_of(*_ACTIVATIONS),
    "layer_norm_eps": number(0, 1),
    "type_vocab_size": whole(1, MOST_FEATURES),
    "mask_value": number(float("-inf"), 0),
}


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT, by the names of Hugging Face.

    Args:
        vocab_size: number of tokens known.
        hidden_size: length of the embeddings.
        num_hidden_layers: number of layers.
        num_attention_heads: attention heads per layer.
        intermediate_size: hidden size of the MLPs.
        max_position_embeddings: longest sequence.
        num_labels: classes.
        hidden_act: activation of the MLPs: gelu, gelu_new or relu.
        layer_norm_eps: of all layer normalisations.
        type_vocab_size: kinds of segments.
        mask_value: what is added to the scores of hidden tokens. The reference has -10000; later
            releases of transformers the least number there is.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    num_labels: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    type_vocab_size: int = 2
    mask_value: float = -10000.0

    def __post_init__(self):
        weights.check_sizes("BERT", self, _CHECKS)
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size={self.hidden_size} is not divisible by "
                f"num_attention_heads={self.num_attention_heads}."
            )

    @classmethod
    def of(cls, config: BertConfig | Mapping[str, Any]) -> BertConfig:
        """A configuration from a dict as in ``config.json``; what is of no use here is ignored."""
        if isinstance(config, BertConfig):
            return config
        kind = config.get("position_embedding_type", "absolute")
        if kind != "absolute" or config.get("model_type", "bert") != "bert":
            raise InputError(
                "This is BERT with absolute positions; the configuration has model_type="
                f"{config.get('model_type', 'bert')!r}, position_embedding_type={kind!r}."
            )
        known = {field.name for field in dataclasses.fields(cls)}
        given = {name: value for name, value in config.items() if name in known}
        if isinstance(config.get("id2label"), Mapping):
            given.setdefault("num_labels", len(config["id2label"]))
        return cls(**given)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors by their names."""
        d, hidden = self.hidden_size, self.intermediate_size
        found: dict[str, tuple[int, ...]] = {
            "bert.embeddings.word_embeddings.weight": (self.vocab_size, d),
            "bert.embeddings.position_embeddings.weight": (self.max_position_embeddings, d),
            "bert.embeddings.token_type_embeddings.weight": (self.type_vocab_size, d),
        }
        norms = ["bert.embeddings.LayerNorm"]
        layers = {"bert.pooler.dense": (d, d), "classifier": (self.num_labels, d)}
        for i in range(self.num_hidden_layers):
            layer = f"bert.encoder.layer.{i}"
            norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
            layers |= {f"{layer}.attention.self.{n}": (d, d) for n in ("query", "key", "value")}
            layers |= {
                f"{layer}.attention.output.dense": (d, d),
                f"{layer}.intermediate.dense": (hidden, d),
                f"{layer}.output.dense": (d, hidden),
            }
        for name, shape in layers.items():
            found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        for name in norms:
            found |= {f"{name}.weight": (d,), f"{name}.bias": (d,)}
        return found


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config"])
@dataclasses.dataclass(frozen=True, eq=False)
class Bert:
    """A BERT: ``model(input_ids, attention_mask)`` gives the logits of token ids (n, t).

    Args:
        params: the weights by their names in Hugging Face's ``BertForSequenceClassification``.
        config: its sizes.

    >>> import jax, jax.numpy as jnp
    >>> config = {"vocab_size": 9, "hidden_size": 6, "num_hidden_layers": 1}
    >>> config |= {"num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 5}
    >>> model = Bert.init(config, jax.random.key(0))
    >>> model(jnp.array([[1, 2, 3]])).shape
    (1, 2)

    Source: Devlin et al. 2019; ``BERT_explainability/modules/BERT`` of the reference.
    """

    params: dict[str, Array]
    config: BertConfig

    #: Attention rollout normalises the rows of maps with the unit matrix added.
    normalises_rollout: ClassVar[bool] = True
    #: Methods that look at one layer give a row per sample in the reference as well.
    flattens_layers: ClassVar[bool] = False

    @classmethod
    def from_state_dict(
        cls, state_dict: Mapping[str, Any], config: BertConfig | Mapping[str, Any]
    ) -> Bert:
        """A model from arrays or tensors by their names in Hugging Face.

        Args:
            state_dict: the tensors.
            config: the sizes, as `BertConfig` or a dict as in ``config.json``.

        Raises:
            InputError: with every tensor that is missing, not expected, or of the wrong shape.
        """
        config = BertConfig.of(config)
        return cls(weights.checked("Bert", state_dict, config.shapes(), _IGNORED), config)

    @classmethod
    def load(
        cls, path: str | pathlib.Path, config: BertConfig | Mapping[str, Any] | None = None
    ) -> Bert:
        """A model from a file or folder, see `relprop.chefer.weights.read`.

        Args:
            path: of the weights.
            config: the sizes; without them ``config.json`` beside the weights is read.
        """
        config = weights.configuration(path) if config is None else config
        return cls.from_state_dict(weights.read(path), config)

    @classmethod
    def init(cls, config: BertConfig | Mapping[str, Any], key: PRNGKeyArray) -> Bert:
        """A model with random weights, as one to be trained would begin."""
        config = BertConfig.of(config)
        return cls(weights.random(config.shapes(), key), config)

    def __call__(
        self,
        input_ids: Int[Array, "n t"],
        attention_mask: Int[Array, "n t"] | None = None,
        token_type_ids: Int[Array, "n t"] | None = None,
    ) -> Float[Array, "n classes"]:
        inputs = self.arguments(input_ids, attention_mask, token_type_ids)
        return self.forward(*self.primals(*inputs), self)[0]

    @property
    def depth(self) -> int:
        return self.config.num_hidden_layers

    @property
    def classes(self) -> int:
        return self.config.num_labels

    @property
    def start_layer(self) -> int:
        """The layer that attribution begins with where none is named: the last of BERT base."""
        return min(11, self.depth - 1)

    @property
    def maps(self) -> tuple[str, ...]:
        """The places of the attention maps, layer by layer."""
        return tuple(f"layer.{i}.attention.map" for i in range(self.depth))

    def for_baselines(self) -> Bert:
        """The model as the reference has it for its baselines: the same."""
        return self

    def arguments(
        self,
        input_ids: Int[Array, "n t"],
        attention_mask: Int[Array, "n t"] | None = None,
        token_type_ids: Int[Array, "n t"] | None = None,
    ) -> tuple[Array, Array, Array]:
        """The inputs, checked and with what was left out."""
        shape, config = jnp.shape(input_ids), self.config
        if len(shape) != 2 or not jnp.issubdtype(jnp.result_type(input_ids), jnp.integer):
            raise InputError(
                "Token ids must be an array of integers (n, t), got "
                f"{jnp.result_type(input_ids)}{list(shape)}."
            )
        if shape[1] > config.max_position_embeddings:
            raise InputError(
                f"The text has {shape[1]} tokens, the model {config.max_position_embeddings} "
                "positions: cut it."
            )
        mask = jnp.ones(shape, jnp.int32) if attention_mask is None else attention_mask
        kinds = jnp.zeros(shape, jnp.int32) if token_type_ids is None else token_type_ids
        for name, array in {"attention_mask": mask, "token_type_ids": kinds}.items():
            if jnp.shape(array) != shape:
                raise InputError(
                    f"{name} must have the shape of the token ids, {shape}, got {jnp.shape(array)}."
                )
        _check_range("Token ids", input_ids, config.vocab_size)
        _check_range("Token types", kinds, config.type_vocab_size)
        known = _known(mask)
        if known is not None and not known.any(axis=1).all():
            hidden = np.flatnonzero(~known.any(axis=1)).tolist()
            raise InputError(
                f"The mask hides every token of sample(s) {hidden}: attention_mask is 1 at tokens "
                "and 0 at padding."
            )
        return jnp.asarray(input_ids), jnp.asarray(mask), jnp.asarray(kinds)

    def primals(
        self,
        input_ids: Int[Array, "n t"],
        attention_mask: Int[Array, "n t"],
        token_type_ids: Int[Array, "n t"],
    ) -> tuple[Array, Array]:
        """What is explained: embeddings, and what the mask adds to the scores."""
        p, config = self.params, self.config
        at = "bert.embeddings"
        words = p[f"{at}.word_embeddings.weight"][input_ids]
        kinds = p[f"{at}.token_type_embeddings.weight"][token_type_ids]
        positions = p[f"{at}.position_embeddings.weight"][None, : input_ids.shape[1]]
        x = _norm(words + positions + kinds, p, f"{at}.LayerNorm", config)
        hidden = (1 - jnp.asarray(attention_mask, x.dtype)) * config.mask_value
        return x, hidden[:, None, None, :]

    @staticmethod
    def forward(
        embeddings: Float[Array, "n t d"], mask: Float[Array, "n 1 1 t"], model: Bert
    ) -> tuple[Float[Array, "n classes"], list[Float[Array, "n heads t t"]]]:
        """Logits and attention maps; what relevance is asked for at has a name."""
        p, config = model.params, model.config
        x, maps = embeddings, []
        for i in range(config.num_hidden_layers):
            x, attention = _layer(x, mask, p, i, config)
            maps.append(attention)
        x = jnp.tanh(_linear(first(named(x, "pooler")), p, "bert.pooler.dense"))
        return _linear(named(x, "classifier"), p, "classifier"), maps

    @staticmethod
    def row(matrix: Float[Array, "n t t"], method: str) -> Float[Array, "n t"]:
        """The row of the class token: what it takes from each token.

        Its own entry, which would outshine the others, is set to the least of the row
        (``"transformer_attribution"``) or to 0 (all other methods), as the authors do.
        """
        row = matrix[:, 0]
        if method == "transformer_attribution":
            return row.at[:, 0].set(jnp.min(row, axis=1))
        return row.at[:, 0].set(0)

    @staticmethod
    def whole(relevance: tuple[Array, ...]) -> Float[Array, "n t"]:
        """Relevance of the embeddings, but for that of the class token."""
        return jnp.sum(relevance[0], axis=-1).at[:, 0].set(0)

    @staticmethod
    def gradcam(attention: Array, gradient: Array) -> Float[Array, "n t t"]:
        """Attention times the mean of its gradient, not yet normalised."""
        cam = attention * jnp.mean(gradient, axis=(2, 3), keepdims=True)
        return jnp.maximum(jnp.mean(cam, axis=1), 0)

    def shown(self, cam: Float[Array, "n t t"]) -> Float[Array, "n t"]:
        """Of a normalised GradCAM, what the class token has of each token."""
        return self.row(cam, "gradcam")


def _layer(
    x: Float[Array, "n t d"],
    mask: Float[Array, "n 1 1 t"],
    p: Mapping[str, Array],
    number: int,
    config: BertConfig,
) -> tuple[Float[Array, "n t d"], Float[Array, "n heads t t"]]:
    """A layer: attention and an MLP, each added to what goes past it and then normalised."""
    at, place = f"bert.encoder.layer.{number}", f"layer.{number}"
    x, past = clone(named(x, place))
    x, attention = _attention(x, named(mask, f"{place}.mask"), p, number, config)
    x = _linear(named(x, f"{place}.context"), p, f"{at}.attention.output.dense") + past
    x = _norm(x, p, f"{at}.attention.output.LayerNorm", config)
    x, past = clone(named(x, f"{place}.attention.out"))
    x = _linear(named(x, f"{place}.intermediate"), p, f"{at}.intermediate.dense")
    x = named(_ACTIVATIONS[config.hidden_act](x), f"{place}.output.0")
    x = _linear(x, p, f"{at}.output.dense") + named(past, f"{place}.output.1")
    return _norm(x, p, f"{at}.output.LayerNorm", config), attention


def _attention(
    x: Float[Array, "n t d"],
    mask: Float[Array, "n 1 1 t"],
    p: Mapping[str, Array],
    number: int,
    config: BertConfig,
) -> tuple[Float[Array, "n t d"], Float[Array, "n heads t t"]]:
    at, place = f"bert.encoder.layer.{number}.attention.self", f"layer.{number}.attention"
    n, t, d = x.shape
    size = d // config.num_attention_heads

    def heads(x: Array, name: str) -> Array:
        return _linear(x, p, f"{at}.{name}").reshape(n, t, -1, size).transpose(0, 2, 1, 3)

    names = ("query", "key", "value")
    query, key, value = map(heads, clone3(named(x, f"{place}.self")), names)
    query, key = named(query, f"{place}.query"), named(key, f"{place}.key")
    scores = jnp.matmul(query, key.transpose(0, 1, 3, 2)) / math.sqrt(size)
    scores = named(scores, f"{place}.scores") + mask
    attention = named(jax.nn.softmax(scores, axis=-1), f"{place}.map")
    out = jnp.matmul(attention, value)
    return out.transpose(0, 2, 1, 3).reshape(n, t, d), attention


def _linear(x: Array, p: Mapping[str, Array], at: str) -> Array:
    return linear(x, p[f"{at}.weight"], p[f"{at}.bias"])


def _norm(x: Array, p: Mapping[str, Array], at: str, config: BertConfig) -> Array:
    return layer_norm(x, p[f"{at}.weight"], p[f"{at}.bias"], config.layer_norm_eps)


def _known(array: Any) -> np.ndarray | None:
    """Its numbers, if they are known already."""
    return None if _compat.is_traced(array) else np.asarray(array)


def _check_range(what: str, array: Any, count: int) -> None:
    known = _known(array)
    if known is not None and known.size and not (0 <= known.min() and known.max() < count):
        raise InputError(
            f"{what} must be from 0 to {count - 1}, and are from {known.min()} to {known.max()}."
        )
