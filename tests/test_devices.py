"""Models whose weights are on several devices, or partly on a disk: read where they are, as if they were on one."""

from __future__ import annotations

import weakref

import numpy as np
import pretend_devices
import pytest
import tiny
import torch
from pretend_devices import FIRST, SECOND

import lens_recipes as lr
from lens_recipes.arrays.lens_alignment import LensAlignment
from lens_recipes.models.weights.offload import numbers_of
from lens_recipes.recipes.lenses.prepare import weights_mark
from lens_recipes.recipes.survey.identity import weights_digest
from lens_recipes.run.request.kernels import expected_kernels
from lens_recipes.trace.attribution.gathered import GatheredArrays
from lens_recipes.trace.kernels import CUDA
from lens_recipes.trace.transport import Affine

pytest.importorskip("accelerate")

IDS = [7, 8, 9, 10, 11, 12]
OTHER = IDS[::-1]
TEXTS = [[7 + (i * j) % 80 for i in range(40)] for j in range(1, 12)]
ITEMS = [{"prompt": [7 + n, 8, 9], "target": 20 + n} for n in range(6)]
BLOCKS = [f"model.layers.{layer}" for layer in range(4)]
LENS = lr.Lens("linear", {layer: Affine(0.9 * torch.eye(32)) for layer in range(3)})

RECIPES = {
    "lens": lambda model: lr.logit_lens(model, IDS),
    "prompts": lambda model: lr.logit_lens(model, [IDS, IDS[:4]], positions=-1, targets=[11]),
    "linear lens": lambda model: lr.logit_lens(model, IDS, lens=LENS),
    "components": lambda model: lr.logit_lens(
        model, IDS, components=("attn_out", "resid_mid", "mlp_out", "resid_post")
    ),
    "heads": lambda model: lr.logit_lens(model, IDS, components="head_out"),
    "attribution": lambda model: lr.attribution(model, IDS, targets=11, unit="component"),
    "by head": lambda model: lr.attribution(model, IDS, targets=11, unit="head"),
    "by token": lambda model: lr.attribution(model, IDS, targets=11, unit="token"),
    "generation": lambda model: lr.generate_lens(model, IDS, max_new_tokens=3, do_sample=False),
    "vectors": lambda model: lr.decode_vectors(model, torch.ones(32)),
    "steered": lambda model: lr.logit_lens(model, IDS, edits=lr.steer(torch.ones(32), layer=2)),
    "ablated": lambda model: lr.logit_lens(model, IDS, edits=lr.ablate(layer=2, component="mlp_out")),
    "patched": lambda model: lr.logit_lens(model, IDS, edits=lr.patch(OTHER, layer=1, positions=2)),
    "patch map": lambda model: lr.patch_map(model, [IDS], [OTHER], 20, 30, keep_all=True),
    "survey": lambda model: lr.survey(model, ITEMS, bootstrap=100),
    "by token, in chunks": lambda model: lr.attribution(
        model, IDS, targets=11, unit="token", positions=None, max_bytes=2**11
    ),
    "controls": lambda model: lr.logit_lens(
        model, IDS, edits=lr.ablate(layer=2, component="mlp_out"), controls=2
    ).effects,
    "fit": lambda model: lr.fit_lens(model, TEXTS, tokens=300),
    "tuned fit": lambda model: lr.fit_lens(
        model, TEXTS, kind="tuned", tokens=300, steps=2, tokens_per_step=64, quality_tokens=0
    ),
    "alignment": lambda model: lr.lens_alignment(LENS, model, TEXTS[:4], layers=[1, 2], stimuli=2),
    "quality": lambda model: lr.lens_quality(LENS, model, TEXTS[:2]),
    "verified": lambda model: lr.logit_lens(model, IDS).verify(model),
}  # fmt: skip


def numbers(result):
    """What a result says, in one array."""
    for name in ("top_logprobs", "values", "recovery"):
        if hasattr(result, name):
            return np.asarray(getattr(result, name))
    if isinstance(result, lr.Lens):
        return result.transports[2].weight.numpy()
    if isinstance(result, LensAlignment):
        return np.array([spread.mean for spread in (*result.alignment.values(), result.drop)])
    if hasattr(result, "kl"):
        return np.asarray(result.kl)
    return result.curve("rank").interval.estimate


@pytest.fixture(scope="module")
def whole():
    return lr.load(tiny.for_text("llama"))


def placed(first: int):
    """The model with its first blocks on one device, and the others, norm and unembedding on another."""
    places = dict.fromkeys(["model.embed_tokens", "model.rotary_emb"], FIRST)
    for layer, path in enumerate(BLOCKS):
        places[path] = FIRST if layer < first else SECOND
    places |= dict.fromkeys(["model.norm", "lm_head"], SECOND)
    return lr.load(pretend_devices.split(tiny.for_text("llama"), places))


@pytest.fixture(scope="module")
def two_devices():
    return placed(2)


@pytest.mark.parametrize("name", RECIPES)
def test_two_devices_say_what_one_does(whole, two_devices, name):
    """Nothing is computed of tensors on two of them, and the unembedding stays where it is."""
    with pretend_devices.devices() as moved:
        found = RECIPES[name](two_devices)
    np.testing.assert_allclose(numbers(found), numbers(RECIPES[name](whole)), atol=5e-5)
    if getattr(found, "certificate", None) is not None:
        assert found.certificate.passed
    weight = two_devices._module.lm_head.weight
    assert weight.device == SECOND
    assert tuple(weight.shape) not in moved
    assert moved  # some of it is brought from one to the other


def test_what_is_expected_of_a_model_follows_its_device(two_devices):
    assert expected_kernels(two_devices) is CUDA  # in float32


@pytest.mark.parametrize("device", [pretend_devices.CPU, FIRST], ids=str)
def test_chunks_go_as_they_are_gathered(device):
    """On a device at most so many wait as have room; here none does."""
    n_tokens, of_chunk = 40, 4
    chunk_bytes = 5 * of_chunk * 2 * 4
    most = 0 if device == pretend_devices.CPU else 3
    with pretend_devices.devices():
        gathered = GatheredArrays(n_tokens, {"values": 1}, 3 * chunk_bytes)
        chunks = []
        for start in range(0, n_tokens, of_chunk):
            numbers = torch.arange(start, start + of_chunk, dtype=torch.float32)
            value = numbers[None, :, None].expand(5, of_chunk, 2).contiguous().to(device)
            chunks.append(weakref.ref(value))
            gathered.add(slice(start, start + of_chunk), {"values": value})
            del value
            assert sum(chunk() is not None for chunk in chunks) <= most
        (values,) = gathered.complete().values()
    assert values.shape == (5, n_tokens, 2)
    assert values.device.type == "cpu"
    assert (values == torch.arange(n_tokens)[None, :, None]).all()


def test_an_operation_on_two_devices_is_an_error_here_too():
    with pretend_devices.devices(), pytest.raises(RuntimeError, match="same device"):
        torch.ones(3, device=FIRST) + torch.ones(3, device=SECOND)
    with pretend_devices.devices(), pytest.raises(RuntimeError, match="same device"):
        torch.ones(3, device=FIRST) + torch.ones(3)


@pytest.mark.parametrize("last", [["lm_head"], [*BLOCKS[2:], "model.norm", "lm_head"]], ids=len)
def test_weights_on_a_disk_are_read_from_there(whole, tmp_path, last):
    import accelerate

    everything = ["model.embed_tokens", "model.rotary_emb", *BLOCKS, "model.norm", "lm_head"]
    places = {path: "disk" if path in last else "cpu" for path in everything}
    module = accelerate.dispatch_model(
        tiny.for_text("llama"), places, main_device="cpu", offload_dir=str(tmp_path)
    )
    model = lr.load(module)
    assert module.lm_head.weight.is_meta
    for name in ("lens", "components", "by token", "patch map", "fit"):
        found = RECIPES[name](model)
        np.testing.assert_allclose(numbers(found), numbers(RECIPES[name](whole)), atol=5e-5)
    assert module.lm_head.weight.is_meta  # it went again
    # What tells a model from another is the same, wherever its weights are.
    assert weights_mark(model) == weights_mark(whole)
    assert weights_digest(model) == weights_digest(whole)
    for (name, one), (same, other) in zip(
        numbers_of(module), whole._module.named_parameters(), strict=True
    ):
        assert name == same
        assert torch.equal(one, other)


def test_tied_weights_on_a_disk_are_one(tmp_path):
    """accelerate then has two parameters of them; a model that is here whole has one."""
    import accelerate

    module = tiny.FAMILIES["qwen3"]()
    here = lr.load(tiny.FAMILIES["qwen3"]())
    assert module.lm_head.weight is module.model.embed_tokens.weight
    everything = ["model.embed_tokens", "model.rotary_emb", *BLOCKS, "model.norm", "lm_head"]
    on_disk = ("model.embed_tokens", "lm_head")
    places = {path: "disk" if path in on_disk else "cpu" for path in everything}
    module = accelerate.dispatch_model(
        module, places, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True
    )
    model = lr.load(module)
    assert module.lm_head.weight.is_meta
    assert [name for name, _ in numbers_of(module)] == [
        name for name, _ in here._module.named_parameters()
    ]
    assert weights_mark(model) == weights_mark(here)
    assert weights_digest(model) == weights_digest(here)


# -- parts of weights --------------------------------------------------


def test_a_model_shared_out_to_processes_is_refused_with_what_to_do(whole):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_tensor

    module = tiny.for_text("llama")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        weight = distribute_tensor(module.lm_head.weight.detach(), mesh, [Replicate()])
        module.lm_head.weight = torch.nn.Parameter(weight, requires_grad=False)
        with pytest.raises(lr.LensError, match=r"DTensor, shared out to 1 process .*device_map"):
            lr.load(module)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("name", ["tp_plan", "tp_size", "distributed_config"])
def test_sharing_out_is_refused_before_anything_is_loaded(monkeypatch, name):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(lr.LensError, match=f"{name} shares the weights out to 2 processes"):
        lr.load("/no/such/folder", **{name: "auto"})


def test_in_one_process_a_plan_changes_nothing(tmp_path, whole, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    folder = tiny.save(tiny.for_text("llama"), tmp_path / "model")
    found = lr.logit_lens(lr.load(folder, tp_plan="auto"), IDS)
    np.testing.assert_allclose(numbers(found), numbers(RECIPES["lens"](whole)), atol=5e-5)
