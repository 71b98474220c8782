"""Weights that are read from files one by one, into memory that JAX takes over."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the extra torch")
pytest.importorskip("transformers", reason="needs transformers")

import torch
from safetensors.torch import save_file

from relprop import tokens
from relprop.tokens._stored import stored
from tests.tokens.test_torch import module

pytestmark = [
    pytest.mark.frameworks,
    # transformers and torchax warn about settings of other models and of torch itself.
    pytest.mark.filterwarnings("ignore"),
]


def test_what_is_stored_is_what_was_saved(tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    numbers = torch.arange(-3.0, 3.0).reshape(2, 3)
    kinds = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.bool)
    saved = {str(kind): numbers.to(kind) for kind in kinds}
    saved |= {"number": torch.tensor(3.0), "empty": torch.zeros(0, 2), "again": torch.zeros(2)}
    save_file(saved, one)
    save_file({"again": torch.ones(2)}, two)
    found = stored([one, two])
    assert found.keys() == saved.keys()
    for name, tensor in (saved | {"again": torch.ones(2)}).items():
        read = found[name][...]
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert found[name].is_floating_point() == tensor.is_floating_point()
        assert torch.equal(read, tensor)
    assert torch.equal(found["torch.float32"][0, 1:], numbers[0, 1:])
    one.write_bytes(one.read_bytes()[:-8])
    with pytest.raises(OSError, match="ends in the middle of a tensor"):
        [tensor[...] for tensor in found.values()]


def test_a_folder_is_loaded_without_a_copy(tmp_path, monkeypatch):
    from relprop.interop import _torch_weights as weights

    module("LlamaForCausalLM").save_pretrained(tmp_path)
    places = []

    def shared(tensor):
        array = share(tensor)
        places.append((tensor.data_ptr(), array.unsafe_buffer_pointer()))
        return array

    share = weights._shared
    monkeypatch.setattr(weights, "_shared", shared)
    model = tokens.from_pretrained(tmp_path)
    assert len(places) >= sum("weight" in name for name in model.params)
    assert all(ours == theirs for ours, theirs in places)


def test_the_dtype_of_a_folder_that_names_none(tmp_path):
    """transformers then takes that of the first weight in the files."""
    module("LlamaForCausalLM").to(torch.bfloat16).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = file.read_text()
    file.write_text(config.replace('"dtype": "bfloat16"', '"dtype": null'))
    assert file.read_text() != config
    model = tokens.from_pretrained(tmp_path, dtype="auto")
    assert {str(x.dtype) for name, x in model.params.items() if "weight" in name} == {"bfloat16"}
