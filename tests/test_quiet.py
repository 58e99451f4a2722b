"""What stands on the terminal before a result: nothing of other libraries."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import tiny
from slow import others_slow
from transformers.utils import logging as transformers_logging

import lens_recipes as lr
from lens_recipes.models.loading.quiet import quiet_loading

ROOT = Path(__file__).parent.parent

# What torchao 0.18 says where a kernel does not fit the machine, what torch 2.13 says of torchao,
# and a warning that matters.
TORCHAO = """
import logging
logging.getLogger("torchao").warning("Failed to load /torchao/_C.so: Could not load this library")
logging.getLogger("torchao").warning("Skipping import of cpp extensions: an operator is missing")
from . import kernel
logging.getLogger("torchao").warning("MATTERS")
"""
KERNEL = """
import enum
import torch
class Kernel(str, enum.Enum):
    AUTO = "auto"
torch.utils._pytree.register_constant(Kernel)
"""
METADATA = "Metadata-Version: 2.1\nName: torchao\nVersion: 0.18.0\n"
SUPPORT = "flatten_tensor_state_dict = unflatten_tensor_state_dict = None\n"

LOAD = "import sys, lens_recipes as lr; print(lr.load(sys.argv[1]).config.model_type)"
WAYS = {
    "load": ["-c", LOAD],
    "command": ["-m", "lens_recipes", "anatomy", "--model"],
}


@pytest.fixture
def beside(tmp_path):
    """A folder on the path of a process, with a torchao that says what the real one says."""
    files = {
        "torchao/__init__.py": TORCHAO,
        "torchao/kernel.py": KERNEL,
        "torchao/prototype/__init__.py": "",
        "torchao/prototype/safetensors/__init__.py": "",
        "torchao/prototype/safetensors/safetensors_support.py": SUPPORT,
        "torchao-0.18.0.dist-info/METADATA": METADATA,
    }
    for name, text in files.items():
        path = tmp_path / "beside" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "beside"


def environment(*path: Path) -> dict[str, str]:
    """The variables of a user who has set none for these libraries."""
    ours = ("TRANSFORMERS_VERBOSITY", "TORCH_LOGS", "HF_HUB_DISABLE_PROGRESS_BARS")
    variables = {name: value for name, value in os.environ.items() if name not in ours}
    return variables | {"PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))}


@pytest.mark.parametrize("way", others_slow(WAYS, "command"))
def test_nothing_stands_before_a_result_but_what_matters(way, folder, beside):
    command = [sys.executable, *WAYS[way], str(folder)]
    ran = subprocess.run(
        command, env=environment(beside), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == "MATTERS\n"
    assert "llama" in ran.stdout.lower()


@pytest.mark.parametrize("way", others_slow(WAYS, "command"))
def test_no_progress_bar_stays_on_a_terminal(way, folder):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, 100, 0, 0))
    command = [sys.executable, *WAYS[way], str(folder)]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = everything(ours)
        process.communicate()
    assert process.returncode == 0, shown
    assert "Loading weights" in shown
    assert "".join(on_screen(line) for line in shown.split("\n")).strip() == ""


def everything(terminal: int) -> str:
    """All that is written to a terminal until nobody has it open."""
    text = b""
    while True:
        try:
            piece = os.read(terminal, 1000)
        except OSError:  # Linux says so where others give an empty piece
            piece = b""
        if not piece:
            os.close(terminal)
            return text.decode()
        text += piece


def on_screen(line: str) -> str:
    """What a terminal shows of a line: each carriage return writes over what was there."""
    shown = ""
    for piece in line.split("\r"):
        shown = piece + shown[len(piece) :]
    return shown


def test_afterwards_all_is_as_it_was(caplog):
    logger = logging.getLogger("torchao")
    filters, hook = list(logger.filters), transformers_logging.set_tqdm_hook(None)
    with quiet_loading():
        logger.warning("Failed to load a")
        logger.warning("something else")
    logger.warning("Failed to load b")
    assert [record.getMessage() for record in caplog.records] == [
        "something else",
        "Failed to load b",
    ]
    assert logger.filters == filters
    assert transformers_logging.set_tqdm_hook(hook) is None


def test_a_programs_own_bars_are_left_alone():
    def own(bar, args, kwargs):
        return bar(*args, **kwargs)

    before = transformers_logging.set_tqdm_hook(own)
    try:
        with quiet_loading():
            assert transformers_logging.set_tqdm_hook(own) is own
    finally:
        assert transformers_logging.set_tqdm_hook(before) is own


def test_the_text_side_of_a_multimodal_folder_is_loaded_without_a_list_of_classes(tmp_path):
    """A pipeline says of two hundred classes that they would do, and the model's is none."""
    folder = tiny.save(tiny.FAMILIES["llava"](), tmp_path)
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("transformers.pipelines.base")
    logger.addHandler(handler)
    try:
        lr.load(folder)
    finally:
        logger.removeHandler(handler)
    assert records == []
