"""The transforms: functions that take a function and give back one that explains it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike, PyTree, Shaped

from relprop import _compat
from relprop._core.forward import forward
from relprop._core.record import Keep
from relprop._core.registry import unrepeatable
from relprop._core.relevance import Relevance, precise
from relprop._errors import InputError
from relprop._growth import A_LOT, times_the_score, warn_of_growth
from relprop._inspect import Inspection, inspection
from relprop._ledger import Ledger, ledger_of
from relprop._programs import Programs
from relprop._run import Run, checked_seed, closed
from relprop._suspicions import check_policy
from relprop.composites import composite_of
from relprop.places.kinds import places_of


def relevance(
    f: Callable[..., Any],
    rules: Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    places: Any = (),
    on_missing: Any = "error",
    on_suspicion: str = "warn",
    growth_limit: float = A_LOT,
) -> Callable[..., Any]:
    r"""A function that computes how much each entry of an input contributes to a score.

    As `jax.grad`: ``relevance(f, rules)(x)`` has the structure and shapes of x. The score is
    the relevance to be distributed,

    .. math:: \sum_i R_i + \text{absorbed} = f(x),

    where biases, stabilisers, cuts and rules that stop relevance absorb, and what rules that do not
    conserve relevance make or lose counts as absorbed, too: of attention, where that is the true

    Args:
        f: any function of pytrees of arrays that returns a real scalar, or with `has_aux` a pair
            of that and anything else.
        rules: a rule such as ``Epsilon(1e-6)``, which then applies to every linear layer with
            weights while everything else gets the usual defaults (`relprop.DEFAULTS`); or a
            `relprop.Composite`, such as the value of a preset.
        argnums: which argument or arguments are explained; the rest are constants.
        has_aux: whether f returns a pair; then so does the result.
        places: places inside f whose relevance is wanted as well: names or scopes as strings,
            `relprop.Where` for the outputs of operations, or `relprop.places`. Then the place of
            the relevance is taken by a pair of it and a dict of `relprop.places.Inside`.
            `relprop.places.Masked` and `relprop.places.Seeded` change the relevance there.
        on_missing: what to do about operations that have no rule: ``"error"``; ``"gradient"``,
            gradient times input; or a rule.
        on_suspicion: what to do about places where relevance is lost, because the way from the
            inputs ends (`round`, comparisons, `stop_gradient`), and about what resembles a known
            structure and is none: ``"warn"`` once, ``"error"`` or ``"ignore"``.
        growth_limit: how many times the score the relevance of an entry may be, before a
            `GrowthWarning` says so; ``math.inf`` for no such warning. Only where numbers are at
            hand: there is none inside of `jax.jit` and other transformations.

    Returns:
        A function with the arguments of f. Its result has the structure of the explained argument
        (a tuple of such, if `argnums` is a sequence), in the units of the score. Relevance of
        half-precision inputs is float32. Each call traces and plans f anew, so that nothing of it
        is kept: put `jax.jit` around for many calls.

    Raises:
        MissingRuleError: operations on the way have no rule, or every way ends at one that lets no
            relevance through. All are listed, with their source.
        RuleError: a rule cannot be applied where the composite puts it.
        NothingMatchedError: a selection of the composite matches no operation, or a place is not
            there.
        InputError: an explained argument is not real, the score is not a real scalar, a place
            lies inside of what was recognised as one operation, or a mask does not fit its place.
        SuspicionError: something is suspicious, and `on_suspicion` is ``"error"``.

    >>> import jax.numpy as jnp
    >>> from relprop.rules import Epsilon
    >>> W = jnp.array([[1.0, -1.0], [2.0, 0.5]])
    >>> f = lambda x: jnp.sum(jax.nn.relu(x @ W))
    >>> relevance(f, Epsilon(1e-6))(jnp.array([1.0, 2.0])).round(3).tolist()
    [1.0, 4.0]

    Source: Bach et al. 2015, section 2.2 (layer-wise relevance propagation).
    """
    explain = value_and_relevance(
        f,
        rules,
        argnums,
        has_aux,
        places=places,
        on_missing=on_missing,
        on_suspicion=on_suspicion,
        growth_limit=growth_limit,
    )

    @functools.wraps(f)
    def relevance_of(*args: Any, **kwargs: Any) -> Any:
        value, result = explain(*args, **kwargs)
        return (result, value[1]) if has_aux else result

    return relevance_of


def value_and_relevance(
    f: Callable[..., Any],
    rules: Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    places: Any = (),
    on_missing: Any = "error",
    on_suspicion: str = "warn",
    growth_limit: float = A_LOT,
) -> Callable[..., Any]:
    r"""As `relevance`, and the value of the function with it, from one evaluation.

    Args:
        f: as for `relevance`.
        rules: as for `relevance`.
        argnums: as for `relevance`.
        has_aux: as for `relevance`.
        places: as for `relevance`.
        on_missing: as for `relevance`.
        on_suspicion: as for `relevance`.
        growth_limit: as for `relevance`.

    Returns:
        A function that returns ``(value, relevance)``, or ``((value, aux), relevance)``; with
        `places` the relevance is a pair ``(relevance, inside)``.

    Raises:
        MissingRuleError, RuleError, NothingMatchedError, InputError: as for `relevance`.

    >>> import jax.numpy as jnp
    >>> from relprop.rules import Epsilon
    >>> value_and_relevance(lambda x: 2 * x[0] + x[1], Epsilon())(jnp.array([1.0, 3.0]))
    (Array(5., dtype=float32), Array([2., 3.], dtype=float32))
    """
    composite, wanted = composite_of(rules), places_of(places)
    check_policy(on_suspicion)

    @functools.wraps(f)
    def value_and_relevance_of(*args: Any, **kwargs: Any) -> Any:
        run = Run.start(
            closed(f, kwargs),
            args,
            argnums,
            composite,
            on_missing,
            has_aux,
            places=wanted,
            on_suspicion=on_suspicion,
        )
        outputs, result, inside = _explaining(run, argnums)(*run.trace.arrays)
        out = run.trace.returned(_compat.looked_at(outputs))
        if composite.seed == "score":
            warn_of_growth(times_the_score(outputs[0], result), growth_limit)
        return out, (result, inside) if wanted else result

    return value_and_relevance_of


def _explaining(run: Run, argnums: int | Sequence[int]) -> Callable[..., Any]:
    """The function of the traced leaves that computes outputs, relevance and places."""

    def explain(*arrays: Any) -> tuple[Any, Any, Any]:
        outputs, tape = forward(run.plan, arrays)
        leaving, record = run.backward(tape, run.seed(outputs[0]))
        return outputs, run.result(leaving, tape, argnums), record.places

    return explain


def vrp(
    f: Callable[..., Any],
    *primals: Any,
    rules: Any,
    argnums: int | Sequence[int] | None = None,
    has_aux: bool = False,
    places: Any = (),
    on_missing: Any = "error",
    on_suspicion: str = "warn",
) -> tuple[Any, ...]:
    r"""Evaluates a function and returns a second one that takes relevance back through it.

    As `jax.vjp`: for any pytree of outputs and any relevance of them, for several seeds of one
    evaluation, for parts of a model.

    Args:
        f: any function of pytrees of arrays.
        *primals: its arguments.
        rules: as for `relevance`.
        argnums: which of them are explained; all of them if it isn't given.
        has_aux: whether f returns a pair of the outputs and anything else.
        places: as for `relevance`.
        on_missing: as for `relevance`.
        on_suspicion: as for `relevance`.

    Returns:
        ``(outputs, back)``, or ``(outputs, back, aux)``: ``back(R)`` takes relevance of the
        structure of the outputs and returns a tuple of relevances, one per argument; with
        `places`, a pair of this and a dict of `relprop.places.Inside`.

    Raises:
        MissingRuleError, RuleError, NothingMatchedError, InputError: as for `relevance`.
        InputError: by ``back``, if the seed has not the structure and shapes of the outputs.

    >>> import jax.numpy as jnp
    >>> from relprop.rules import Epsilon
    >>> y, back = vrp(lambda x: x * jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]), rules=Epsilon())
    >>> back(jnp.array([1.0, 0.0]))
    (Array([1., 0.], dtype=float32),)
    """
    composite, wanted = composite_of(rules), places_of(places)
    check_policy(on_suspicion)
    if not primals:
        raise InputError("There is nothing to be explained: `vrp` needs at least one argument.")
    argnums = tuple(range(len(primals))) if argnums is None else argnums
    run = Run.start(
        f,
        primals,
        argnums,
        composite,
        on_missing,
        has_aux,
        scalar=False,
        places=wanted,
        on_suspicion=on_suspicion,
    )
    outputs, tape = forward(run.plan, run.trace.arrays)
    out = run.trace.returned(_compat.looked_at(outputs))
    explained, *aux = out if has_aux else (out,)

    def back(seed: PyTree[Shaped[ArrayLike, "..."]]) -> tuple[Any, ...]:
        seeds = checked_seed(seed, explained)
        rest = [None] * (len(outputs) - len(seeds))
        leaving, record = run.backward(tape, [*seeds, *rest])
        result = run.result(leaving, tape, argnums)
        return (result, record.places) if wanted else result

    return (explained, back, *aux)


def inspect(
    f: Callable[..., Any],
    rules: Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    places: Any = (),
    on_missing: Any = "error",
    on_suspicion: str = "warn",
) -> Callable[..., Inspection]:
    """The plan of an explanation, without running it.

    Args:
        f: as for `relevance`; here it may return any pytree.
        rules: as for `relevance`.
        argnums: as for `relevance`.
        has_aux: as for `relevance`.
        places: as for `relevance`; `Phases` changes the plan, and
            `Parameter` adds rows for what leads to parameters.
        on_missing: as for `relevance`.
        on_suspicion: as for `relevance`.

    Returns:
        A function with the arguments of f (arrays, or `jax.ShapeDtypeStruct` for the explained
        ones to be looked up only by shape) that returns a sequence of rows: per operation the
        primitive, the structure it was recognised as, scope, parameter path, rule and the line of
        source. It prints as a table.

    Raises:
        MissingRuleError, RuleError, NothingMatchedError, InputError: as for `relevance`.

    >>> import jax.numpy as jnp
    >>> from relprop.rules import Gamma
    >>> f = lambda x, w: jax.nn.gelu(x @ w).sum()
    >>> plan = inspect(f, Gamma())(jnp.ones(2), jnp.ones((2, 3)))
    >>> [(op.structure, op.path) for op in plan]
    [('dense', 'w'), ('activation', ''), ('sum', '')]
    """
    composite, wanted = composite_of(rules), places_of(places)
    check_policy(on_suspicion)

    @functools.wraps(f)
    def inspect_of(*args: Any, **kwargs: Any) -> Inspection:
        run = Run.start(
            closed(f, kwargs),
            args,
            argnums,
            composite,
            on_missing,
            has_aux,
            scalar=False,
            places=wanted,
            on_suspicion=on_suspicion,
        )
        return inspection(run.plan, composite.name, run.anatomy, run.flow)

    return inspect_of


def ledger(
    f: Callable[..., Any],
    rules: Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    places: Any = (),
    on_missing: Any = "error",
    on_suspicion: str = "warn",
    growth_limit: float = A_LOT,
) -> Callable[..., Ledger]:
    r"""Where the relevance went: per operation what arrived, what left and what was absorbed.

    For every operation, and so for the whole,

    .. math:: \text{arrived} = \text{left} + \text{bias} + \epsilon + \text{stopped}
              + \text{cut} + \text{not conserved} + \text{gap},

    where what is not conserved is made or lost by rules that do not conserve relevance, such as the
    gradient of a softmax, and the gap is what nobody accounts for, that is rounding.

    Args:
        f: as for `relevance`.
        rules: as for `relevance`.
        argnums: as for `relevance`.
        has_aux: as for `relevance`.
        places: as for `relevance`, of which only masks and seeds make a difference. What a mask
            takes away is stopped; `Ledger.entered` is what seeds bring in.
        on_missing: as for `relevance`.
        on_suspicion: as for `relevance`.
        growth_limit: as for `relevance`; here the warning names the operation where relevance
            grows most, `Ledger.growth`.

    Returns:
        A function with the arguments of f that returns a `Ledger`: a sequence of rows, the sums,
        the explained relevance and, where a number is NaN or infinite, the first operation that
        made it. It prints as a table. Not for use inside of `jax.jit`. It traces f each time, as
        `relevance` does, and compiles what it has not compiled before.

    Raises:
        MissingRuleError, RuleError, NothingMatchedError, InputError: as for `relevance`.
        InputError: it is called while a function around it is being traced.

    >>> import jax.numpy as jnp
    >>> from relprop.rules import Epsilon
    >>> book = ledger(lambda x: jnp.sum(2 * x + 1), Epsilon())(jnp.array([1.0, 3.0]))
    >>> float(book.score), float(book.left), float(book.bias)
    (10.0, 8.0, 2.0)
    """
    composite, changed, programs = composite_of(rules), places_of(places), Programs()
    check_policy(on_suspicion)

    @functools.wraps(f)
    def ledger_of_f(*args: Any, **kwargs: Any) -> Ledger:
        run = Run.start(
            closed(f, kwargs),
            args,
            argnums,
            composite,
            on_missing,
            has_aux,
            places=changed,
            on_suspicion=on_suspicion,
        )
        constants = list(run.plan.graph.constants.values())
        if any(map(_compat.is_traced, (*constants, *run.trace.arrays))):
            raise InputError(
                "A ledger holds numbers, and there are none while a function around it is traced. "
                "Call it outside of `jax.jit`, `jax.vmap` and the like."
            )

        def compute(keep: Keep) -> tuple[Any, ...]:
            return programs(_booking(run, argnums, keep), constants, list(run.trace.arrays))

        # Looking at every number is worth its while only where some are none; but what has an
        # effect, such as a callback, is not to be run for it again.
        once = any(e.has_effects or unrepeatable(e) for e in run.plan.graph.equations)
        score, seed, found, accounts = compute("faults" if once else "sums")
        faulty = not all(np.isfinite(np.asarray(a)).all() for a in jax.tree.leaves((score, found)))
        if faulty and not once:
            score, seed, found, accounts = compute("faults")
        amounts = np.asarray(score), np.asarray(seed), found
        book = ledger_of(run.plan, accounts, *amounts, run.trace if faulty else None)
        if composite.seed == "score":
            times = times_the_score(seed, found)
            warn_of_growth(times, growth_limit, f"It grows most at {book.growth}.")
        return book

    return ledger_of_f


def repeated_ledger(
    f: Callable[..., Any],
    rules: Any,
    args: Sequence[Any],
    argnums: int | Sequence[int] = 0,
    compiler_options: Mapping[str, Any] | None = None,
) -> Callable[..., Ledger]:
    """As `ledger`, for many arguments of the same shapes: f is traced and compiled once.

    Args:
        f: as for `relevance`; what it reads beside its arguments stays as it is now.
        rules: as for `relevance`.
        args: arguments to trace it with.
        argnums: as for `relevance`.
        compiler_options: as for `jax.jit`.

    Returns:
        A function with the arguments of f that returns a `Ledger`; numbers that are NaN or infinite
        are looked for by `ledger`.

    Raises:
        MissingRuleError, RuleError, NothingMatchedError, InputError: as for `relevance`.

    >>> import jax.numpy as jnp
    >>> from relprop.rules import Epsilon
    >>> book = repeated_ledger(lambda x: jnp.sum(2 * x + 1), Epsilon(), [jnp.zeros(2)])
    >>> float(book(jnp.array([1.0, 3.0])).left), float(book(jnp.array([1.0, 4.0])).left)
    (8.0, 10.0)
    """
    composite = composite_of(rules)
    run = Run.start(f, args, argnums, composite, "error", False, on_suspicion="ignore")
    options = None if compiler_options is None else dict(compiler_options)
    program = jax.jit(_booking(run, argnums, "sums"), compiler_options=options)
    constants = list(run.plan.graph.constants.values())

    def ledger_of_f(*args: Any) -> Ledger:
        score, seed, found, accounts = program(constants, jax.tree.leaves(args))
        if not all(np.isfinite(np.asarray(a)).all() for a in jax.tree.leaves((score, found))):
            return ledger(f, rules, argnums, on_suspicion="ignore")(*args)
        return ledger_of(run.plan, accounts, np.asarray(score), np.asarray(seed), found, None)

    return ledger_of_f


def _booking(run: Run, argnums: int | Sequence[int], keep: Keep) -> Callable[..., Any]:
    """What computes score, seed, relevance and accounts of constants and arguments."""

    def booked(constants: list[Any], arrays: list[Any]) -> tuple[Any, ...]:
        here = run.with_constants(constants)
        outputs, tape = forward(here.plan, arrays)
        seeds = here.seed(outputs[0])
        leaving, record = here.backward(tape, seeds, keep)
        handed = (seeds[0] or Relevance()).total(precise(outputs[0]))
        return outputs[0], handed, here.result(leaving, tape, argnums), record.accounts

    return booked
