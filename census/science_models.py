"""Graphs, symmetries, flows and differential equations, in JAX and in PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from census.entry import Entry, Model, counts
from census.torch_modules import from_module, randomised
from census.trees import features, perturbed

WIDTH = 8
NODES = 5
SENDERS = np.array([0, 1, 2, 3, 4, 0, 2, 1])
RECEIVERS = np.array([1, 2, 3, 4, 0, 2, 0, 3])


def entries() -> Iterator[Entry]:
    """All of them."""
    yield from graphs_in_jax()
    yield from graphs_in_torch()
    yield from symmetries()
    yield from flows()
    yield from equations()


# Graphs.


def graphs_in_jax() -> Iterator[Entry]:
    """Networks of jraph; explained are the nodes."""
    # MLPs with one hidden layer for edges, nodes and the whole.
    yield Entry("graph_network", "jraph", functools.partial(jraph_model, network, counts(0, 0, 3)))
    yield Entry(
        "interaction_network",
        "jraph",
        functools.partial(jraph_model, interaction, counts(0, 0, 2)),
    )
    # The degrees are constant; a ReLU between the layers.
    yield Entry("gcn", "jraph", functools.partial(jraph_model, convolutions, counts(0, 0, 1)))
    # Softmax over those that send to a node; a leaky ReLU in its logits, a ReLU between the layers.
    yield Entry("gat", "jraph", functools.partial(jraph_model, looks, counts(2, 0, 3)))


def jraph_model(forward: Callable[..., Any], expected: Mapping[str, int]) -> Model:
    """A function of ``(params, graph)`` that returns nodes."""
    import jraph

    keys = iter(jax.random.split(jax.random.key(0), 32))
    params = {
        name: jax.random.normal(next(keys), shape) / np.sqrt(shape[0])
        for name, shape in {
            **{f"{part}{i}": (WIDTH, WIDTH) for part in "qw" for i in range(3)},
            **{
                f"{part}{i}": (3 * WIDTH + WIDTH * (i == 0), WIDTH)
                for part in "env"
                for i in (0, 1)
            },
            **{f"look{i}": (2 * WIDTH, 1) for i in range(2)},
        }.items()
    }

    def function(params: Any, nodes: jax.Array) -> jax.Array:
        graph = jraph.GraphsTuple(
            nodes=nodes,
            edges=features(len(SENDERS), WIDTH),
            senders=jnp.asarray(SENDERS),
            receivers=jnp.asarray(RECEIVERS),
            globals=jnp.ones((1, WIDTH)),
            n_node=jnp.array([NODES]),
            n_edge=jnp.array([len(SENDERS)]),
        )
        return forward(jraph, params, graph)

    return Model(function, params, features(NODES, WIDTH), expected=expected)


def network(jraph: Any, params: Any, graph: Any) -> jax.Array:
    """Edges, nodes and the whole, each by an MLP of all that it sees."""

    def mlp(part: str) -> Callable[..., jax.Array]:
        def update(*parts: jax.Array) -> jax.Array:
            x = jnp.concatenate(parts, axis=-1)
            first = params[f"{part}0"][: x.shape[-1]]
            return jax.nn.silu(x @ first) @ params["w0"]

        return update

    return jraph.GraphNetwork(mlp("e"), mlp("n"), mlp("v"))(graph).globals


def interaction(jraph: Any, params: Any, graph: Any) -> jax.Array:
    """Edges from both ends, nodes from what they receive."""

    def edges(*parts: jax.Array) -> jax.Array:
        return jnp.tanh(jnp.concatenate(parts, axis=-1) @ params["e1"])

    def nodes(*parts: jax.Array) -> jax.Array:
        x = jnp.concatenate(parts, axis=-1)
        return jnp.tanh(x @ params["n1"][: x.shape[-1]])

    return jraph.InteractionNetwork(edges, nodes)(graph).nodes


def convolutions(jraph: Any, params: Any, graph: Any) -> jax.Array:
    """Two graph convolutions with symmetric normalisation."""
    for i in range(2):
        layer = jraph.GraphConvolution(
            lambda n, i=i: n @ params[f"w{i}"], add_self_edges=True, symmetric_normalization=True
        )
        graph = layer(graph)
        if i == 0:
            graph = graph._replace(nodes=jax.nn.relu(graph.nodes))
    return graph.nodes


def looks(jraph: Any, params: Any, graph: Any) -> jax.Array:
    """Two layers of graph attention."""
    for i in range(2):

        def logits(sent: jax.Array, received: jax.Array, edges: Any, i: int = i) -> jax.Array:
            both = jnp.concatenate([sent, received], axis=-1)
            return jax.nn.leaky_relu(both @ params[f"look{i}"])

        layer = jraph.GAT(lambda n, i=i: n @ params[f"w{i}"], logits, lambda n: n)
        graph = layer(graph)
        if i == 0:
            graph = graph._replace(nodes=jax.nn.relu(graph.nodes))
    return graph.nodes


def graphs_in_torch() -> Iterator[Entry]:
    """Networks of PyTorch Geometric; explained are the nodes."""
    plain = counts(activation=1)  # Between two layers.
    yield pyg("GCN", plain)
    yield pyg("GraphSAGE", plain)
    # An MLP in each layer, whose batch norms are constant.
    yield pyg("GIN", counts(activation=1 + 2))
    # Softmax over those that send to a node; a leaky ReLU in its logits.
    yield pyg("GAT", counts(attention=2, activation=1 + 2), heads=2)
    # Messages of both ends by an MLP; the largest counts.
    yield pyg("EdgeCNN", counts(activation=1 + 2))


def pyg(name: str, expected: Mapping[str, int], **settings: Any) -> Entry:
    """A basic model of two layers."""
    return Entry(name, "pyg", functools.partial(pyg_model, name, expected, settings))


def pyg_model(name: str, expected: Mapping[str, int], settings: Mapping[str, Any]) -> Model:
    """On the graph of the others."""
    import torch_geometric.nn.models

    build = getattr(torch_geometric.nn.models, name)
    module = randomised(lambda: build(WIDTH, WIDTH, 2, 3, **settings))
    edges = np.stack([SENDERS, RECEIVERS])
    nodes = {"x": np.asarray(features(NODES, WIDTH))}
    return from_module(module, nodes, {"edge_index": edges}, expected=expected)


# Symmetries of space.


def symmetries() -> Iterator[Entry]:
    """Scalars and vectors that turn with the space."""
    yield Entry("tensor_products", "e3nn_jax", e3nn_in_jax)
    yield Entry("gate", "e3nn", e3nn_in_torch)


def e3nn_in_jax() -> Model:
    """A linear map, products with spherical harmonics of the edges, a gate, a linear map."""
    import e3nn_jax as e3nn
    from flax import linen as nn

    irreps = e3nn.Irreps("4x0e + 2x1o")
    positions = features(NODES, 3)
    edges = e3nn.spherical_harmonics(
        e3nn.Irreps("0e + 1o"), positions[RECEIVERS] - positions[SENDERS], normalize=True
    )

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            nodes = e3nn.flax.Linear(irreps)(e3nn.IrrepsArray(irreps, x))
            sent = e3nn.tensor_product(nodes[SENDERS], edges)
            nodes = e3nn.scatter_sum(sent, dst=RECEIVERS, output_size=NODES)
            nodes = e3nn.gate(e3nn.flax.Linear(e3nn.Irreps("6x0e + 2x1o"))(nodes))
            return e3nn.flax.Linear(e3nn.Irreps("3x0e + 1x1o"))(nodes).array

    x = features(NODES, irreps.dim)
    params = Layer().init(jax.random.key(0), x)
    # A GELU of the scalars and a sigmoid for the vectors, which it opens.
    expected = counts(activation=2, gate=1)
    return Model(Layer().apply, perturbed(params), x, expected=expected)


def e3nn_in_torch() -> Model:
    """A fully connected tensor product with constant directions, and a gate."""
    import e3nn
    import torch
    from e3nn import nn, o3

    e3nn.set_optimization_defaults(jit_script_fx=False)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Gate("4x0e", [torch.nn.functional.silu], "2x0e", [torch.sigmoid], "2x1o")
            self.first = o3.Linear("4x0e + 2x1o", "4x0e + 2x1o")
            self.product = o3.FullyConnectedTensorProduct(
                "4x0e + 2x1o", "0e + 1o", self.gate.irreps_in
            )
            self.last = o3.Linear(self.gate.irreps_out, "3x0e + 1x1o")
            self.register_buffer("directions", torch.linspace(-1.0, 1.0, NODES * 4).view(NODES, 4))

        def forward(self, x):
            return self.last(self.gate(self.product(self.first(x), self.directions)))

    x = np.asarray(features(NODES, 10))
    expected = counts(activation=2, gate=1)
    return from_module(randomised(Layer), x, expected=expected)


# Flows.


def flows() -> Iterator[Entry]:
    """Densities of flowjax; explained is the logarithm of the density of one point."""
    # The layers are a loop, whose body counts once: a ReLU of the network, the softplus that makes
    # scales, of which the determinant has the logarithm. The squares of the base.
    expected = counts(activation=2 + 1)
    yield Entry("coupling", "flowjax", functools.partial(flow, "coupling_flow", expected))
    yield Entry(
        "masked_autoregressive",
        "flowjax",
        functools.partial(flow, "masked_autoregressive_flow", expected),
    )


def flow(name: str, expected: Mapping[str, int]) -> Model:
    """A flow of two layers over four numbers."""
    import equinox as eqx
    import flowjax.flows
    import paramax
    from flowjax.distributions import Normal

    module = getattr(flowjax.flows, name)(
        jax.random.key(0),
        base_dist=Normal(jnp.zeros(4)),
        flow_layers=2,
        nn_width=8,
        nn_depth=1,
    )
    params, static = eqx.partition(module, eqx.is_inexact_array)

    def function(params: Any, x: jax.Array) -> jax.Array:
        return paramax.unwrap(eqx.combine(params, static)).log_prob(x)

    return Model(function, perturbed(params), features(4), target=(), expected=expected)


# Differential equations.


def equations() -> Iterator[Entry]:
    """Solutions of diffrax; explained is where they start, or what drives them."""
    # The field is an MLP with one tanh; steps are a loop, and so are the stages of Heun's method.
    for solver in ("Euler", "Heun"):
        build = functools.partial(solved, solver, counts(activation=1))
        yield Entry(f"neural_ode_{solver.lower()}", "diffrax", build)


def solved(solver: str, expected: Mapping[str, int]) -> Model:
    """A neural ordinary differential equation."""
    import diffrax

    weights = [features(6, 8) / 2, features(8, 6) / 2]

    def function(params: Any, start: jax.Array) -> jax.Array:
        def field(t: Any, y: jax.Array, args: Any) -> jax.Array:
            return jnp.tanh(y @ params[0]) @ params[1]

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            getattr(diffrax, solver)(),
            t0=0.0,
            t1=1.0,
            dt0=0.25,
            y0=start,
            adjoint=diffrax.DirectAdjoint(),
            max_steps=16,
        )
        return solution.ys[0]

    return Model(function, weights, features(6), expected=expected)
