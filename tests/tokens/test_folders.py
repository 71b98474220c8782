"""Model folders that are damaged, or that would run code: each is refused, and says why."""

from __future__ import annotations

import json
import pickle
import re
import resource
import shutil
import warnings

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra torch")
pytest.importorskip("transformers", reason="needs transformers")
pytest.importorskip("typer", reason="needs the command line")

import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import relprop
from relprop import cli, tokens
from relprop.rules import Gradient
from tests.cli.values import VALUES
from tests.tokens.test_torch import module, saved_tokenizer

pytestmark = [
    pytest.mark.frameworks,
    # transformers and torchax warn about settings of other models and of torch itself.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module", params=["GPT2LMHeadModel", "LlamaForCausalLM"])
def saved(request, tmp_path_factory):
    return save(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def gpt2_saved(tmp_path_factory):
    return save("GPT2LMHeadModel", tmp_path_factory.mktemp("gpt2"))


def save(name, path):
    module(name).save_pretrained(path)
    saved_tokenizer(path, "bytes")
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}
    (path / "tokenizer_config.json").write_text(json.dumps(names))
    return path


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of a whole folder, to be damaged."""
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def gpt2(gpt2_saved, tmp_path):
    """The same of one model, for what does not depend on it."""
    return shutil.copytree(gpt2_saved, tmp_path / "model")


def run(folder, *args):
    """The command, with someone who answers yes to everything."""
    call = ["explain-text", "--model", str(folder), "--rules", "gradient", *args, "the cats"]
    return CliRunner().invoke(cli.app, call, input="yes\n" * 1000)


def assert_same(found, expected):
    """What was said, but for rounding: of some numbers there is nothing else, sign and all."""
    number = r"\s*[+-]?\d+\.?\d*(?:e[+-]\d+)?"
    texts = [re.sub(number, " 0", result.stdout) for result in (found, expected)]
    assert texts[0] == texts[1] and texts[0]
    one, other = (np.array(re.findall(number, r.stdout), float) for r in (found, expected))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def refused(result, *parts):
    assert result.exit_code == 2, result.output
    message = result.stderr.removeprefix("relprop: ")
    assert message != result.stderr and "Traceback" not in result.output
    for part in parts:
        assert part in message, message
    return message


def edited(file, **entries):
    found = json.loads(file.read_text())
    file.write_text(json.dumps(found | entries))


def weights(folder, change):
    """The weights of a folder after a change to the dict of tensors."""
    file = folder / "model.safetensors"
    found = change(load_file(file))
    save_file(found, file, {"format": "pt"})
    return found


def without(*names):
    return lambda found: {
        key: x for key, x in found.items() if not any(name in key for name in names)
    }


def test_a_whole_folder_is_explained(folder):
    first, second = run(folder), run(folder)
    assert first.exit_code == 0, first.output
    assert_same(first, second)


# Weights


def test_no_tensors_at_all(folder):
    weights(folder, lambda found: {})
    refused(run(folder), "model.safetensors holds no tensors")


def test_an_empty_file(folder):
    (folder / "model.safetensors").write_bytes(b"")
    refused(run(folder), "model.safetensors is damaged")


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_file(folder, kept):
    file = folder / "model.safetensors"
    held = file.read_bytes()
    file.write_bytes(held[: int(kept * len(held))])
    refused(run(folder), "model.safetensors is damaged", "copied to its end")


def test_a_missing_tensor(folder):
    name = "ln_f.bias" if "GPT2" in str(folder.parent) else "norm.weight"
    weights(folder, without("ln_f", "model.norm"))
    message = refused(run(folder), "are not those of the", "  missing, ", "random numbers")
    assert "norm.weight" in message or name in message


def test_a_renamed_tensor(folder):
    def change(found):
        name = next(key for key in found if "mlp" in key)
        return {key.replace(name, "renamed.weight"): x for key, x in found.items()}

    weights(folder, change)
    refused(run(folder), "  missing, 1: ", "mlp", "  without a use, 1: renamed.weight")


def test_the_embeddings_are_missing(folder):
    weights(folder, without("wte", "embed_tokens", "lm_head"))
    refused(run(folder), "  missing, ")


def test_many_missing_tensors_are_counted(folder):
    weights(folder, lambda found: dict([*found.items()][:1]))
    message = refused(run(folder), "  missing, ", " more")
    assert len(message) < 1000


def test_other_shapes(folder):
    def change(found):
        name = next(key for key in found if "mlp" in key and "weight" in key)
        return found | {name: found[name][:, :-1].contiguous()}

    weights(folder, change)
    refused(run(folder), "  of another shape, 1: ", "instead of")


def test_weights_of_another_architecture(folder, tmp_path):
    module("BertForMaskedLM").save_pretrained(tmp_path / "bert")
    shutil.copy(tmp_path / "bert" / "model.safetensors", folder)
    refused(run(folder), "  missing, ", "  without a use, ", "bert.")


def test_a_surplus_tensor_is_named(folder):
    weights(folder, lambda found: found | {"adapter.weight": torch.ones(3)})
    with pytest.warns(UserWarning, match=r"1 tensor.* no use for: adapter\.weight"):
        tokens.from_pretrained(folder)


def test_tied_weights_and_buffers_are_not_missed(tmp_path):
    module("LlamaForCausalLM", tie_word_embeddings=True).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The weights in")
        tokens.from_pretrained(tmp_path)
    edited(tmp_path / "config.json", tie_word_embeddings=False)
    with pytest.raises(relprop.InputError, match=r"missing, 1: lm_head\.weight"):
        tokens.from_pretrained(tmp_path)


def shards(folder):
    held = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {}
    for number, name in enumerate(held):
        places[name] = f"model-0000{number % 2 + 1}-of-00002.safetensors"
    for file in set(places.values()):
        part = {name: held[name] for name in held if places[name] == file}
        save_file(part, folder / file, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_shards(folder):
    whole = run(folder)
    index = shards(folder)
    assert_same(run(folder), whole)
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused(run(folder), "there are no model-00002-of-00002.safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    refused(run(folder), "must name safetensors files beside it")


def test_a_shard_without_some_tensors(folder):
    index = shards(folder)
    file = folder / "model-00001-of-00002.safetensors"
    held = load_file(file)
    save_file(dict([*held.items()][1:]), file, {"format": "pt"})
    assert index.exists()
    refused(run(folder), "  missing, 1: ")


# Configurations


@pytest.mark.parametrize(
    "size", ["num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size"]
)
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_of_nothing(folder, size, value):
    config = json.loads((folder / "config.json").read_text())
    of_gpt2 = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
    of_gpt2 |= {"hidden_size": "n_embd", "vocab_size": "vocab_size"}
    name = of_gpt2[size] if of_gpt2[size] in config else size
    edited(folder / "config.json", **{name: value})
    refused(run(folder), f"{name} {value}: these must be numbers from 1")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", "\ud7ff", "[" * 100000])
def test_a_configuration_that_is_none(folder, text):
    (folder / "config.json").write_text(text, encoding="utf-8")
    refused(run(folder), "config.json")


@pytest.mark.parametrize(
    "entries",
    [
        {"architectures": None},
        {"architectures": []},
        {"architectures": ["NoSuchModel"]},
        {"architectures": ["pipeline"]},
        {"architectures": ["AutoModelForCausalLM"]},
        {"architectures": [["GPT2LMHeadModel"]]},
        {"architectures": ["BertForMaskedLM"]},
        {"model_type": "no such type"},
        {"vocab_size": "many"},
        {"num_hidden_layers": "two", "n_layer": "two"},
        {"vocab_size": 10},
    ],
)
def test_configurations_of_other_models(folder, entries):
    edited(folder / "config.json", **entries)
    refused(run(folder), str(folder))


@pytest.mark.parametrize(
    "given, said",
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "'gptq' with 4 bits"),
        ({"quant_method": "awq", "bits": 4}, "'awq' with 4 bits"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes' with 4 bits"),
        ({"load_in_8bit": True}, "'bitsandbytes' with 8 bits"),
        ({"quant_method": "fp8"}, "'fp8'"),
        ({"bits": "\x1b[31m"}, "'an unknown method'"),
    ],
)
def test_quantised_weights(gpt2, given, said):
    edited(gpt2 / "config.json", quantization_config=given)
    refused(run(gpt2), f"quantised by {said}", "dequantize()")


def test_a_quantised_module():
    made = module("GPT2LMHeadModel")
    made.config.quantization_config = {"quant_method": "hqq"}
    with pytest.raises(relprop.InputError, match=r"GPT2LMHeadModel are quantised by 'hqq'"):
        tokens.from_torch(made)


def test_the_wrong_number_of_layers(folder):
    config = json.loads((folder / "config.json").read_text())
    edited(folder / "config.json", **{"n_layer" if "n_layer" in config else "num_hidden_layers": 2})
    refused(run(folder), "  missing, ")


def test_no_folder(tmp_path):
    refused(run(tmp_path / "nowhere"), "There is no config.json in", "which is no folder")
    (tmp_path / "file").write_text("")
    refused(run(tmp_path / "file"), "There is no config.json in", "which is no folder")
    refused(run(tmp_path), "There is no config.json in", "which holds file.")


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(run(folder), "There is no", "model.safetensors: the folder holds", "tokenizer.json")


# Tokenizers


def test_no_tokenizer(gpt2):
    for file in gpt2.glob("tokenizer*"):
        file.unlink()
    refused(run(gpt2), "There is no tokenizer.json in")
    assert tokens.from_pretrained(gpt2).tokenizer is None


def test_only_the_configuration_of_a_tokenizer(gpt2):
    (gpt2 / "tokenizer.json").unlink()
    refused(run(gpt2), "The tokenizer at")


@pytest.mark.parametrize("text", ["", "{", "{}", '{"model": {}}'])
@pytest.mark.parametrize("configured", [True, False])
def test_a_damaged_tokenizer(gpt2, text, configured):
    (gpt2 / "tokenizer.json").write_text(text)
    if not configured:
        (gpt2 / "tokenizer_config.json").unlink()
    refused(run(gpt2), "The tokenizer at")


# Code


CODE = """
import pathlib
pathlib.Path({marker!r}).write_text("run")
from transformers import GPT2Config as Config, GPT2LMHeadModel as Model
from transformers import LlamaForCausalLM as Other, PreTrainedTokenizerFast as Tokenizer
def generate(*args, **kwargs): pass
"""


@pytest.fixture
def trap(gpt2, tmp_path):
    """A folder with a module that leaves a mark when it is imported."""
    marker = tmp_path / "marker"
    for name in ("modeling_trap.py", "generate.py", "custom_generate/generate.py"):
        (gpt2 / name).parent.mkdir(exist_ok=True)
        (gpt2 / name).write_text(CODE.format(marker=str(marker)))
    shutil.rmtree(gpt2 / "custom_generate")
    yield gpt2
    assert not marker.exists()


AUTO = {
    "AutoConfig": "modeling_trap.Config",
    "AutoModelForCausalLM": "modeling_trap.Model",
    "AutoTokenizer": [None, "modeling_trap.Tokenizer"],
}


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("config.json", {"auto_map": AUTO}),
        ("config.json", {"auto_map": AUTO, "model_type": "trap", "architectures": ["Model"]}),
        ("config.json", {"auto_map": {"AutoConfig": "someone/else--modeling_trap.Config"}}),
        ("config.json", {"text_config": {"auto_map": AUTO}}),
        ("tokenizer_config.json", {"auto_map": AUTO}),
        ("tokenizer_config.json", {"auto_map": AUTO["AutoTokenizer"]}),
        ("tokenizer_config.json", {"auto_map": AUTO, "tokenizer_class": "Tokenizer"}),
        ("generation_config.json", {"custom_generate": "modeling_trap"}),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "modeling_trap.Processor"}}),
        ("config.json", {"custom_pipelines": {"trap": {"impl": "modeling_trap.Model"}}}),
    ],
)
def test_code_that_a_folder_names(trap, file, entries):
    (trap / file).touch()
    (trap / file).write_text((trap / file).read_text() or "{}")
    edited(trap / file, **entries)
    refused(run(trap), "brings its own code", "relprop does not run it", f"{file}: ")


def test_another_version_of_the_configuration(trap):
    shutil.copy(trap / "config.json", trap / "config.4.0.0.json")
    edited(trap / "config.4.0.0.json", auto_map=AUTO)
    edited(trap / "config.json", configuration_files=["config.4.0.0.json"])
    refused(run(trap), "config.4.0.0.json: auto_map")


def test_code_for_generation(trap):
    (trap / "custom_generate").mkdir()
    shutil.copy(trap / "generate.py", trap / "custom_generate" / "generate.py")
    refused(run(trap, "--generate", "1"), "custom_generate: a folder of code")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_tokenizer_alone(trap, file):
    edited(trap / file, auto_map=AUTO)
    with pytest.raises(relprop.InputError, match="brings its own code"):
        tokens.from_torch(module("GPT2LMHeadModel"), trap)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize(
    "name", ["kernels-community/x", "someone/else@main:attention", {"": "someone/else"}, "unknown"]
)
def test_kernels_as_attention(gpt2, key, name):
    edited(gpt2 / "config.json", **{key: name})
    refused(run(gpt2), "config.json: ", key, "names")


def test_kernels_in_a_part(gpt2):
    edited(gpt2 / "config.json", text_config={"attn_implementation": "kernels-community/x"})
    refused(run(gpt2), "config.json: attn_implementation names 'kernels-community/x'")


def test_kernels_as_experts(gpt2):
    edited(gpt2 / "config.json", experts_implementation="sonicmoe")
    refused(run(gpt2), "config.json: experts_implementation names 'sonicmoe'")


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3", "flex_attention"])
def test_attention_by_other_means_is_computed_by_torch(gpt2, name):
    whole = run(gpt2)
    edited(gpt2 / "config.json", _attn_implementation=name)
    found = run(gpt2)
    assert found.exit_code == 0, found.output
    assert_same(found, whole)


class Trap:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl", "model.safetensors"],
)
def test_pickles(gpt2, tmp_path, name):
    marker = tmp_path / "marker"
    (gpt2 / "model.safetensors").unlink()
    (gpt2 / name).write_bytes(pickle.dumps(Trap(str(marker))))
    refused(run(gpt2), name, "safetensors")
    assert not marker.exists()
    torch.save({"weight": Trap(str(marker))}, gpt2 / name)
    refused(run(gpt2), name, "safetensors")
    assert not marker.exists()


def test_advice_for_pickles(gpt2):
    torch.save(load_file(gpt2 / "model.safetensors"), gpt2 / "pytorch_model.bin")
    (gpt2 / "model.safetensors").unlink()
    refused(run(gpt2), "pytorch_model.bin", "convert it", "save_pretrained")


def test_an_index_of_pickles(gpt2, tmp_path):
    (gpt2 / "model.safetensors").unlink()
    (gpt2 / "a.bin").write_bytes(pickle.dumps(Trap(str(tmp_path / "marker"))))
    index = gpt2 / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"wte.weight": "a.bin"}}))
    refused(run(gpt2), "must name safetensors files beside it", "'a.bin'")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["a.bin", "adapter_model.bin", "other.safetensors", 3])
def test_weights_of_another_name(gpt2, name):
    edited(gpt2 / "config.json", transformers_weights=name)
    refused(run(gpt2), f"transformers would read {name!r}")


def test_weights_in_the_shards_of_devices(gpt2):
    shutil.copy(gpt2 / "model.safetensors", gpt2 / "shard-00001-model-00001-of-00001.safetensors")
    refused(run(gpt2), "transformers would read 'shard-00001-model-00001-of-00001.safetensors'")


def test_adapters(gpt2):
    (gpt2 / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "someone/else", "peft_type": "LORA"})
    )
    refused(run(gpt2), "adapter", "merge_and_unload")


@pytest.mark.parametrize(
    "options",
    [
        {"trust_remote_code": True},
        {"local_files_only": False},
        {"use_safetensors": False},
        {"attn_implementation": "kernels-community/x"},
        {"attn_implementation": "flash_attention_2"},
        {"use_kernels": True},
        {"gguf_file": "model.gguf"},
    ],
)
def test_options_that_would_run_code(gpt2, options):
    with pytest.raises(relprop.InputError, match=f"Not possible here: {[*options][0]}="):
        tokens.from_pretrained(gpt2, **options)


def test_options_of_transformers(gpt2):
    model = tokens.from_pretrained(
        gpt2, dtype="bfloat16", attn_implementation="eager", trust_remote_code=False
    )
    assert {str(x.dtype) for n, x in model.params.items() if "weight" in n} == {"bfloat16"}


def test_entries_of_every_kind(gpt2):
    """Of every size all these values in turn: refused before anything is allocated, or a model."""
    file = gpt2 / "config.json"
    config = json.loads(file.read_text())
    entries = ("n_layer", "n_head", "n_embd", "vocab_size", "layer_norm_epsilon")
    before, refusals = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for entry in entries:
        for value in VALUES:
            file.write_text(json.dumps(config | {entry: value}))
            try:
                tokens.explain(tokens.from_pretrained(gpt2), "cats", rules=Gradient())
            except relprop.InputError:
                refusals += 1
    assert refusals > 0.7 * len(entries) * len(VALUES)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # 1 GB, in kB


@pytest.mark.parametrize("entries", [{"n_layer": 500, "n_embd": 4096}, {"vocab_size": 10**7}])
def test_more_numbers_than_the_files_have(gpt2, entries):
    edited(gpt2 / "config.json", **entries)
    refused(run(gpt2), "is of a model of", "take the weights that belong to config.json")


def test_all_wrong_entries_are_named(gpt2):
    edited(gpt2 / "config.json", n_layer="12", vocab_size=1.5, layer_norm_epsilon=[1e-5])
    refused(run(gpt2), "3 entries", "n_layer '12'", "vocab_size 1.5", "layer_norm_epsilon")
