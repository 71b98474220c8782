"""Propagators: what rules may know about each primitive. This table is all there is.

To teach relprop a primitive of your own, call `register` with one of the kinds below, or with a
`Propagator` of yours.
"""

from __future__ import annotations

from relprop._core.control import Branch, Call, Region, Remat, Scan, While
from relprop._core.operation import Propagator as Propagator
from relprop._core.registry import register as register
from relprop._core.registry import registered as registered
from relprop._core.sharded import Sharded
from relprop.propagators.general import (
    Callback,
    Conversion,
    Cut,
    Differentiable,
    Elementwise,
    Extremum,
    Inline,
    Irreversible,
    Kernel,
    Maximum,
    Mutation,
    Naming,
    Rearrangement,
    Replication,
    ScatteredMaximum,
    Selection,
    Structural,
    WindowMaximum,
)
from relprop.propagators.linear import (
    Addition,
    Contraction,
    Convolution,
    Dense,
    Division,
    Multiplication,
    Negation,
)
from relprop.propagators.product import Product, RunningLogSumExp, RunningProduct
from relprop.propagators.sparse import SparseContraction
from relprop.propagators.sums import DeviceSum, Linear, ScatteredSum, Sum, WindowSum
from relprop.propagators.systems import Homogeneous, Solve, TriangularSolve

__all__ = [
    "Addition",
    "Contraction",
    "Conversion",
    "Convolution",
    "Cut",
    "Dense",
    "Differentiable",
    "Division",
    "Elementwise",
    "Extremum",
    "Homogeneous",
    "Linear",
    "Maximum",
    "Multiplication",
    "Negation",
    "Propagator",
    "Rearrangement",
    "Selection",
    "Structural",
    "Sum",
    "register",
    "registered",
]

TABLE: tuple[tuple[Propagator, str], ...] = (
    (Inline(), "jit pjit closed_call core_call call eval_jaxpr custom_lin composite"),
    # Moving and copying.
    (
        Structural(),
        "reshape transpose broadcast_in_dim squeeze expand_dims rev slice dynamic_slice "
        "dynamic_update_slice gather concatenate pad split stack unstack tile "
        "optimization_barrier sharding_constraint reshard device_put "
        "mesh_cast all_gather all_gather_invariant ppermute all_to_all pbroadcast "
        "layout_constraint checkpoint_name",
    ),
    (Replication(), "pvary"),
    (Rearrangement(), "sort top_k approx_top_k scatter ragged_all_to_all bcoo_fromdense"),
    # Of Equinox: what its bounded loops, and so those of diffrax, write their results by.
    (Rearrangement(), "maybe_set select_if_vmap"),
    (Selection(), "select_n"),
    (Conversion(folds=True), "convert_element_type"),
    (Conversion(), "copy copy_p reduce_precision"),
    (Naming(), "name"),
    # Sums and other linear maps without weights.
    (Sum(), "reduce_sum"),
    (DeviceSum(), "psum psum_invariant reduce_scatter"),
    (WindowSum(), "cumsum reduce_window_sum"),
    (ScatteredSum(), "scatter-add"),
    (ScatteredSum(sign=-1), "scatter-sub"),
    (Negation(), "neg"),
    (Linear(), "real imag conj complex fft"),
    (Linear(operands=(0,)), "select_and_scatter_add"),
    (Linear(operands=(0,)), "bcoo_todense bcoo_extract bcoo_transpose bcoo_reduce_sum"),
    (Linear(operands=(3,)), "tridiagonal_solve"),
    # Arithmetic and layers.
    (Addition(), "add add_any add_jaxvals"),
    (Addition(sign=-1), "sub"),
    (Multiplication(), "mul"),
    (Division(), "div"),
    (Dense(), "dot_general"),
    (Contraction(), "ragged_dot_general ragged_dot"),
    (SparseContraction(), "bcoo_dot_general"),
    (Convolution(), "conv_general_dilated"),
    # The winner takes all.
    (Extremum(), "max"),
    (Extremum(extreme=-1), "min"),
    (Maximum(), "reduce_max cummax select_and_gather_add"),
    (Maximum(extreme=-1), "reduce_min cummin"),
    (WindowMaximum(), "reduce_window_max"),
    (WindowMaximum(extreme=-1), "reduce_window_min"),
    (ScatteredMaximum(), "scatter-max"),
    (ScatteredMaximum(extreme=-1), "scatter-min"),
    # Functions of each entry.
    (
        Elementwise(),
        "exp exp2 expm1 log log2 log1p logistic tanh tan sin cos sinh cosh asin acos atan "
        "asinh acosh atanh atan2 sqrt rsqrt cbrt square integer_pow pow abs erf erfc erf_inv "
        "lgamma digamma polygamma igamma igammac igamma_grad_a random_gamma_grad "
        "regularized_incomplete_beta zeta bessel_i0e bessel_i1e clamp rem nextafter polynomial "
        "one_minus_square",
    ),
    # Products and soft maxima along axes.
    (Product(), "reduce_prod"),
    (RunningProduct(), "cumprod"),
    (RunningLogSumExp(), "cumlogsumexp"),
    # Matrices: solutions of linear systems, roots.
    (TriangularSolve(), "triangular_solve"),
    (Solve(), "custom_linear_solve"),
    (Homogeneous((0.5,)), "cholesky"),
    # Bodies.
    (Inline(bodies=("call",)), "custom_vmap_call"),
    (Call(bodies=("call_jaxpr",)), "custom_jvp_call custom_vjp_call"),
    (Region(bodies=("jaxpr",)), "region"),
    (Remat(bodies=("jaxpr",)), "remat remat2 checkpoint"),
    (Branch(bodies=("branches",)), "cond"),
    (Scan(bodies=("jaxpr",)), "scan"),
    (Sharded(bodies=("jaxpr",)), "shard_map"),
    (While(bodies=("cond_jaxpr", "body_jaxpr")), "while"),
    # Known, differentiable, and without a rule that everybody would expect.
    (
        Differentiable(),
        "eigh eig svd qr lu linear_call reduce scatter-mul select_and_scatter",
    ),
    (Irreversible(), "reduce_window householder_product hessenberg schur tridiagonal pmax pmin"),
    (Kernel(), "pallas_call ffi_call tpu_custom_call"),
    (Callback(), "pure_callback io_callback"),
    # Refused: what passes here is seen by no analysis of values.
    (Mutation(), "new_ref mutable_array get swap addupdate freeze ref_addupdate"),
    # No relevance passes.
    (
        Cut(),
        "stop_gradient eq ne lt le gt ge eq_to lt_to le_to and or not xor is_finite sign floor "
        "ceil round argmax argmin reduce_and reduce_or reduce_xor iota population_count clz "
        "shift_left shift_right_logical shift_right_arithmetic bitcast_convert_type mulhi "
        "random_bits random_seed random_split random_fold_in random_wrap random_unwrap "
        "random_clone random_gamma threefry2x32 rng_bit_generator rng_uniform axis_index empty2 "
        "create_token after_all debug_callback",
    ),
)

for _kind, _names in TABLE:
    for _name in _names.split():
        register(_name, _kind)
