"""Values that were printed, read back: calls of known classes on literals, and nothing is run."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from typing import Any

from relprop._errors import InputError

_NUMBERS = {"inf": math.inf, "nan": math.nan, "Ellipsis": ...}


def read_back(text: str, known: Mapping[str, Callable[..., Any]]) -> Any:
    """The value whose `repr` a text is.

    Args:
        text: such as ``"Epsilon(epsilon=1e-06, bias='absorb')"``.
        known: the classes that may be called, by name.

    Raises:
        InputError: it is no such text, or calls something else.

    >>> from relprop.rules import Gamma
    >>> read_back("(Gamma(gamma=0.25), {'a': -inf})", {"Gamma": Gamma})
    (Gamma(gamma=0.25, epsilon=1e-06, bias='absorb'), {'a': -inf})
    """
    try:
        return _value(ast.parse(text, mode="eval").body, known)
    except InputError as error:
        raise InputError(f"{text[:200]!r} cannot be read back: {error}") from error
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(f"{text[:200]!r} cannot be read back: {error}") from error


def _value(node: ast.expr, known: Mapping[str, Callable[..., Any]]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name(id=name) if name in _NUMBERS:
            return _NUMBERS[name]
        case ast.Tuple():
            return tuple(_value(part, known) for part in node.elts)
        case ast.List():
            return [_value(part, known) for part in node.elts]
        case ast.Set():
            return {_value(part, known) for part in node.elts}
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            return {_value(k, known): _value(v, known) for k, v in pairs if k is not None}
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, known)
        case ast.BinOp(op=ast.Add()):  # complex numbers
            return _value(node.left, known) + _value(node.right, known)
        case ast.Call(func=ast.Name(id=name)) if name in known:
            args = [_value(part, known) for part in node.args]
            named = {k.arg: _value(k.value, known) for k in node.keywords if k.arg is not None}
            return known[name](*args, **named)
    raise InputError(f"{ast.unparse(node)[:80]} is no known value")
