"""Models with an encoder and a decoder: the source and the prefix of each generated token."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import tokens
from relprop.rules import Gradient
from relprop.tokens import Continuation, NextToken, Span

from .models import Words

SOURCE, OTHER = [3, 4, 1, 5], [2, 6]
SIZE = 8


def _embed(params, source, prefix):
    return params["read"][source], params["written"][prefix]


def _logits(params, source, mask, prefix):
    """The prefix so far looks the source up."""
    so_far = jnp.cumsum(prefix, axis=1)
    scores = jnp.einsum("btd,bsd->bts", so_far, jnp.tanh(source))
    scores = jnp.where(mask[:, None], scores, -jnp.inf)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (weights @ source + jnp.tanh(so_far)) @ params["head"]


def _params():
    draw = np.random.default_rng(0).standard_normal
    shapes = {"read": (SIZE, 5), "written": (SIZE, 5), "head": (5, SIZE)}
    return {name: jnp.asarray(draw(shape), jnp.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def model():
    return tokens.from_encoder_decoder(
        _embed, _logits, _params(), Words(), start_id=0, vocabulary=SIZE, pad_id=7, positions=6
    )


def by_hand(source, prefix, target, rules):
    """The relevance of source and prefix, without any padding or mark."""
    params = _params()

    def score(source, prefix):
        return _logits(params, source, jnp.ones((1, source.shape[1]), bool), prefix)[0, -1, target]

    embeds = _embed(params, jnp.asarray([source]), jnp.asarray([prefix]))
    found = relprop.relevance(score, rules, argnums=(0, 1))(*embeds)
    return score(*embeds), np.concatenate([x[0].sum(-1) for x in found])


@pytest.mark.parametrize("rules", [Gradient(), relprop.presets.attn_lrp()], ids=["gradient", "lrp"])
def test_each_generated_token(model, rules):
    result = tokens.explain(model, SOURCE, Continuation(length=2), rules=rules)
    assert result.relevance.shape == (2, len(SOURCE) + 3)
    prefix = [0]
    for row, target in zip(result, result.target, strict=True):
        score, wanted = by_hand(SOURCE, prefix, target, rules)
        np.testing.assert_allclose(row.score, score, rtol=1e-5)
        np.testing.assert_allclose(row.relevance[: len(wanted)], wanted, rtol=1e-4, atol=1e-5)
        assert not row.relevance[len(wanted) :].any()
        prefix.append(int(target))


def test_batch_padding_and_prefix(model):
    """Sources of different lengths, padded on either side, and a prefix of one's own."""
    one = tokens.explain(model, OTHER, NextToken(3), rules=Gradient())
    ids = [[*SOURCE], [7, 7, *OTHER]]
    mask = [[1, 1, 1, 1], [0, 0, 1, 1]]
    both = tokens.explain(model, ids, NextToken(3), rules=Gradient(), mask=mask)
    np.testing.assert_allclose(both[1].relevance, [0, 0, *one.relevance], rtol=1e-4, atol=1e-6)
    own = tokens.explain(model, [*OTHER, model.start, 4], NextToken(3), rules=Gradient())
    _, wanted = by_hand(OTHER, [0, 4], 3, Gradient())
    np.testing.assert_allclose(own.relevance, wanted, rtol=1e-4, atol=1e-6)


def test_the_mark_is_shown_as_such(model):
    result = tokens.explain(model, "the cat", NextToken(3))
    assert result.tokens[-1].strip() == "<start>"
    assert result.ids.tolist() == [0, 1, 2, model.start]
    assert not tokens.explain(model, "the cat", NextToken(3), skip_special=True).shown[-1]


def test_a_span_of_the_prefix(model):
    text = [*SOURCE, model.start, 4, 6]
    result = tokens.explain(model, text, Span(within=(5, 7)), rules=Gradient())
    parts = [by_hand(SOURCE, [0, 4][:n], (4, 6)[n - 1], Gradient()) for n in (1, 2)]
    np.testing.assert_allclose(result.score, sum(score for score, _ in parts), rtol=1e-5)
    with pytest.raises(relprop.InputError, match="from position 5"):
        tokens.explain(model, text, Span(within=(3, 6)))


def test_refused(model):
    with pytest.raises(relprop.InputError, match="no logits"):
        tokens.explain(model, SOURCE, NextToken(3, position=1))
    with pytest.raises(relprop.InputError, match="stands once"):
        tokens.explain(model, [3, model.start, 4, model.start], NextToken(3))
    with pytest.raises(relprop.InputError, match="at least one token"):
        tokens.explain(model, [model.start, 4], NextToken(3))
    with pytest.raises(relprop.InputError, match="6 positions"):
        tokens.explain(model, [3] * 7, NextToken(3))
    # The mark counts as one of the prefix, and what is generated is no source.
    tokens.explain(model, [3] * 6, Continuation(length=2))
    with pytest.raises(relprop.InputError, match="`start_id` is one of"):
        tokens.from_encoder_decoder(_embed, _logits, _params(), start_id=SIZE, vocabulary=SIZE)


@pytest.mark.frameworks
@pytest.mark.filterwarnings("ignore")  # transformers and torchax warn about what is not ours
@pytest.mark.parametrize(
    "name", ["T5ForConditionalGeneration", "BartForConditionalGeneration", "MarianMTModel"]
)
def test_transformers(name):
    torch = pytest.importorskip("torch", reason="needs the extra torch")
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    sizes = {"vocab_size": 40, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8,
             "d_ff": 24, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
             "max_position_embeddings": 32, "scale_embedding": True, "decoder_start_token_id": 2,
             "pad_token_id": 39, "forced_eos_token_id": None, "init_std": 0.3,
             "initializer_factor": 3.0}  # fmt: skip
    kind = getattr(transformers, name)
    accepted = {*kind.config_class().to_dict(), "decoder_start_token_id"}
    torch.manual_seed(0)
    module = kind(kind.config_class(**{k: v for k, v in sizes.items() if k in accepted})).eval()
    # Feature by feature: a norm directly behind an embedding leaves no sum over them.
    result = tokens.explain(
        tokens.from_torch(module),
        SOURCE,
        Continuation(length=2),
        rules=Gradient(),
        per_dimension=True,
    )
    prefix = [2, int(result.target[0])]
    ids = torch.tensor([SOURCE]), torch.tensor([prefix])
    # What the tables return is where gradients are taken: some models scale it afterwards.
    embeds, tables = (
        [],
        [part.get_input_embeddings() for part in (module.get_encoder(), module.get_decoder())],
    )

    def keep(module, args, out):
        embeds.append(out.detach().requires_grad_())
        return embeds[-1]

    for table in {id(table): table for table in tables}.values():
        table.register_forward_hook(keep)
    logits = module(input_ids=ids[0], decoder_input_ids=ids[1]).logits[0]
    np.testing.assert_array_equal(result.target, logits.argmax(-1))
    logits[1].max().backward()
    np.testing.assert_allclose(result.score[1], logits[1].max().item(), rtol=1e-5)
    wanted = np.concatenate([x.grad[0].numpy() for x in embeds])
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(result.per_dimension[1][:6], wanted, rtol=0, atol=1e-5 * scale)
