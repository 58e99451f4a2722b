"""What lets ndif 0.1.2 run a model without a GPU: an actor, a sandboxed actor and a controller of its own kind.

Nothing of this is imported by the tests: the server's processes find it on their PYTHONPATH, in a
folder where it is
alone, and take its classes by name (NDIF_MODEL_IMPORT_PATH, NDIF_CONTROLLER_IMPORT_PATH). Only what
touches a GPU is replaced; how requests are read, run, timed out, sandboxed and answered is NDIF's
own.
"""

from __future__ import annotations

import gc
import os

import ray
import torch
from ndif.services.ray.deployments.controller.controller import _ControllerActor
from ndif.services.ray.deployments.modeling.base import BaseModelDeployment
from ndif.services.ray.sandbox import host
from ndif.services.ray.sandbox.model import SandboxHost
from nnsight.modeling.huggingface import HuggingFaceModel
from nnsight.modeling.mixins import remotable

torch.set_num_threads(int(os.environ.get("NDIF_CPU_THREADS", "1")))

SIZE = 300 << 20  # bytes that the controller counts for a model, whichever it is


def _describe(cls, model_key, dtype, **_):
    """NDIF asks the hub for a checkpoint's size, which is not there; and passes an argument nnsight 0.8.1 lacks."""
    import_path, suffix = model_key.split(":", 1)
    config = remotable.from_import_path(import_path)._config(suffix)
    return remotable.CheckpointInfo(size_bytes=SIZE, n_params=None, config=config, revision=None)


remotable.Remotable.describe_checkpoint = classmethod(_describe)
remotable.Remotable.max_tp_size = classmethod(lambda cls, model_key, **_: None)


class CPUDeployment(BaseModelDeployment):
    """A model on the CPU: NDIF's own loads it onto GPUs and synchronises with them."""

    CACHEABLE = False

    def load_from_disk(self):
        kwargs = dict(self.kwargs)
        if not kwargs.get("trust_remote_code"):
            kwargs.pop("trust_remote_code", None)
        model = HuggingFaceModel.from_model_key(
            self.model_key, dispatch=True, dtype=self.dtype_name, device="cpu", **kwargs
        )
        model._module.requires_grad_(False)
        return model

    async def to_cache(self):
        self.cached = True

    def from_cache(self, gpu_mem_bytes_by_id):
        self.cached = False

    def cleanup(self):
        self.kill_switch.clear()
        self.kill_reason = None
        self.execution_ident = None
        self.model.interleaver.cancel()
        gc.collect()


@ray.remote(num_cpus=1, max_restarts=-1)
class CPUModelActor(CPUDeployment):
    """Runs every request in its own process, as NDIF does for callers whom it trusts."""


host.RUNNER_ENV = (*host.RUNNER_ENV, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


class CPUSandboxDeployment(SandboxHost, CPUDeployment):
    """Runs a caller's code in another process, where the weights are not."""

    def __init__(self, *args, pool_size=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.open_pool(pool_size)

    def interrupt(self):
        if self.execution_sandbox is not None:
            self.execution_sandbox.stop()
        super().interrupt()

    def execute(self, request):
        if request.trusted:
            return super().execute(request)
        return self.run_in_runner(request, None)


@ray.remote(num_cpus=1, max_restarts=-1)
class CPUSandboxActor(CPUSandboxDeployment):
    """How the public service runs the callers whom it does not trust."""


class CPUController(_ControllerActor):
    """NDIF's own. Ray pickles a decorated class by value but its bases by reference: this one makes its process
    import this module, and with it what is replaced above."""


@ray.remote(num_cpus=1, num_gpus=0, max_restarts=-1, resources={"head": 1})
class CPUControllerActor(CPUController):
    """The controller as an actor."""
