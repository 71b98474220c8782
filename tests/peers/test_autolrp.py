"""autoLRP itself, on its own rules and random networks (`pip install -e '.[test,peers]'`).

Its contrasts are defined otherwise than those of Gu et al., which `pairs.contrastive` has: other
classes are seeded by the squares of their scores, and both ways scaled to a sum of one.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import pairs
from relprop.interop import from_torch
from relprop.rules import Epsilon

autolrp = pytest.importorskip("autolrp", reason="autoLRP comes with the extra `peers`")
torch = pytest.importorskip("torch", reason="PyTorch comes with the extra `torch`")

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.usefixtures("x64"),
    pytest.mark.filterwarnings("ignore"),
]
EPSILON = 1e-11


# Without biases: in a layer before others theirs have another share than the epsilon rule's
# definition gives them (Bach et al. 2015).
def mlp():
    return torch.nn.Sequential(
        torch.nn.Linear(6, 9, bias=False), torch.nn.ReLU(), torch.nn.Linear(9, 7, bias=False),
        torch.nn.ReLU(), torch.nn.Linear(7, 5, bias=False),
    ), (6,)  # fmt: skip


def cnn():
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False), torch.nn.ReLU(),
        torch.nn.Conv2d(4, 3, 2, bias=False), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(12, 5, bias=False),
    ), (2, 6, 6)  # fmt: skip


@pytest.fixture(params=[mlp, cnn], ids=lambda make: make.__name__)
def network(request):
    """A network, the same as a function of one sample, and two samples."""
    torch.manual_seed(0)
    module, shape = request.param()
    module = module.double().eval()
    samples = torch.randn(2, 1, *shape, dtype=torch.float64)
    fn, params = from_torch(module)
    return module, lambda x: fn(params, x[None])[0], samples


def close(got, wanted):
    wanted = np.asarray(wanted.detach())
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(np.asarray(got).reshape(wanted.shape), wanted, 0, 1e-5 * scale)


def ours(sample):
    return jnp.asarray(sample[0].numpy())


def test_first_order(network):
    module, f, (x, _) = network
    wrapped = autolrp.tensor(x)
    score = module(wrapped)[0, 1]
    score.lrp()  # begins with 1 at the score
    wanted = wrapped.relevance * score.item()
    close(relprop.relevance(lambda x: f(x)[1], Epsilon(EPSILON))(ours(x)), wanted)


def test_similarities_by_pairs(network):
    module, g, (x, y) = network
    wanted = autolrp.bilrp(module, x, y)
    close(pairs.bilrp(g, Epsilon(EPSILON))(ours(x), ours(y)), wanted)
