"""Polynomials whose coefficients depend on the inputs: Horner's scheme, turn by turn.

A polynomial with constant coefficients is a function of each entry. Later releases of JAX evaluate
one by a primitive, which says nothing of what a coefficient has in the result; earlier ones by the
loop that it is read as here.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from relprop._core.graph import Equation
from relprop.reading.draft import Draft


def expanded(draft: Draft) -> None:
    """Reads each polynomial that is no function of the entries of x as a loop over coefficients."""
    made = {
        equation: draft.derived(_horner, equation.inputs, equation, equation.outputs[0])
        for equation in draft.equations
        if equation.name == "polynomial" and not _is_of_entries(draft, equation)
    }
    for equation, equations in made.items():
        # The function as it was traced does not run the loop.
        recall = next((draft.recalled[a] for a in equation.inputs if a in draft.recalled), None)
        draft.entered.update((e.outputs[0], recall) for e in equations if e.bodies)
    if made:
        draft.put(made)


def _is_of_entries(draft: Draft, equation: Equation) -> bool:
    x, *coefficients = equation.inputs
    alone = not any(c in draft.index.dependent for c in coefficients)
    return alone and x.shape == equation.outputs[0].shape


def _horner(x: Float[Array, "..."], *coefficients: Float[Array, "..."]) -> Float[Array, "..."]:
    """A polynomial, the coefficient of the lowest power first."""
    shape = jnp.broadcast_shapes(*map(jnp.shape, (x, *coefficients)))

    def turn(total, coefficient):
        return x * total + coefficient, None

    start = jnp.zeros(shape, jnp.result_type(x))
    return lax.scan(turn, start, jnp.stack(jnp.broadcast_arrays(*coefficients)), reverse=True)[0]
