"""PyTorch modules as JAX functions: numbers, parameters, scopes, and what is refused."""

from __future__ import annotations

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import relprop
from relprop.interop import _torchax_names

pytestmark = [
    pytest.mark.frameworks,
    # transformers and torchax warn about settings of other models and of torch itself.
    pytest.mark.filterwarnings("ignore"),
]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 20}
FAMILIES = {
    "Bert": {**SIZES, "intermediate_size": 24},
    "Llama": {**SIZES, "intermediate_size": 24, "num_key_value_heads": 1},
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 20},
    "Albert": {**SIZES, "intermediate_size": 24, "embedding_size": 16},
    "Mixtral": {
        **SIZES,
        "intermediate_size": 24,
        "num_key_value_heads": 1,
        "num_local_experts": 4,
    },
}


def built(family):
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family])
    return getattr(transformers, f"{family}Model")(config).eval()


def embeddings(width=16):
    return np.random.default_rng(0).normal(size=(1, 5, width)).astype(np.float32)


def assert_same(module, *args, **kwargs):
    """Checks the JAX function against torch; returns both it and its parameters."""
    fn, params = relprop.interop.from_torch(module)
    with torch.no_grad():
        given = jax.tree.map(torch.as_tensor, (args, kwargs))
        expected = module(*given[0], **given[1])
    expected = getattr(expected, "last_hidden_state", expected).float().numpy()
    found = fn(params, *args, **kwargs)
    found = found["last_hidden_state"] if isinstance(found, dict) else found
    scale = np.abs(expected).max()
    assert np.abs(np.asarray(found, np.float32) - expected).max() < 2e-6 * scale
    return fn, params


def scopes(module, **inputs):
    """The scopes of all operations on the way."""
    fn, params = relprop.interop.from_torch(module)
    ((name, x),) = inputs.items()

    def score(x):
        return jax.tree.leaves(fn(params, **{name: x}))[0].sum()

    return [
        (op.structure, op.scope) for op in relprop.inspect(score, relprop.presets.attn_lrp())(x)
    ]


# Numbers.


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers(family):
    assert_same(built(family), inputs_embeds=embeddings())


def test_token_ids_of_any_library():
    module = built("Bert")
    fn, params = assert_same(module, input_ids=np.arange(5)[None])
    expected = fn(params, input_ids=jnp.arange(5)[None])["last_hidden_state"]
    found = fn(params, input_ids=torch.arange(5)[None])["last_hidden_state"]
    np.testing.assert_array_equal(found, expected)


def test_inputs_of_torch():
    fn, params = relprop.interop.from_torch(torch.nn.Linear(3, 2).eval())
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        given = torch.ones((1, 3), dtype=dtype, requires_grad=True)
        np.testing.assert_allclose(fn(params, given), fn(params, jnp.ones((1, 3))), rtol=1e-6)


def test_explained_token_ids_are_refused():
    fn, params = relprop.interop.from_torch(built("Bert"))
    ids = jnp.arange(5)[None]
    with pytest.raises(relprop.InputError, match="'input_ids' has dtype int32.*embeddings"):
        relprop.relevance(
            lambda input_ids: fn(params, input_ids=input_ids)["last_hidden_state"].sum(),
            relprop.presets.attn_lrp(),
        )(ids)


def test_ranks_and_dtypes_mix_as_in_torch():
    class Mixes(torch.nn.Module):
        def forward(self, x):
            return x + torch.ones(3) * torch.arange(3)

    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        assert_same(Mixes().eval(), np.ones((2, 3), np.float32))


def test_tensors_that_the_code_makes_or_keeps_to_itself():
    class Keeps(torch.nn.Module):
        kept = (torch.arange(3.0), torch.tensor(2.0))

        def forward(self, x):
            return (x * self.kept[0] + self.kept[1]) @ torch.ones(3, 3).triu()

    assert_same(Keeps().eval(), np.ones((2, 3), np.float32))


def test_jit_and_vmap():
    fn, params = relprop.interop.from_torch(torch.nn.Linear(3, 2).eval())
    x = jnp.ones((4, 3))
    mapped = jax.jit(jax.vmap(fn, in_axes=(None, 0)))(params, x)
    np.testing.assert_allclose(mapped, fn(params, x), rtol=1e-6)


# Parameters.


def test_tied_weights_are_one_parameter():
    import transformers

    module = transformers.GPT2LMHeadModel(transformers.GPT2Config(**FAMILIES["GPT2"])).eval()
    for frozen in (False, True):
        module.requires_grad_(not frozen)
        fn, params = relprop.interop.from_torch(module)
        assert "transformer.wte.weight" in params and "lm_head.weight" not in params
        x = embeddings()
        doubled = {**params, "transformer.wte.weight": 2 * params["transformer.wte.weight"]}
        found = fn(doubled, inputs_embeds=x)["logits"]
        np.testing.assert_allclose(found, 2 * fn(params, inputs_embeds=x)["logits"], rtol=1e-5)


def test_buffers_are_parameters():
    module = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 1), torch.nn.BatchNorm1d(3)).eval()
    torch.nn.init.uniform_(module[1].running_mean)
    torch.nn.init.uniform_(module[1].running_var, 1.0, 2.0)
    x = np.random.default_rng(0).normal(size=(1, 2, 5)).astype(np.float32)
    fn, params = assert_same(module, x)
    assert set(module.state_dict()) <= set(params)
    moved = fn({**params, "1.running_mean": params["1.running_mean"] + 1.0}, x)
    assert np.abs(moved - fn(params, x)).min() > 0.1


def test_tensors_that_are_not_registered():
    class Holds(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.arange(3.0)
            self.register_buffer("hidden", torch.ones(3), persistent=False)

        def forward(self, x):
            return x * self.table + self.hidden

    _, params = assert_same(torch.nn.Sequential(Holds()).eval(), np.ones((2, 3), np.float32))
    assert set(params) == {"0.table", "0.hidden"}


def test_half_precision():
    fn, params = relprop.interop.from_torch(built("Llama").bfloat16())
    assert params["norm.weight"].dtype == jnp.bfloat16
    x = jnp.asarray(embeddings(), jnp.bfloat16)
    exact = built("Llama")
    found = fn(params, inputs_embeds=x)["last_hidden_state"]
    assert found.dtype == jnp.bfloat16
    with torch.no_grad():
        expected = exact(inputs_embeds=torch.tensor(embeddings())).last_hidden_state.numpy()
    assert np.abs(np.asarray(found, np.float32) - expected).max() < 0.05 * np.abs(expected).max()


def test_missing_parameters_are_named():
    fn, params = relprop.interop.from_torch(torch.nn.Linear(3, 2).eval())
    del params["bias"]
    with pytest.raises(relprop.InputError, match="lacks 'bias' of Linear"):
        fn(params, jnp.ones((1, 3)))


# Scopes.


@pytest.mark.parametrize("family", ["Bert", "Llama", "GPT2"])
def test_layers_are_in_the_scope_of_their_path(family):
    module = built(family)
    linear = {"Linear", "Conv1D"}
    layers = {
        path.replace(".", "/")
        for path, submodule in module.named_modules()
        # The pooler of BERT is not on the way to the first output.
        if type(submodule).__name__ in linear and not path.startswith("pooler")
    }
    found = scopes(module, inputs_embeds=jnp.asarray(embeddings()))
    # What follows the path are torch's names of operations.
    below = {layer: [s for _, s in found if s.startswith(f"{layer}/")] for layer in layers}
    assert layers and all(below.values())
    dense = [scope for structure, scope in found if structure == "dense"]
    assert len(dense) == len(layers)
    assert all(any(scope.startswith(f"{layer}/") for layer in layers) for scope in dense)


def test_repeated_calls_have_scopes_of_their_own():
    found = scopes(built("Albert"), inputs_embeds=jnp.asarray(embeddings()))
    place = "encoder/albert_layer_groups/0{}/albert_layers/0/attention/query/"
    for repeat in ("", "#1"):
        prefix = place.format(repeat)
        assert sum(scope.startswith(prefix) for structure, scope in found if structure == "dense")
    assert not any("#2" in scope or "0#1/albert_layers/0#1" in scope for _, scope in found)


def test_a_module_called_by_another_than_its_owner():
    class Borrows(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.owner = torch.nn.ModuleDict({"layer": torch.nn.Linear(3, 3)})
            self.user = Uses()

        def forward(self, input):
            return self.user(input, self.owner["layer"])

    class Uses(torch.nn.Module):
        def forward(self, x, layer):
            return layer(x)

    ((_, scope), *_) = scopes(Borrows().eval(), input=jnp.ones((1, 3)))
    assert scope.startswith("user/owner/layer/")


def hooks(module):
    return [
        hook
        for m in module.modules()
        for table in (m._forward_hooks, m._forward_pre_hooks, m._forward_hooks_always_called)
        for hook in table.values()
    ]


def test_the_module_is_left_as_it_was():
    module = built("Bert")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    fn, params = relprop.interop.from_torch(module)
    jax.jit(fn)(params, inputs_embeds=embeddings())
    assert not hooks(module)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert "forward" not in vars(module)


def test_an_interrupted_run_leaves_no_scope_open():
    class Fails(torch.nn.Module):
        def forward(self, x):
            if x.shape[0] > 1:
                raise KeyboardInterrupt if x.shape[0] > 2 else ValueError
            return x + 1

    module = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(3, 3), Fails())).eval()
    fn, params = relprop.interop.from_torch(module)
    for rows, error in ((2, ValueError), (3, KeyboardInterrupt)):
        with pytest.raises(error):
            fn(params, jnp.ones((rows, 3)))
        assert not hooks(module)
        jaxpr = jax.make_jaxpr(lambda x: x + 1)(1.0)
        assert str(jaxpr.eqns[0].source_info.name_stack) == ""
    assert fn(params, jnp.ones((1, 3))).shape == (1, 3)


# The comparison with PyTorch.


class Off(torch.nn.Module):
    """What JAX computes is off: a detached tensor is a copy in torchax, and a view in PyTorch."""

    def forward(self, x):
        y = x.clone()
        y.detach().add_(1.0)
        return y


def off(*, check=True):
    """The first and the third layer are right; the fourth sees what is wrong."""
    module = torch.nn.Sequential(
        torch.nn.Linear(3, 4),
        torch.nn.Sequential(torch.nn.ReLU(), Off()),
        torch.nn.Linear(4, 2),
    )
    return relprop.interop.from_torch(module.eval(), check=check)


def test_another_function_is_refused_and_the_submodule_named():
    fn, params = off()
    x = np.ones((2, 3), np.float32)
    for _ in range(2):  # It is not forgotten.
        with pytest.raises(relprop.ForwardError) as caught:
            fn(params, x)
        message = str(caught.value)
        assert "Sequential computes something else" in message
        assert "'1.1', Off()" in message and "check=False" in message
        assert re.search(r"0\.\d+ of the largest entry", message)


def test_what_differs_may_be_no_submodule():
    fn, params = relprop.interop.from_torch(Off().eval())
    with pytest.raises(relprop.ForwardError, match="in its own forward method"):
        fn(params, np.ones((2, 3), np.float32))


def test_the_comparison_is_left_out_where_asked_and_where_there_are_no_numbers():
    x = np.ones((2, 3), np.float32)
    fn, params = off(check=False)
    assert fn(params, x).shape == (2, 2)
    fn, params = off()
    assert jax.jit(fn)(params, x).shape == (2, 2)
    relprop.relevance(lambda x: fn(params, x).sum(), relprop.presets.attn_lrp())(jnp.asarray(x))
    with pytest.raises(relprop.ForwardError):
        fn(params, x)


def test_the_comparison_is_made_once():
    class Counts(torch.nn.Module):
        calls = 0

        def forward(self, x):
            Counts.calls += 1
            return {"out": [x + 1.0, x > 0], "cache": object()}

    fn, params = relprop.interop.from_torch(Counts().eval())
    for expected in (2, 3, 4):
        found = fn(params, jnp.ones(3))
        assert Counts.calls == expected
    assert found["out"][0].tolist() == [2.0, 2.0, 2.0] and "cache" not in found


def test_parameters_of_ones_own_are_those_compared():
    fn, params = relprop.interop.from_torch(torch.nn.Linear(3, 2).eval())
    doubled = {name: 2 * value for name, value in params.items()}
    x = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_allclose(fn(doubled, x), 2 * fn(params, x), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_no_difference(dtype):
    module = torch.nn.Sequential(*(torch.nn.Linear(32, 32) for _ in range(4))).to(dtype).eval()
    fn, params = relprop.interop.from_torch(module)
    x = jax.random.normal(jax.random.key(0), (8, 32), str(dtype).removeprefix("torch."))
    assert fn(params, x).shape == (8, 32)


def test_what_is_random_is_refused():
    class Draws(torch.nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    fn, params = relprop.interop.from_torch(Draws().eval())
    with pytest.raises(relprop.ForwardError, match="something else each time"):
        fn(params, jnp.ones((2, 3)))


def test_a_module_put_into_training_mode_later_is_refused():
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout()).eval()
    fn, params = relprop.interop.from_torch(module)
    module.train()
    with pytest.raises(relprop.InputError, match="changed since: in training mode"):
        fn(params, jnp.ones((1, 3)))


def test_what_torch_cannot_run_is_told():
    class Only(torch.nn.Module):
        def forward(self, x):
            if x.device.type == "cpu":
                raise ValueError("not here")
            return x + 1.0

    fn, params = relprop.interop.from_torch(Only().eval())
    with pytest.warns(UserWarning, match="(?s)Only could not be compared.*ValueError: not here"):
        fn(params, jnp.ones(3))


# What torchax lacks.


def test_grouped_matrix_products():
    class Experts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(3, 8, 8))

        def forward(self, x, ends):
            return torch._grouped_mm(x, self.weight, offs=ends)

    x = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    fn, params = relprop.interop.from_torch(Experts().eval())
    found = fn(params, x, np.array([2, 2, 6], np.int32))  # The second expert has no rows.
    weight = np.asarray(params["weight"])
    np.testing.assert_allclose(
        found, np.concatenate([x[:2] @ weight[0], x[2:] @ weight[2]]), atol=1e-5
    )
    with pytest.raises(NotImplementedError, match=r"grouped matrix products.*\(3, 2, 8\)"):
        fn(params, x.reshape(3, 2, 8), np.array([2, 2, 2], np.int32))


def test_linear_by_keyword():
    class Named(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, x):
            return torch.nn.functional.linear(
                input=x, weight=self.layer.weight, bias=self.layer.bias
            )

    assert_same(Named().eval(), np.ones((4, 3), np.float32))


@pytest.mark.parametrize("dim", [0, 2, None])
def test_weight_norm(dim):
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(2, 3, 3), dim=dim)
    x = np.random.default_rng(0).normal(size=(1, 2, 5)).astype(np.float32)
    _, params = assert_same(torch.nn.Sequential(layer).eval(), x)
    assert "0.parametrizations.weight.original1" in params


def test_the_tables_of_torchax_stay_as_they_are():
    _torchax_names.restore_names()  # Without them torchax can't be imported.
    from torchax.ops import ops_registry

    before = dict(ops_registry.all_aten_ops), dict(ops_registry.all_torch_functions)
    relprop.interop.from_torch(torch.nn.Linear(3, 2).eval())
    assert before == (ops_registry.all_aten_ops, ops_registry.all_torch_functions)
    assert torch.ops.aten._grouped_mm not in ops_registry.all_aten_ops


def test_torchax_may_have_been_imported_in_vain():
    """torchax 0.0.13 alone fails with torch 2.13, and leaves parts of itself behind."""
    code = """if True:
        import contextlib, numpy, torch, relprop
        with contextlib.suppress(AttributeError):
            import torchax
        module = torch.nn.Linear(3, 2).eval()
        fn, params = relprop.interop.from_torch(module)
        print(fn(params, numpy.ones((1, 3), numpy.float32)).shape)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(1, 2)", done.stderr


# What is refused.


def test_training_mode_is_refused():
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout())
    with pytest.raises(relprop.InputError, match="training mode.*the module itself.*eval"):
        relprop.interop.from_torch(module)
    module.eval()
    module[1].train()
    with pytest.raises(relprop.InputError, match="training mode.*: '1'"):
        relprop.interop.from_torch(module)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (torch.float64, "float64 parameters.*'layer.weight'.*float()"),
        (torch.complex64, "complex parameters.*'layer.weight'.*real"),
        (torch.int8, "quantised parameters.*'layer.weight'.*Load"),
    ],
)
def test_dtypes_are_refused(dtype, words):
    module = torch.nn.Module()
    module.layer = torch.nn.Module()
    module.layer.weight = torch.nn.Parameter(torch.ones(2, dtype=dtype), requires_grad=False)
    with pytest.raises(relprop.InputError, match=words):
        relprop.interop.from_torch(module.eval())


def test_double_precision(x64):
    _, params = assert_same(torch.nn.Linear(3, 2).double().eval(), np.ones((1, 3)))
    assert params["weight"].dtype == jnp.float64


def test_parameters_without_values_are_refused():
    with pytest.raises(relprop.InputError, match="missing parameters: 'weight', 'bias'.*load"):
        relprop.interop.from_torch(torch.nn.Linear(3, 2, device="meta").eval())


def test_quantised_layers_are_refused():
    with pytest.raises(relprop.InputError, match="quantised layers: '0'"):
        relprop.interop.from_torch(torch.nn.Sequential(torch.ao.nn.quantized.Linear(3, 2)).eval())


def test_quantised_tensors_are_refused():
    module = torch.nn.Linear(3, 2).eval()
    module.register_buffer("table", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))
    with pytest.raises(relprop.InputError, match="quantised tensors: 'table'.*dequantize"):
        relprop.interop.from_torch(module)


class Whole(torch.nn.Module):
    """A layer whose weights, and with `dynamic` whose inputs, are whole numbers with scales."""

    def __init__(self, dynamic):
        super().__init__()
        weight = torch.randn(4, 8)
        self.dynamic = dynamic
        self.register_buffer("scale", weight.abs().amax(1) / 127)
        self.register_buffer("weight", (weight / self.scale[:, None]).round().to(torch.int8))

    def forward(self, x):
        if not self.dynamic:
            return x @ (self.weight.float() * self.scale[:, None]).T
        scale = x.abs().amax(-1, keepdim=True) / 127
        steps = (x / scale).round().to(torch.int8)
        return torch._int_mm(steps, self.weight.T).float() * scale * self.scale


@pytest.mark.parametrize("dynamic", [False, True])
def test_whole_numbers_with_scales(dynamic):
    x = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
    _, params = assert_same(Whole(dynamic).eval(), x)
    assert params["weight"].dtype == jnp.int8


def test_fake_quantisation():
    quantization = torch.ao.quantization
    module = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU()).train()
    module.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    quantization.prepare_qat(module, inplace=True)
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    module(torch.tensor(x))
    module.eval()
    fn, params = relprop.interop.from_torch(module)
    with pytest.raises(NotImplementedError, match="still observes.*\n?.*disable_observer"):
        fn(params, x)
    module.apply(quantization.disable_observer)
    assert_same(module, x)


def test_all_problems_are_told_at_once():
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout()).double()
    with pytest.raises(relprop.InputError, match="(?s)training mode.*float64.*'0.bias'"):
        relprop.interop.from_torch(module)


def test_the_channels_of_a_convolutional_network():
    """NCHW, as all of torch; no two axes are of one size."""
    parts = [
        torch.nn.Conv2d(3, 7, 3, padding=1),
        torch.nn.BatchNorm2d(7),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(7, 11, 3, padding=1),
        torch.nn.GroupNorm(1, 11),
        torch.nn.GELU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(11, 13),
    ]
    fn, params = relprop.interop.from_torch(torch.nn.Sequential(*parts).eval())
    x = jnp.zeros((2, 3, 8, 10))
    rules = relprop.presets.epsilon_plus()
    counts = {"1": 7, "2": 7, "3": 7, "4": 11, "5": 11, "6": 11, "7": 11, "9": 13}
    with jax.numpy_rank_promotion("allow"):
        for place, count in counts.items():
            found = relprop.concepts.channels(lambda x: fn(params, x)[0, 1], rules, place)
            assert jax.eval_shape(found, x).shape == (count,), place
