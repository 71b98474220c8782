"""Explanations of text by unmodified models of transformers, from random configurations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import tokens
from relprop.tokens import AtPosition, ClassTarget, Continuation, NextToken

pytestmark = [
    pytest.mark.frameworks,
    # transformers and torchax warn about settings of other models and of torch itself.
    pytest.mark.filterwarnings("ignore"),
]
torch = pytest.importorskip("torch", reason="needs the extra torch")
transformers = pytest.importorskip("transformers", reason="needs transformers")

SIZES = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "pad_token_id": 1,
}
GPT2 = {"vocab_size": 300, "n_embd": 16, "n_layer": 1, "n_head": 2, "pad_token_id": 1}
TEXT = [3, 4, 5, 7]
OTHER = [6, 8]


def module(name, **options):
    kind = getattr(transformers, name)
    sizes = GPT2 if "GPT2" in name else SIZES
    torch.manual_seed(0)
    # Larger weights than those of training's start, for attention that depends on the tokens.
    config = kind.config_class(**sizes, initializer_range=0.3, **options)
    return kind(config).eval()


@pytest.fixture(scope="module")
def llama():
    return tokens.from_torch(module("LlamaForCausalLM"))


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * float(np.abs(b).max()))


def by_hand(module, embeddings, ids, entry):
    fn, params = relprop.interop.from_torch(module)

    def score(embeds):
        return fn(params, inputs_embeds=embeds)["logits"][0][entry]

    explain = jax.jit(relprop.value_and_relevance(score, relprop.presets.attn_lrp()))
    value, found = explain(fn_of_ids(embeddings, ids))
    return value, found[0].sum(-1)


def fn_of_ids(embeddings, ids):
    return jnp.asarray(embeddings(torch.tensor([ids])).detach().numpy())


@pytest.mark.parametrize(
    ("name", "target", "entry"),
    [
        ("LlamaForCausalLM", NextToken(9), (-1, 9)),
        ("GPT2LMHeadModel", NextToken(9, position=2), (2, 9)),
        ("BertForMaskedLM", AtPosition(1, 9), (1, 9)),
        ("BertForSequenceClassification", ClassTarget(1), (1,)),
    ],
)
def test_relevance_is_that_of_inputs_embeds(name, target, entry):
    torch_module = module(name)
    result = tokens.explain(tokens.from_torch(torch_module), TEXT, target)
    value, expected = by_hand(torch_module, torch_module.get_input_embeddings(), TEXT, entry)
    close(result.relevance, expected)
    close(result.score, value)


@pytest.mark.parametrize(
    "name",
    [
        "LlamaForCausalLM",
        # Takes the last token that is no padding, which it finds by its id.
        "LlamaForSequenceClassification",
        # Attends in both directions.
        "BertForSequenceClassification",
    ],
)
def test_padded_batch_is_each_text_alone(name):
    model = tokens.from_torch(module(name))
    target = ClassTarget(1) if "Sequence" in name else NextToken(9)
    pad = model.pad_id
    ids, mask = [TEXT, [pad, pad, *OTHER]], [[1, 1, 1, 1], [0, 0, 1, 1]]
    result = tokens.explain(model, ids, target, mask=mask)
    close(result[0].relevance, tokens.explain(model, TEXT, target).relevance)
    close(result[1].relevance[2:], tokens.explain(model, OTHER, target).relevance)
    np.testing.assert_array_equal(result[1].relevance[:2], 0.0)


def test_continuation_is_what_torch_generates(llama):
    torch_module = module("LlamaForCausalLM")
    ids = torch.tensor([TEXT])
    with torch.no_grad():
        for _ in range(2):
            ids = torch.cat([ids, torch_module(ids).logits[:, -1:].argmax(-1)], 1)
    result = tokens.explain(llama, TEXT, Continuation(length=2))
    np.testing.assert_array_equal(result.ids, ids[0])
    alone = tokens.explain(llama, ids[0, :5].tolist(), NextToken(int(ids[0, 5])))
    close(result[1].relevance[:5], alone.relevance)


def test_layers_inside(llama):
    result = tokens.explain(llama, TEXT, NextToken(9), places="model/layers/*")
    assert set(result.inside) == {"model/layers/0"}
    assert result.inside["model/layers/0"].relevance.shape == (1, 4, 16)


def test_the_module_stays_as_it_is():
    torch_module = module("GPT2LMHeadModel")
    before = {k: v.clone() for k, v in torch_module.state_dict().items()}
    kind, forward = type(torch_module), torch_module.forward.__func__
    tokens.explain(tokens.from_torch(torch_module), OTHER, NextToken(9))
    assert type(torch_module) is kind and torch_module.forward.__func__ is forward
    assert not torch_module.transformer.wte._forward_hooks
    after = torch_module.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


class Bag(torch.nn.Module):
    """No model of transformers: no mask, no named outputs."""

    def __init__(self, tables=1):
        super().__init__()
        self.tables = torch.nn.ModuleList(torch.nn.Embedding(20, 4) for _ in range(tables))
        self.out = torch.nn.Linear(4, 3)

    def forward(self, ids):
        return self.out(torch.relu(self.tables[0](ids)).sum(1))


def test_any_module_that_begins_with_an_embedding():
    bag = Bag().eval()
    result = tokens.explain(tokens.from_torch(bag), TEXT, ClassTarget(2))
    expected = torch.relu(bag.tables[0].weight[TEXT]) * bag.out.weight[2]
    close(result.relevance, expected.sum(-1).detach().numpy())


def test_which_embedding():
    with pytest.raises(relprop.InputError, match=r"tables are tables\.0, tables\.1"):
        tokens.from_torch(Bag(tables=2).eval())
    named = tokens.from_torch(Bag(tables=2).eval(), embedding="tables.0")
    assert tokens.explain(named, TEXT, ClassTarget(2)).relevance.shape == (4,)
    unused = tokens.from_torch(Bag(tables=2).eval(), embedding="tables.1")
    with pytest.raises(relprop.InputError, match=r"does not call 'tables\.1'"):
        tokens.explain(unused, TEXT, ClassTarget(2))


def test_refused():
    with pytest.raises(relprop.InputError, match="training mode"):
        tokens.from_torch(module("GPT2LMHeadModel").train())
    with pytest.raises(relprop.InputError, match="no head over the vocabulary"):
        tokens.from_torch(
            transformers.T5Model(
                transformers.T5Config(
                    **{"vocab_size": 20, "d_model": 8, "d_ff": 8, "num_layers": 1, "num_heads": 1}
                )
            ).eval()
        )
    with pytest.raises(relprop.InputError, match="no logits"):
        tokens.explain(tokens.from_torch(module("BertModel")), TEXT, ClassTarget(0))


SENTENCE = "the cats sat naïvely, the cat sits"


def saved_tokenizer(folder, kind, sentence=SENTENCE):
    """A tokenizer of subwords, trained on one sentence; its folder holds `tokenizer.json` only."""
    import tokenizers as library

    special = ["<s>", "<pad>", "<unk>"]
    if kind == "bytes":
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        alphabet = library.pre_tokenizers.ByteLevel.alphabet()
        trainer = library.trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=alphabet
        )
    elif kind == "wordpiece":
        tokenizer = library.Tokenizer(library.models.WordPiece(unk_token="<unk>"))
        tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
        trainer = library.trainers.WordPieceTrainer(vocab_size=40, special_tokens=special)
    else:
        tokenizer = library.Tokenizer(library.models.Unigram())
        tokenizer.pre_tokenizer = library.pre_tokenizers.Metaspace()
        tokenizer.decoder = library.decoders.Metaspace()
        trainer = library.trainers.UnigramTrainer(
            vocab_size=40, special_tokens=special, unk_token="<unk>"
        )
    tokenizer.train_from_iterator([sentence] * 4, trainer)
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("kind", ["bytes", "wordpiece", "unigram"])
def test_tokens_are_shown_as_the_words_they_are(llama, kind, tmp_path):
    model = tokens.from_torch(module("LlamaForCausalLM"), saved_tokenizer(tmp_path, kind))
    result = tokens.explain(model, SENTENCE, NextToken(9), skip_special=True)
    shown = [part for part, on in zip(result.tokens, result.shown, strict=True) if on]
    expected = "the cats sat naïvely , the cat sits" if kind == "wordpiece" else SENTENCE
    assert "".join(shown).strip() == expected
    assert result.tokens[0] == "<s>"
    assert len(shown) == len(result.tokens) - 1
    assert model.pad_id == 1


def test_a_folder_on_disk(llama, tmp_path):
    module("LlamaForCausalLM").save_pretrained(tmp_path)
    saved_tokenizer(tmp_path, "bytes")
    model = tokens.from_pretrained(tmp_path)
    result = tokens.explain(model, ["the cat", "the cats sat"], Continuation(" sat"))
    assert result.target.shape[1] == len(
        model.tokenizer(" sat", add_special_tokens=False).input_ids
    )
    close(
        tokens.explain(model, TEXT, NextToken(9)).relevance,
        tokens.explain(llama, TEXT, NextToken(9)).relevance,
    )


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(relprop.InputError, match=r"no config\.json"):
        tokens.from_pretrained(tmp_path)
    with pytest.raises(relprop.InputError, match=r"no tokenizer\.json"):
        tokens.from_torch(module("LlamaForCausalLM"), tmp_path)
