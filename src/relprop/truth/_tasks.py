"""The planted tasks by name, each with a small network that was trained on it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relprop._errors import InputError, unknown_name
from relprop.metrics import features
from relprop.tokens import LanguageModel
from relprop.truth import _models as models
from relprop.truth import _text
from relprop.truth._digits import clutter, grid
from relprop.truth._language import check_text_task, language_model
from relprop.truth._numbers import interactions, motifs
from relprop.truth._planted import Planted
from relprop.truth._tetrominoes import tetrominoes

WEIGHTS = Path(__file__).parent / "weights"
SCRIPT = "scripts/train_truth.py"
_DIGITS = Path(__file__).parent.parent / "zoo" / "weights" / "digits_cnn.safetensors"
Apply = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """A task before its weights are read.

    Attributes:
        kind: of network, see `Task`.
        what: the task in a few words.
        draw: from the parameters, a count and a seed to samples.
        apply: from the parameters and a batch of samples to scores ``[batch, classes]``.
        init: from a key to parameters before training; None where those of `weights` are another
            model's.
        weights: the file of the parameters; None where the model has none.
    """

    kind: str
    what: str
    draw: Callable[[Any, int, int], Planted]
    apply: Apply
    init: Callable[[Any], Any] | None
    weights: Path


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A trained model with samples whose evidence is known.

    Attributes:
        name: of the task.
        kind: of network: ``"cnn"``, ``"vit"``, ``"encoder"``, ``"decoder"``, ``"lstm"``,
            ``"state space"``, ``"mlp"`` or ``"compiled"`` (a program, not trained).
        what: the task in a few words.
        fn: from the parameters and a batch of samples to scores ``[batch, classes]``.
        params: nested dicts of arrays; those of texts are without the embeddings, since these are
            what is explained.
    """

    name: str
    kind: str
    what: str
    fn: Apply
    params: Any
    _draw: Callable[[int, int], Planted]

    def draw(self, count: int = 64, seed: int = 0) -> Planted:
        """Samples, whether the model is right about them or not."""
        return self._draw(count, seed)

    def data(self, count: int = 64, seed: int = 0) -> Planted:
        """Samples that the model is right about: of others it is not known what they are due to.

        Args:
            count: how many.
            seed: of all that is drawn.

        Raises:
            InputError: the model is right about fewer of four times as many.
        """
        drawn = self.draw(4 * count, seed)
        right = np.flatnonzero(self.right(drawn))[:count]
        if len(right) < count:
            raise InputError(
                f"The model of {self.name} is right about {len(right)} of {len(drawn)} samples "
                f"only, {count} were asked for: its weights are not those of this task."
            )
        return drawn.part(right)

    def right(self, data: Planted) -> Any:
        """For which samples the explained class is what the model predicts.

        In a grid every cell has a class: there it is that of the explained cell by itself.
        """
        fn, target = self.fn, data.target
        if self.name.endswith("grid"):
            fn, target = models.cells_of_digits, target % 10
        scores = np.asarray(jax.jit(fn)(self.params, jnp.asarray(data.x)))
        if self.name.endswith("grid"):
            cell = data.mask[:, ::8, ::8, 0].reshape(len(data), 4).argmax(axis=1)
            scores = scores.reshape(len(data), 4, 10)[np.arange(len(data)), cell]
        return scores.argmax(axis=1) == target


def embedded(task: str, params: Any, count: int, seed: int) -> Planted:
    """Texts of a task as embeddings ``[n, tokens, width]``; what is gone is the mask token."""
    drawn = _text.texts(task, count, seed)
    table = np.asarray(params["embedding"], np.float32)
    x = table[drawn.ids]
    mask = np.broadcast_to(drawn.evidence[..., None], x.shape)
    labels = features.tokens(x.shape[1:])
    words = np.array(drawn.vocabulary)[drawn.ids]
    known = _text.MASK in drawn.vocabulary  # a compiled program has no mask token: 0 is no token
    fill = table[drawn.vocabulary.index(_text.MASK)] if known else 0.0
    return Planted(x, drawn.target, mask, labels, fill, words)


def _of_text(task: str, what: str, causal: bool, layers: int = 2, before: int = 0) -> Recipe:
    length = _text.texts(task, 1).ids.shape[1]
    words, classes = len(_text.VOCABULARIES[task]), _text.CLASSES[task]
    return Recipe(
        "decoder" if causal else "encoder",
        what,
        functools.partial(embedded, task),
        functools.partial(models.transformer, heads=4, causal=causal),
        lambda key: models.init_transformer(key, words, length, 32, layers, classes, before),
        _file(task),
    )


def _of_shapes(kind: Any, size: int) -> Recipe:
    channels, first, stride = ((16, 32), 3, 1) if size == 8 else ((8, 16, 32), 4, 4)
    flat = 32 * 4 * 4
    return Recipe(
        "cnn",
        f"tetrominoes, {kind}, {size}x{size}, smooth noise",
        lambda params, count, seed: tetrominoes(kind, size=size, count=count, seed=seed),
        functools.partial(models.cnn, stride=stride, pools=1 if size == 8 else 2),
        lambda key: models.init_cnn(key, channels, first, flat, 2),
        _file(f"tetrominoes-{kind}-{size}"),
    )


def _drawn(draw: Callable[..., Planted], **options: Any) -> Callable[[Any, int, int], Planted]:
    return lambda params, count, seed: draw(count=count, seed=seed, **options)


def _file(name: str) -> Path:
    return WEIGHTS / f"{name.replace('-', '_')}.safetensors"


RECIPES: Mapping[str, Recipe] = {
    "clutter": Recipe(
        "cnn",
        "a digit among pieces of others",
        _drawn(clutter),
        functools.partial(models.cnn, stride=2, pools=1, whole=True),
        lambda key: models.init_cnn(key, (16, 32, 48), 4, 48, 10),
        _file("clutter"),
    ),
    "grid": Recipe(
        "cnn", "four digits, one explained", _drawn(grid), models.grid_of_digits, None, _DIGITS
    ),
    "disconnected-grid": Recipe(
        "cnn",
        "four digits with a head for each",
        _drawn(grid, disconnected=True),
        models.cells_of_digits,
        None,
        _DIGITS,
    ),
    **{
        f"tetrominoes-{kind}-8": _of_shapes(kind, 8)
        for kind in ("linear", "multiplicative", "rigid", "xor")
    },
    **{
        f"tetrominoes-{kind}-64": _of_shapes(kind, 64)
        for kind in ("linear", "multiplicative", "rigid", "xor")
    },
    "tetrominoes-rigid-vit": Recipe(
        "vit",
        "tetrominoes, rigid, 8x8, smooth noise",
        _drawn(tetrominoes, kind="rigid"),
        functools.partial(models.vit, patch=2, heads=4),
        lambda key: models.init_vit(key, 8, 2, 32, 2, 2),
        _file("tetrominoes-rigid-vit"),
    ),
    "key-value": _of_text("key-value", "the value of a key", True),
    "multi-hop": _of_text("multi-hop", "the place of who has a thing", True, 3, before=2),
    "negation": _of_text("negation", "praise or blame, negated or not", False),
    "evidence-spans": _of_text("evidence-spans", "opinions in reviews", False),
    "compiled-induction": Recipe(
        "compiled",
        "what came after the same letter, a program that Tracr compiled",
        functools.partial(embedded, "compiled-induction"),
        models.compiled,
        lambda key: models.init_compiled(9, 9, 35, 10, 8),
        _file("compiled-induction"),
    ),
    "interactions": Recipe(
        "mlp",
        "a switch and a product of two numbers",
        _drawn(interactions),
        models.mlp,
        lambda key: models.init_mlp(key, (12, 64, 64, 2)),
        _file("interactions"),
    ),
    "motif-lstm": Recipe(
        "lstm",
        "a motif in noise",
        _drawn(motifs),
        models.lstm,
        lambda key: models.init_lstm(key, 1, 24, 3),
        _file("motif-lstm"),
    ),
    "motif-state-space": Recipe(
        "state space",
        "a motif in noise",
        _drawn(motifs),
        models.state_space,
        lambda key: models.init_state_space(key, 1, 24, 8, 3),
        _file("motif-state-space"),
    ),
}


def names() -> list[str]:
    """The names of the tasks.

    >>> names()[:3]
    ['clutter', 'grid', 'disconnected-grid']
    """
    return list(RECIPES)


def load(name: str) -> Task:
    """A task with its trained model.

    Args:
        name: one of `names()`; underscores may stand for the hyphens.

    Returns:
        The task: its `fn` and `params` are a model for `relprop.evaluate`, its `data` the samples.

    Raises:
        UnknownNameError: no such task; names the near matches.
        InputError: the weights file does not fit.
        ImportError: safetensors is not installed.

    >>> import relprop
    >>> task = load("interactions")
    >>> data = task.data(count=8)
    >>> table = relprop.evaluate((task.fn, task.params), ["epsilon", "random"], data, ["auc"])
    >>> len(table["epsilon", "auc"])
    8
    """
    name = name.replace("_", "-")
    recipe, params = _read(name)
    draw = functools.partial(recipe.draw, params)
    explained = {layer: leaves for layer, leaves in params.items() if layer != "embedding"}
    return Task(name, recipe.kind, recipe.what, recipe.apply, explained, draw)


def load_text(name: str) -> LanguageModel:
    """The trained model of a task of texts as a language model, for texts that are typed.

    It knows the words of its task alone; any other is the mask token.

    Args:
        name: ``"negation"``, ``"evidence-spans"``, ``"key-value"`` or ``"multi-hop"``, see `texts`.

    Returns:
        A classifier for `relprop.tokens.explain`, with a tokenizer.

    Raises:
        UnknownNameError, InputError: no such task, or it is none of texts.
        ImportError: safetensors is not installed.

    >>> from relprop import tokens
    >>> model = load_text("negation")
    >>> result = tokens.explain(model, "the film was not great and long with that music by a plot")
    >>> result.target_names, [word for _, word, _ in result.top(2)]
    ('class blame', [' not', ' great'])
    """
    name = name.replace("_", "-")
    if name in RECIPES:
        check_text_task(name)
    return language_model(name, _read(name)[1])


def _read(name: str) -> tuple[Recipe, dict[str, Any]]:
    if name not in RECIPES:
        raise unknown_name("planted task", name, RECIPES)
    try:
        from relprop._weights import read_weights
    except ImportError as error:
        raise ImportError(
            f"The weights of relprop.truth need safetensors, but {error.name!r} cannot be "
            "imported. Install it with: pip install relprop[demo]"
        ) from error

    recipe = RECIPES[name]
    return recipe, read_weights(recipe.weights, _like(recipe), SCRIPT)


def _like(recipe: Recipe) -> dict[str, Any]:
    if recipe.init is not None:
        return jax.eval_shape(recipe.init, jax.random.key(0))
    return _DIGITS_PARAMS


def _struct(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


_DIGITS_PARAMS: dict[str, Any] = {
    **{
        f"conv{i}": {"kernel": _struct(3, 3, a, b)}
        for i, (a, b) in enumerate(((1, 32), (32, 32), (32, 64)), 1)
    },
    **{
        f"norm{i}": {name: _struct(width) for name in ("scale", "bias", "mean", "var")}
        for i, width in enumerate((32, 32, 64), 1)
    },
    "head": {"kernel": _struct(256, 10), "bias": _struct(10)},
}
