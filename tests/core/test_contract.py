"""What the package takes for granted about JAX: if one of these fails, JAX has changed."""

from __future__ import annotations

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import relprop
from relprop import _compat

SOURCE = pathlib.Path(relprop.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
X = jnp.array([1.0, -2.0, 3.0])
W = jnp.ones((3, 3))


# Names.


def _imports(path, pattern):
    text = path.read_text()
    return [n for n, line in enumerate(text.splitlines(), 1) if re.search(pattern, line)]


def test_there_is_something_to_look_through():
    assert len(FILES) > 20
    assert SOURCE / "_compat.py" in FILES


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_private_names_of_jax_are_not_used(path):
    assert _imports(path, r"jax\._src|from jax import _src") == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_only_one_module_uses_what_has_no_guarantee(path):
    found = _imports(
        path,
        r"(import|from)\s+jax\.(extend|core|interpreters)"
        r"|from jax import .*\b(extend|core|interpreters)\b"
        r"|\bjax\.(extend|core|interpreters)\.",
    )
    assert found == [] or path.name == "_compat.py"


# Primitives and their parameters.


def equations(f, *args):
    jaxpr, _ = _compat.open_jaxpr(jax.make_jaxpr(f)(*args))
    return jaxpr.eqns


def the_equation(f, *args, name):
    found = [eqn for eqn in equations(f, *args) if eqn.primitive.name == name]
    assert len(found) == 1, (
        f"JAX changed what this traces to: {[str(e.primitive) for e in equations(f, *args)]}"
    )
    return found[0]


@jax.custom_jvp
def _custom_jvp(x):
    return jnp.sin(x)


_custom_jvp.defjvp(lambda p, t: (_custom_jvp(*p), t[0]))


@jax.custom_vjp
def _custom_vjp(x):
    return jnp.sin(x)


_custom_vjp.defvjp(lambda x: (_custom_vjp(x), None), lambda _, g: (g,))


def _scan(x):
    return lax.scan(lambda c, a: (c + a * W[0], c), x, jnp.ones((2, 3)))[0]


CALLS = {
    "jit": (jax.jit(jnp.sin), "jaxpr"),
    "custom_jvp_call": (_custom_jvp, "call_jaxpr"),
    "custom_vjp_call": (_custom_vjp, "call_jaxpr"),
    "remat2": (jax.checkpoint(jnp.sin), "jaxpr"),
    "cond": (lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), "branches"),
    "scan": (_scan, "jaxpr"),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_hold_their_body_where_it_is_read(name):
    f, key = CALLS[name]
    eqn = the_equation(f, X, name=name)
    assert key in eqn.params, f"JAX changed the parameters of {name}: {sorted(eqn.params)}"
    kind = relprop.propagators.registered()[name]
    assert key in kind.bodies, f"{name} is not read where JAX keeps its body"
    bodies = eqn.params[key]
    bodies = bodies if isinstance(bodies, (tuple, list)) else (bodies,)
    for body in bodies:
        jaxpr, consts = _compat.open_jaxpr(body)
        assert hasattr(jaxpr, "eqns"), f"JAX changed what {name} holds: {type(body)}"
        assert len(jaxpr.constvars) == len(consts)
        # Operands of a body are the last operands of its equation.
        assert len(jaxpr.invars) <= len(eqn.invars)
        assert len(jaxpr.outvars) >= len(eqn.outvars) or name == "scan"


@pytest.mark.parametrize("name", CALLS)
def test_calls_can_be_evaluated_again(name):
    f, _ = CALLS[name]
    eqn = the_equation(f, X, name=name)
    values = {}
    jaxpr, consts = _compat.open_jaxpr(jax.make_jaxpr(f)(X))
    values.update(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, [X], strict=True))
    for equation in jaxpr.eqns:
        operands = [v.val if isinstance(v, _compat.Literal) else values[v] for v in equation.invars]
        outputs = _compat.bind(equation, operands)
        assert isinstance(outputs, list)
        values.update(zip(equation.outvars, outputs, strict=True))
    assert eqn.primitive.multiple_results
    assert jnp.allclose(values[jaxpr.outvars[0]], f(X))


def test_scan_says_how_many_of_its_operands_are_what():
    def f(a, b, xs):
        return lax.scan(lambda c, x: ((c[0] + a * x, c[1] * 2.0), (x, x, x)), (a, b), xs)

    eqn = the_equation(f, X, X, jnp.ones((2, 3)), name="scan")
    message = f"JAX changed how scan describes its operands: {sorted(eqn.params)}"
    assert _compat.scan_sizes(eqn.params) == (1, 2), message
    assert len(eqn.invars) == 1 + 2 + 1, message
    for key in ("length", "reverse", "unroll"):
        assert key in eqn.params, message
    assert eqn.params["length"] == 2


def test_cond_has_its_index_first_and_shares_the_other_operands():
    eqn = the_equation(CALLS["cond"][0], X, name="cond")
    for branch in eqn.params["branches"]:
        assert len(_compat.open_jaxpr(branch)[0].invars) == len(eqn.invars) - 1
    assert jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.integer), "JAX changed the index of cond"
    # The first branch is the one for False.
    names = [
        [e.primitive.name for e in _compat.open_jaxpr(b)[0].eqns] for b in eqn.params["branches"]
    ]
    assert names == [["cos"], ["sin"]], "JAX changed the order of branches"


def test_remat_says_whether_the_compiler_may_undo_it():
    for value in (True, False):
        eqn = the_equation(jax.checkpoint(jnp.sin, prevent_cse=value), X, name="remat2")
        assert eqn.params["prevent_cse"] == value, "JAX changed the parameters of remat"


def test_constants_of_a_jitted_closure_are_inside():
    table = jnp.arange(3.0)
    inner = jax.jit(lambda x: x * table)
    jaxpr, consts = _compat.open_jaxpr(jax.make_jaxpr(inner)(X))
    body, inner_consts = _compat.open_jaxpr(jaxpr.eqns[0].params["jaxpr"])
    # Wherever they are, they are counted once and bound at their own level.
    assert len(consts) + len(inner_consts) == 1, "JAX changed where constants live"
    assert len(body.constvars) == len(inner_consts)


def test_linear_solve_says_which_operands_are_the_matrix():
    def f(b):
        return lax.custom_linear_solve(
            lambda v: W @ v + v, b, solve=lambda _, b: b, transpose_solve=lambda _, b: b
        )

    eqn = the_equation(f, X, name="custom_linear_solve")
    lengths = eqn.params["const_lengths"]
    assert lengths._fields[:3] == ("matvec", "vecmat", "solve"), "JAX changed custom_linear_solve"
    assert sum(lengths) < len(eqn.invars)


READ = {
    "reduce_precision": (lambda x: lax.reduce_precision(x, 8, 7), ()),
    "cumprod": (lambda x: lax.cumprod(x), ("axis", "reverse")),
    "dot_general": (
        lambda x: W @ x,
        ("preferred_element_type", "dimension_numbers", "precision"),
    ),
    "slice": (lambda x: x[:1], ("start_indices", "limit_indices", "strides")),
    "concatenate": (lambda x: jnp.concatenate([x, x]), ("dimension",)),
    "pad": (lambda x: lax.pad(x, jnp.float32(0), [(1, 1, 0)]), ("padding_config",)),
    "split": (lambda x: lax.split(x, (1, 2)), ("axis", "sizes")),
    "squeeze": (lambda x: lax.squeeze(x[None], [0]), ("dimensions",)),
    "reshape": (lambda x: x.reshape(1, -1), ("sharding",)),
    "gather": (lambda x: x[jnp.array([0, 0])], ("dimension_numbers", "slice_sizes", "fill_value")),
    "fft": (
        lambda x: lax.fft_p.bind(x, fft_type=lax.FftType.RFFT, fft_lengths=(3,)),
        ("fft_lengths",),
    ),
    "approx_top_k": (lambda x: lax.approx_max_k(x, 1)[0], ("reduction_dimension",)),
    "reduce_window_max": (
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (1,), "VALID"),
        ("window_dimensions", "window_strides", "window_dilation", "base_dilation", "padding"),
    ),
    "ragged_dot_general": (
        lambda x: lax.ragged_dot(x[None], W[None], jnp.array([1])),
        ("preferred_element_type",),
    ),
    "conv_general_dilated": (
        lambda x: lax.conv(x[None, None], jnp.ones((1, 1, 2)), (1,), "SAME"),
        (
            "preferred_element_type",
            "dimension_numbers",
            "feature_group_count",
            "batch_group_count",
            "padding",
            "lhs_dilation",
            "rhs_dilation",
        ),
    ),
    "transpose": (lambda x: jnp.outer(x, x).T, ("permutation",)),
    "broadcast_in_dim": (lambda x: jnp.broadcast_to(x, (2, *x.shape)), ("broadcast_dimensions",)),
    "reduce_prod": (lambda x: jnp.prod(x), ("axes",)),
    "jit": (lambda x: jax.jit(lambda y: y + 1)(x), ("name",)),  # a region is a call with a name
    "while": (
        lambda x: lax.while_loop(lambda x: x.sum() < 9, lambda x: x + 1, x),
        ("body_nconsts", "cond_nconsts"),
    ),
    "integer_pow": (lambda x: x**-1, ("y",)),
    "name": (lambda x: relprop.named(x, "x"), ("name",)),
    "tile": (lambda x: lax.tile(x, (2,)), ("reps",)),
    "sort": (lambda x: lax.sort(x), ("dimension", "num_keys")),
    "triangular_solve": (
        lambda x: lax.linalg.triangular_solve(W, x[:, None], left_side=True, lower=True),
        ("left_side", "lower", "transpose_a", "unit_diagonal"),
    ),
    "custom_linear_solve": (
        lambda x: lax.custom_linear_solve(lambda y: W @ y, x, lambda _, b: b, symmetric=True),
        ("jaxprs",),
    ),
}


@pytest.mark.parametrize("name", READ)
def test_parameters_that_are_read(name):
    f, keys = READ[name]
    eqn = the_equation(f, X, name=name)
    missing = [key for key in keys if key not in eqn.params]
    assert missing == [], f"JAX changed the parameters of {name}: {sorted(eqn.params)}"


def test_every_param_that_the_source_reads_is_in_a_test():
    parts = [
        SOURCE / part
        for part in ("_compat.py", "_core", "propagators", "reading", "recognise", "anatomy")
    ]
    files = [path for path in FILES if any(path.is_relative_to(part) for part in parts)]
    text = "\n".join(path.read_text() for path in files)
    read = set(re.findall(r'params\[["\'](\w+)["\']\]', text))
    read |= set(re.findall(r'params\.get\(["\'](\w+)["\']', text))
    tested = {key for _, keys in READ.values() for key in keys}
    tested |= {"num_consts", "num_carry", "ft_in", "length", "reverse", "unroll"}  # scan
    tested |= {"prevent_cse", "policy", "const_lengths", "call_jaxpr"}
    # Of shard_map, whose models in tests/sharding would not run without them.
    tested |= {"mesh", "in_specs", "out_specs", "check_vma", "newly_manual_axes"}
    assert read <= tested
    assert {"length", "preferred_element_type"} <= read


def test_softmax_by_its_name():
    with jax.softmax_custom_jvp(True):
        eqn = the_equation(lambda x: jax.nn.softmax(x), X, name="custom_jvp_call")
    name = _compat.function_name(eqn.params["call_jaxpr"])
    assert name == "_softmax", f"JAX changed the name of its softmax: {name!r}"


def test_softmax_is_recognised_either_way():
    def f(x):
        return jax.nn.softmax(x)[0]

    plans = []
    for flag in (True, False):
        with jax.softmax_custom_jvp(flag):
            plan = relprop.inspect(f, relprop.rules.Epsilon())(X)
            plans.append(
                ([op.structure for op in plan], relprop.relevance(f, relprop.rules.Epsilon())(X))
            )
    assert plans[0][0] == plans[1][0]
    assert plans[0][0][0] == "softmax"
    assert jnp.allclose(plans[0][1], plans[1][1], atol=1e-6)


MODELS = {
    "softmax": (lambda x: jax.nn.softmax(x), {"exp", "reduce_sum", "div", "stop_gradient"}),
    "relu": (lambda x: jax.nn.relu(x), {"custom_jvp_call"}),
    "gelu": (lambda x: jax.nn.gelu(x), {"tanh", "mul", "add"}),
    "gelu_exact": (lambda x: jax.nn.gelu(x, approximate=False), {"erfc", "mul"}),
    "mean": (lambda x: jnp.mean(x), {"reduce_sum", "div"}),
    "max_pool": (
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (1,), "VALID"),
        {"reduce_window_max"},
    ),
    "sum_pool": (
        lambda x: lax.reduce_window(x, 0.0, lax.add, (2,), (1,), "VALID"),
        {"reduce_window_sum"},
    ),
    "normalise": (lambda x: x * lax.rsqrt(jnp.mean(x**2)), {"rsqrt", "reduce_sum", "mul"}),
    "fori_loop": (lambda x: lax.fori_loop(0, 2, lambda i, c: c * 2.0, x), {"scan"}),
    "dynamic_loop": (lambda x: lax.fori_loop(0, jnp.int32(2), lambda i, c: c * 2.0, x), {"while"}),
    "stop_gradient": (lambda x: lax.stop_gradient(x) * x, {"stop_gradient"}),
    "scatter_add": (lambda x: x.at[jnp.array([0])].add(1.0), {"scatter-add"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_models_are_made_of(name):
    f, expected = MODELS[name]
    found = {eqn.primitive.name for eqn in equations(f, X)}
    assert expected <= found, f"JAX changed what {name} traces to: {sorted(found)}"


def test_equations_say_where_they_come_from():
    def f(x):
        with jax.named_scope("outer"), jax.named_scope("inner"):
            return jnp.sin(x)

    eqn = the_equation(f, X, name="sin")
    assert _compat.scope_of(eqn) == "outer/inner", "JAX changed its name stack"
    line = f.__code__.co_firstlineno + 2
    assert f"test_contract.py:{line}" in _compat.source_of(eqn), "JAX changed its source info"


def test_equations_carry_their_context():
    eqn = the_equation(jnp.sin, X, name="sin")
    assert hasattr(eqn.ctx, "manager"), "JAX changed the context of equations"


def test_context_survives_evaluation_again():
    from jax.experimental.xla_metadata import set_xla_metadata

    def f(x):
        with set_xla_metadata(relprop_test="here"):
            y = jnp.sin(x)
        return jnp.sum(y)

    def lowered(g):
        return jax.jit(g).lower(X).as_text()

    assert 'relprop_test = "here"' in lowered(f), "JAX changed how metadata is written"
    assert 'relprop_test = "here"' in lowered(
        relprop.value_and_relevance(f, relprop.rules.Epsilon())
    )


def test_primitives_that_the_table_names_exist_or_are_known_not_to():
    names = relprop.propagators.registered()
    for essential in (
        "dot_general",
        "conv_general_dilated",
        "scan",
        "cond",
        "jit",
        "custom_jvp_call",
        "custom_vjp_call",
        "remat2",
        "while",
        "stop_gradient",
        "scatter-add",
    ):
        assert essential in names, f"JAX renamed {essential}"
