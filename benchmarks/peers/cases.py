"""The modules that are explained: VGGs and language models of Hugging Face, weights at random."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

LOW, HIGH = -3.0, 3.0
CLASS = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """A module to be explained.

    Attributes:
        name: with its sizes.
        build: gives the module and its input, a tensor.
        kind: image or text; a module for text takes `inputs_embeds`.
    """

    name: str
    build: Callable[[], tuple[Any, Any]]
    kind: str

    def score(self, module: Any, x: Any) -> Any:
        """The score of one class for each entry of the batch, of tensors."""
        if self.kind == "image":
            return module(x)[:, CLASS]
        return module(inputs_embeds=x, use_cache=False).logits[:, -1, CLASS]


def vgg_miniature():
    return _vgg((4, "M", 8, "M"), hidden=8, size=8, batch=2)


def vgg_small():
    return _vgg((32, 32, "M", 64, 64, "M", 128, 128, "M"), hidden=256, size=64, batch=4)


def vgg16():
    plan = (64, 64, "M", 128, 128, "M", *(256,) * 3, "M", *(512,) * 3, "M", *(512,) * 3, "M")
    return _vgg(plan, hidden=4096, size=224, batch=1, classes=1000)


def llama_miniature():
    return _llama(hidden_size=16, intermediate_size=32, num_hidden_layers=1, tokens=4)


def llama_small():
    return _llama(hidden_size=384, intermediate_size=1024, num_hidden_layers=6, tokens=128)


def gpt2_small():
    import transformers  # pyright: ignore[reportMissingImports]

    config = transformers.GPT2Config(
        vocab_size=4096, n_embd=384, n_layer=6, n_head=6, attn_implementation="eager"
    )
    return _text(transformers.GPT2LMHeadModel, config, 384, tokens=128)


MINIATURES = (
    Case("VGG-like, 2 convolutions, 2x3x8x8", vgg_miniature, "image"),
    Case("Llama, 1 layer of width 16, 1x4 tokens", llama_miniature, "text"),
)
CASES = (
    Case("VGG-like, 6 convolutions, 4x3x64x64", vgg_small, "image"),
    Case("VGG16, 1x3x224x224", vgg16, "image"),
    Case("Llama, 6 layers of width 384, 1x128 tokens", llama_small, "text"),
    Case("GPT-2, 6 layers of width 384, 1x128 tokens", gpt2_small, "text"),
)


def _vgg(plan, hidden: int, size: int, batch: int, classes: int = 10):
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    class Vgg(nn.Module):
        def __init__(self):
            super().__init__()
            layers, channels, side = [], 3, size
            for step in plan:
                if step == "M":
                    layers.append(nn.MaxPool2d(2))
                    side //= 2
                else:
                    layers += [nn.Conv2d(channels, step, 3, padding=1), nn.ReLU()]
                    channels = step
            self.features = nn.Sequential(*layers)
            self.classifier = nn.Sequential(
                nn.Linear(channels * side * side, hidden), nn.ReLU(),
                nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes),
            )  # fmt: skip

        def forward(self, x):
            # Captum refuses nn.Flatten.
            return self.classifier(self.features(x).flatten(1))

    torch.manual_seed(0)
    module = Vgg().eval()
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    return module, torch.randn(batch, 3, size, size).clamp(LOW, HIGH)


def _llama(hidden_size: int, tokens: int, **sizes: int):
    import transformers  # pyright: ignore[reportMissingImports]

    heads = {"num_attention_heads": 6, "num_key_value_heads": 3}
    if hidden_size % 6:
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(
        vocab_size=4096 if hidden_size > 64 else 32, hidden_size=hidden_size,
        attn_implementation="eager", **heads, **sizes,
    )  # fmt: skip
    return _text(transformers.LlamaForCausalLM, config, hidden_size, tokens)


def _text(model_class, config, width: int, tokens: int):
    import torch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    module = model_class(config).eval()
    return module, torch.randn(1, tokens, width)
