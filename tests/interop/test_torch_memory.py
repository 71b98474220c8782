"""Memory of PyTorch modules: long attention in chunks, and weights that JAX takes over."""

from __future__ import annotations

import importlib.util
import weakref

import jax
import numpy as np
import pytest

import relprop

torch = pytest.importorskip("torch", reason="needs the extra torch")
if importlib.util.find_spec("torchax") is None:
    pytest.skip("needs the extra torch", allow_module_level=True)

pytestmark = [
    pytest.mark.frameworks,
    # torchax warns about torch itself.
    pytest.mark.filterwarnings("ignore"),
]
TOKENS = 13


def test_long_attention_of_torch(monkeypatch):
    relprop.interop.from_torch(torch.nn.Identity().eval())  # makes the import of torchax possible
    from relprop.interop import _torchax_environment as environment

    class Attention(torch.nn.Module):
        def forward(self, x):
            heads = x.reshape(1, TOKENS, 2, 2).transpose(1, 2)
            one = heads[:, :1]
            return torch.nn.functional.scaled_dot_product_attention(
                heads, one, one, is_causal=True, enable_gqa=True, scale=0.7
            )

    x = jax.random.normal(jax.random.key(0), (1, TOKENS, 4))
    expected = Attention()(torch.tensor(np.asarray(x)))
    for most in (environment.LONG, 0):
        monkeypatch.setattr(environment, "LONG", most)
        fn, params = relprop.interop.from_torch(Attention().eval())
        np.testing.assert_allclose(fn(params, x), expected, atol=1e-6)
        assert ("scan" in str(jax.make_jaxpr(fn)(params, x))) == (most == 0)


def test_weights_are_taken_over():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)).eval()
    module.append(torch.nn.Linear(4, 4).eval())
    module[2].weight = module[0].weight  # tied
    x = np.ones((2, 4), np.float32)
    expected = module(torch.tensor(x)).detach().numpy()
    weight = module[0].weight
    place = weight.data_ptr()
    fn, params = relprop.interop.from_torch(module, release=True)
    np.testing.assert_allclose(fn(params, x), expected, atol=1e-6)
    assert {t.device.type for t in module.state_dict().values()} == {"meta"}
    assert module[0].weight is module[2].weight
    if place % 64 == 0:  # as JAX needs it; then it is the same memory
        assert params["0.weight"].unsafe_buffer_pointer() == place
    with pytest.raises(relprop.InputError, match="meta device"):
        relprop.interop.from_torch(module)


def test_weights_are_let_go_one_by_one(monkeypatch):
    """Also where JAX needs a copy, at no time more than one of them is there twice."""
    relprop.interop.from_torch(torch.nn.Identity().eval())  # makes the import of torchax possible
    from relprop.interop import _torch_weights as weights

    module = torch.nn.Sequential(*(torch.nn.Linear(4, 4, bias=False) for _ in range(4))).eval()
    tensors = [weakref.ref(p) for p in module.parameters()]
    alive = []

    def copied(tensor):
        alive.append(sum(ref() is not None for ref in tensors))
        return jax.numpy.array(tensor.detach().numpy())

    monkeypatch.setattr(weights, "_is_shareable", lambda tensor: False)
    params = weights.taken_over(module, module.named_parameters(), copied)
    assert [*params] == ["0.weight", "1.weight", "2.weight", "3.weight"]
    assert alive == [4, 3, 2, 1]
