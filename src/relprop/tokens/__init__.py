"""Explanations of text: which tokens a language model's prediction comes from.

>>> import jax, jax.numpy as jnp
>>> from relprop import tokens
>>> params = {"table": jnp.eye(4), "head": jnp.arange(16.0).reshape(4, 4)}
>>> model = tokens.LanguageModel(
...     embed=lambda params, ids: params["table"][ids],
...     logits=lambda params, embeds, ids, mask: jnp.cumsum(embeds, 1) @ params["head"],
...     params=params,
... )
>>> result = tokens.explain(model, [3, 1, 2], tokens.NextToken(0))
>>> result.relevance.tolist()
[12.0, 4.0, 8.0]
"""

from relprop.tokens._chat import chat as chat
from relprop.tokens._encoder_decoder import from_encoder_decoder as from_encoder_decoder
from relprop.tokens._explain import explain as explain
from relprop.tokens._function import from_function as from_function
from relprop.tokens._hops import hops as hops
from relprop.tokens._image_torch import from_image_text as from_image_text
from relprop.tokens._images import ImageTextModel as ImageTextModel
from relprop.tokens._images import ImageTextRelevance as ImageTextRelevance
from relprop.tokens._images import explain_images as explain_images
from relprop.tokens._model import LanguageModel as LanguageModel
from relprop.tokens._predict import Prediction as Prediction
from relprop.tokens._predict import predict as predict
from relprop.tokens._result import TokenRelevance as TokenRelevance
from relprop.tokens._targets import AtPosition as AtPosition
from relprop.tokens._targets import ClassTarget as ClassTarget
from relprop.tokens._targets import Continuation as Continuation
from relprop.tokens._targets import NextToken as NextToken
from relprop.tokens._targets import Span as Span
from relprop.tokens._targets import Target as Target
from relprop.tokens._torch import from_pretrained as from_pretrained
from relprop.tokens._torch import from_torch as from_torch

__all__ = [
    "AtPosition",
    "ClassTarget",
    "Continuation",
    "ImageTextModel",
    "ImageTextRelevance",
    "LanguageModel",
    "NextToken",
    "Prediction",
    "Span",
    "Target",
    "TokenRelevance",
    "chat",
    "explain",
    "explain_images",
    "from_encoder_decoder",
    "from_function",
    "from_image_text",
    "from_pretrained",
    "from_torch",
    "hops",
    "predict",
]
