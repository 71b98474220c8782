"""Small trained models to try relprop on, with the images that go with them.

>>> fn, params, preprocess = load("digits-cnn")
>>> from PIL import Image
>>> image = preprocess(Image.open(samples()[0]))
>>> classes("digits-cnn")[int(fn(params, image[None]).argmax())]
'0'
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from relprop._errors import unknown_name

__all__ = ["classes", "load", "names", "pixel_range", "samples"]

_NAMES = ("digits-cnn", "digits-vit")


def load(
    name: str,
) -> tuple[Callable[[Any, Any], Any], dict[str, Any], Callable[[Any], Any]]:
    """Loads a trained model as a pure function of its parameters and a batch of images.

    Arguments:
        name: one of ``names()``; underscores may stand for the hyphens.

    Returns:
        ``fn(params, images)``, from images ``[batch, 8, 8, 1]`` to logits ``[batch, 10]``, in
        inference mode; ``params``, nested dicts of arrays such as
        ``params["conv1"]["kernel"]``; and ``preprocess(image)``, from a PIL image to an array
        ``[8, 8, 1]`` of values in ``pixel_range(name)``.

    Raises:
        UnknownNameError: no such model; names the near matches.
        InputError: the weights file does not fit.
        ImportError: Flax, safetensors or Pillow is not installed.

    >>> fn, params, preprocess = load("digits-cnn")
    >>> params["conv1"]["kernel"].shape
    (3, 3, 1, 32)
    """
    name = _canonical(name)
    # Here and not above: relprop itself does not need Flax, nor do the names and the samples.
    from relprop.zoo import digits

    fn, params = digits.load(name)
    return fn, params, digits.preprocess


def names() -> list[str]:
    """The names of the models.

    Returns:
        The names, sorted.

    >>> names()
    ['digits-cnn', 'digits-vit']
    """
    return list(_NAMES)


def classes(name: str) -> list[str]:
    """The labels of a model's outputs, in order.

    Arguments:
        name: one of ``names()``.

    Returns:
        A label for each output.

    Raises:
        UnknownNameError: no such model.

    >>> classes("digits-cnn")[:3]
    ['0', '1', '2']
    """
    _canonical(name)
    return [str(digit) for digit in range(10)]


def pixel_range(name: str) -> tuple[float, float]:
    """The least and the greatest value of a model's input.

    Arguments:
        name: one of ``names()``.

    Returns:
        The two ends of the range, as the bounds of a z-box.

    Raises:
        UnknownNameError: no such model.

    >>> pixel_range("digits-vit")
    (0.0, 1.0)
    """
    _canonical(name)
    return 0.0, 1.0


def samples() -> list[Path]:
    """The paths of the bundled images: 8x8 PNGs that neither model saw in training.

    Returns:
        Paths, sorted. Their names say what they show:
        ``digit_<label>_<index in scikit-learn's data set>.png``.

    >>> len(samples())
    12
    """
    return sorted((Path(__file__).parent / "samples").glob("*.png"))


def _canonical(name: str) -> str:
    canonical = name.replace("_", "-")
    if canonical not in _NAMES:
        raise unknown_name("model", name, _NAMES)
    return canonical
