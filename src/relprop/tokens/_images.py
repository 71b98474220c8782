"""Models of images and text: relevance of patches and tokens, of one prediction, in one pass."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from relprop import _transform, presets
from relprop._coloured_grid import ColouredGrid
from relprop._coloured_text import ColouredText
from relprop._errors import InputError
from relprop._files import write_text
from relprop.composites import composite_of
from relprop.tokens import _show
from relprop.tokens._image_inputs import GRID, PIXELS, Inputs, texts_of
from relprop.tokens._query import check_exists, per_sample
from relprop.tokens._result import TokenRelevance
from relprop.tokens._targets import NextToken
from relprop.tokens._text import check_ids, pieces, single_token, term_name


@dataclasses.dataclass(frozen=True, eq=False)
class ImageTextModel:
    """A language model that sees images: tokens and pixels are what relevance ends at.

    Args:
        embed: ``embed(params, ids)``: from ids ``[1, tokens]`` to embeddings.
        logits: ``logits(params, embeds, ids, mask, images)``: the logits
            ``[1, tokens, vocabulary]``. The images are a dict; ``images["pixel_values"]`` is
            explained, everything else in it, the ids and the mask are known numbers.
        patch: pixels of a patch, along a side.
        params: any tree of arrays.
        tokenizer: a tokenizer of transformers; needed only for text as strings.
        image_id: the token that stands where features of an image are put in.
        merged: of models that read flattened patches in groups (Qwen-VL), how many patches a group
            has along a side.
        vocabulary: how many tokens have an embedding.
        leaves_out_empty: images of zeros are padding, which are not handed to `logits`: of models
            whose pixels are ``[texts, images, channels, height, width]``.
    """

    embed: Callable[[Any, Any], Any]
    logits: Callable[[Any, Any, Any, Any, Any], Any]
    patch: int
    params: Any = ()
    tokenizer: Any = None
    image_id: int | None = None
    merged: int = 1
    vocabulary: int | None = None
    leaves_out_empty: bool = False


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ImageTextRelevance:
    """Relevance of the tokens of a text and of the images in it, in the same unit.

    Attributes:
        text: of the tokens; those that stand for an image have none, and are not shown.
        pixels: of each entry of ``pixel_values``.
        patches: of each patch, the sum over its pixels: one array for each image or tile.
    """

    text: TokenRelevance
    pixels: Float[np.ndarray, "..."]
    patches: tuple[Float[np.ndarray, "rows columns"], ...]

    @property
    def shares(self) -> tuple[float, float]:
        """The sums of the relevance of the text and of the images."""
        return float(self.text.relevance.sum()), float(self.pixels.sum())

    def html(
        self,
        path: str | Path | None = None,
        title: str = "Relevance of images and text",
        details: Mapping[str, str] | None = None,
        pictures: Sequence[Any] = (),
    ) -> str:
        """A page with all images and the text, in colours of one scale.

        Args:
            path: a file to be written, too.
            title: of the page.
            details: what else is to be told, by name.
            pictures: the images as Pillow has them, to lie below the patches. Needs Pillow.

        Returns:
            The page.
        """
        text, images = self.shares
        told = {"text": f"{text:+.4g}", "images": f"{images:+.4g}", **(details or {})}
        page = _show.page(tuple(self._parts(pictures)), title, told, ())
        if path is not None:
            write_text(path, page)
        return page

    def _parts(self, pictures: Sequence[Any] = ()) -> Iterator[Any]:
        shown = np.flatnonzero(self.text.shown)
        tokens = [(self.text.tokens[i], float(self.text.relevance[i])) for i in shown]
        arrays = [*self.patches, np.asarray([value for _, value in tokens])]
        scale = max(float(np.abs(array).max(initial=0.0)) for array in arrays)
        for number, patches in enumerate(self.patches):
            picture = _uri(pictures[number]) if number < len(pictures) else ""
            yield ColouredGrid(f"image {number}", patches, scale, picture)
        against = f" rather than {self.text.contrast_names}" if self.text.contrast_names else ""
        title = f"{self.text.target_names}{against}, score {float(self.text.score):.4g}"
        yield ColouredText(title, tokens, scale)

    def _repr_html_(self) -> str:
        return _show.html(self._parts())

    def __str__(self) -> str:
        return _show.text(self._parts())

    __repr__ = __str__


def explain_images(
    model: ImageTextModel,
    inputs: Mapping[str, Any],
    target: NextToken | None = None,
    *,
    contrast: Any = None,
    rules: Any = None,
    on_missing: Any = "error",
    on_suspicion: str = "warn",
) -> Any:
    r"""How much each patch of the images and each token of the text adds to a logit.

    .. math:: \sum_t R_t + \sum_p R_p + \text{absorbed} + \text{not conserved} = \text{logit}

    Args:
        model: made by `from_image_text`, or an `ImageTextModel`.
        inputs: what a processor of transformers returns for a text with its images, or for several:
            ``input_ids``, ``pixel_values`` and what else the model takes.
        target: the token that follows; by default the one that the model predicts. Of several
            texts, one for all or a sequence with one for each, likewise its position; padding does
            not count.
        contrast: a second token, whose logit is subtracted; of several texts as the target.
        rules: as for `relprop.relevance`; by default `relprop.presets.attn_lrp`.
        on_missing: as for `relprop.relevance`.
        on_suspicion: as for `relprop.relevance`.

    Returns:
        The relevance of both, in one result; of several texts a tuple of these, each without
        padding, explained one after another as the model may choose by their ids.

    Raises:
        InputError: there are no ids or pixels among the inputs, NaN in them, or images of which it
            is not known whose they are; a token or position does not exist, or the contrast is the
            target; pixels do not make patches.
        MissingRuleError, RuleError: as for `relprop.relevance`.

    >>> model = ImageTextModel(
    ...     embed=lambda params, ids: params[ids],
    ...     logits=lambda params, embeds, ids, mask, images: (
    ...         (embeds.sum(1, keepdims=True) + images["pixel_values"].sum()) @ params.T
    ...     ),
    ...     patch=1,
    ...     params=jnp.eye(3),
    ... )
    >>> inputs = {"input_ids": [[0, 2]], "pixel_values": jnp.ones((1, 1, 1, 2))}
    >>> result = explain_images(model, inputs, NextToken(2, position=0))
    >>> result.text.relevance.tolist(), result.patches[0].tolist()
    ([0.0, 1.0], [[1.0, 1.0]])
    """
    texts, _ = texts_of(inputs, model.image_id, model.merged)
    targets = _each(NextToken() if target is None else target, contrast, len(texts))
    composite = composite_of(presets.attn_lrp() if rules is None else rules)
    for text in texts:
        check_ids(model, text.ids)
        _check_pixels(model, text.pixels, text.others)
    found = tuple(
        _explained(
            model, text, *one, rules=composite, on_missing=on_missing, suspicion=on_suspicion
        )
        for text, one in zip(texts, targets, strict=True)
    )
    return found[0] if len(found) == 1 else found


def _each(target: Any, contrast: Any, count: int) -> list[tuple[Any, Any]]:
    """The target and contrast of each text."""
    if count == 1 or not isinstance(target, NextToken):
        return [(target, contrast)] * count
    given = [
        per_sample(x, count, n) for n, x in (("token", target.token), ("position", target.position))
    ]
    others = per_sample(contrast, count, "contrast")
    return [
        (NextToken(token, position), other)
        for token, position, other in zip(*given, others, strict=True)
    ]


def _explained(
    model: ImageTextModel,
    text: Inputs,
    target: Any,
    contrast: Any,
    *,
    rules: Any,
    on_missing: Any,
    suspicion: str,
) -> ImageTextRelevance:
    """One text with its images."""
    # Made before anything is traced, so that models may choose by them.
    there = _there(model, text.pixels)
    pixels, others = _only(text, there)
    ids = jnp.asarray(text.ids)
    mask = jnp.ones(ids.shape, bool)
    embeds = model.embed(model.params, ids)

    def logits(params: Any, embeds: Any, pixels: Any) -> Any:
        return model.logits(params, embeds, ids, mask, {PIXELS: pixels, **others})

    shape = jax.eval_shape(logits, model.params, embeds, pixels).shape
    position = _position(target, ids.size, shape)

    def row(params: Any, embeds: Any, pixels: Any) -> Any:
        return logits(params, embeds, pixels)[0, position]

    token = target.token
    if token is None:
        token = int(jnp.argmax(jax.jit(row)(model.params, embeds, pixels)))
    chosen, against = _tokens(model, token, contrast, shape[-1])

    def score(params: Any, embeds: Any, pixels: Any) -> Any:
        found = row(params, embeds, pixels)
        return found[chosen] if against is None else found[chosen] - found[against]

    explain = _transform.value_and_relevance(
        score, rules, argnums=(1, 2), on_missing=on_missing, on_suspicion=suspicion
    )
    value, (of_text, of_pixels) = jax.jit(explain)(model.params, embeds, pixels)
    of_tokens = np.asarray(of_text[0].sum(-1))
    result = _text(model, np.asarray(ids[0]), of_tokens, np.asarray(value), chosen, against)
    patches = tuple(_patches(model, np.asarray(of_pixels), others))
    whole = np.zeros(text.pixels.shape, of_pixels.dtype)
    whole[(slice(None), there) if there is not None else ...] = of_pixels
    return ImageTextRelevance(result, whole, patches)


def _there(model: ImageTextModel, pixels: np.ndarray) -> np.ndarray | None:
    """Which images of a text are no padding; None where there can be none.

    Raises:
        InputError: all of them are.
    """
    if not model.leaves_out_empty or pixels.ndim != 5:
        return None
    there = np.asarray(pixels.any(axis=(0, 2, 3, 4)))
    if not there.any():
        raise InputError(f"`{PIXELS}` has no image but empty ones, which the model leaves out.")
    return there


def _only(text: Inputs, there: np.ndarray | None) -> tuple[Any, dict[str, Any]]:
    """Pixels and all else of the images that are there."""

    def kept(array: np.ndarray) -> Any:
        of_images = there is not None and array.shape[:2] == text.pixels.shape[:2]
        return jnp.asarray(array[:, there] if of_images else array)

    return kept(text.pixels), {name: kept(array) for name, array in text.others.items()}


def _position(target: Any, count: int, shape: tuple[int, ...]) -> int:
    """The position of the logit; JAX would take the last one for any that does not exist."""
    if not isinstance(target, NextToken):
        raise InputError(f"Of a model of images, a `NextToken` is explained; got {target!r}.")
    if len(shape) != 3 or shape[0] != 1:
        raise InputError(f"`logits` must return [1, tokens, vocabulary], but returns {[*shape]}.")
    count = min(count, shape[1])
    given: Any = target.position
    if np.ndim(given) or np.asarray(given).dtype.kind not in "iu" or not -count <= given < count:
        raise InputError(f"There are {count} tokens; the position {given!r} is none of them.")
    return int(given)


def _tokens(
    model: ImageTextModel, token: Any, contrast: Any, outputs: int
) -> tuple[int, int | None]:
    """The ids of the target and of its contrast."""
    chosen = single_token(model.tokenizer, token)
    check_exists(np.asarray(chosen), outputs, "target")
    if contrast is None:
        return chosen, None
    against = single_token(model.tokenizer, contrast)
    check_exists(np.asarray(against), outputs, "contrast")
    if against == chosen:
        raise InputError(f"The contrast must differ from the target, but both are {chosen}.")
    return chosen, against


def _check_pixels(model: ImageTextModel, pixels: np.ndarray, others: Mapping[str, Any]) -> None:
    """Whether pixels are numbers that make patches.

    Raises:
        InputError: they are not, or do not.
    """
    wrong = int((~np.isfinite(pixels.astype(np.float32))).sum())
    if wrong:
        raise InputError(f"`{PIXELS}` has NaN or infinity in {wrong} of its {pixels.size} entries.")
    if pixels.ndim == 2:
        _check_grid(model.merged, len(pixels), others.get(GRID))
    elif pixels.ndim < 3 or not 1 <= model.patch <= min(pixels.shape[-2:]):
        raise InputError(
            f"`{PIXELS}` has the shape {list(pixels.shape)}, which makes no patches of "
            f"{model.patch} by {model.patch} pixels: give [..., channels, height, width], or "
            f"flattened patches and `{GRID}`, and a `patch` from 1 to the smaller side."
        )


def _check_grid(merged: int, count: int, grid: Any) -> None:
    """Whether flattened patches are those of images of some rows and columns."""
    if grid is None:
        raise InputError(
            f"`{PIXELS}` has flattened patches, whose places in the image are not known without "
            f"`{GRID}`: give all that the processor returns."
        )
    sizes = np.asarray(grid)
    fits = sizes.size % 3 == 0 and not (sizes.reshape(-1, 3)[:, 1:] % merged).any()
    if not fits or sizes.reshape(-1, 3).prod(axis=1).sum() != count:
        raise InputError(
            f"`{GRID}` must have frames, rows and columns of patches for each image, rows and "
            f"columns in groups of {merged}, of {count} patches in all; got {sizes.tolist()}."
        )


def _text(
    model: ImageTextModel, ids: Any, relevance: Any, score: Any, chosen: int, against: int | None
) -> TokenRelevance:
    there = np.ones(ids.shape, bool)

    def name(token: int | None) -> str:
        return "" if token is None else term_name(model.tokenizer, None, [token])

    return TokenRelevance(
        relevance=relevance,
        score=score,
        target=np.asarray(chosen),
        contrast=None if against is None else np.asarray(against),
        ids=ids,
        mask=there,
        shown=there if model.image_id is None else ids != model.image_id,
        per_dimension=None,
        inside=None,
        tokens=pieces(model.tokenizer, ids),
        target_names=name(chosen),
        contrast_names=name(against),
    )


def _patches(model: ImageTextModel, pixels: np.ndarray, others: Mapping[str, Any]) -> Iterator[Any]:
    """The sums over patches, image by image."""
    if pixels.ndim == 2:  # Flattened patches, in groups that lie beside each other.
        begin, m = 0, model.merged
        for frames, rows, columns in np.reshape(others[GRID], (-1, 3)).tolist():
            end = begin + frames * rows * columns
            grouped = pixels[begin:end].sum(-1).reshape(frames, rows // m, columns // m, m, m)
            yield grouped.transpose(0, 1, 3, 2, 4).reshape(frames * rows, columns)
            begin = end
        return
    p = model.patch
    rows, columns = (n // p for n in pixels.shape[-2:])
    images = pixels[..., : rows * p, : columns * p].reshape(
        -1, pixels.shape[-3], rows, p, columns, p
    )
    yield from images.sum((1, 3, 5))


def _uri(picture: Any) -> str:
    file = io.BytesIO()
    picture.convert("RGB").save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
