"""Lenses come out of every kind of file with the numbers that the file's own tool would read with."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import fakehub
import pytest
import tiny
import torch

import lens_recipes as lr
from lens_recipes.arrays.used_lens import EMBEDDING, LensQuality
from lens_recipes.lenses.belongs import (
    check_belongs,
    model_record,
    tokenizer_digest,
    tuned_lens_hash,
    unembedding_digest,
)
from lens_recipes.lenses.files import own
from lens_recipes.lenses.hub import published
from lens_recipes.lenses.lens import Lens, LensRecord
from lens_recipes.lenses.load import load_sums
from lens_recipes.trace.transport import Affine

WIDTH, LAYERS = 32, 4  # of the tiny Llama


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def matrices(layers: range | list[int] = range(LAYERS - 1), width: int = WIDTH) -> dict[int, Any]:
    return {layer: numbers(width, width, seed=layer + 9) for layer in layers}


def saved(values: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        torch.save(values, file)
    return path


def reference(layers: range | list[int] = range(LAYERS - 1), **more: Any) -> dict[str, Any]:
    """What the reference implementation of Jacobian lenses saves."""
    jacobians = {layer: matrix.half() for layer, matrix in matrices(layers).items()}
    values = {"J": jacobians, "n_prompts": 7, "source_layers": list(layers), "d_model": WIDTH}
    return {**values, **more}


def transported(lens: Lens, layer: int, hidden: torch.Tensor) -> torch.Tensor:
    return lens.transports[layer].transform_hidden(hidden)


def lens_of(model: Any = None, dtype: torch.dtype = torch.float32, **more: Any) -> Lens:
    """A lens with transports of every form."""
    transports = {
        EMBEDDING: Affine(numbers(WIDTH, WIDTH, seed=1).to(dtype)),
        0: Affine(numbers(WIDTH, WIDTH, seed=2).to(dtype), numbers(WIDTH, seed=3).to(dtype)),
        2: Affine(numbers(WIDTH, WIDTH, seed=4).to(dtype), numbers(WIDTH).to(dtype), True),
    }
    record = LensRecord() if model is None else model_record(model)
    return Lens("linear", transports, record, **more)


QUALITY = LensQuality(
    layers=[EMBEDDING, 0, 2],
    kl=[1.5, math.inf, 0.25],
    agreement=[0.1, math.nan, 1.0],
    logit_kl=[2.0, 3.0, 4.0],
    logit_agreement=[0.0, 0.5, 1.0],
    refit_kl=[[1.0, 2.0, 3.0], [1.5, 2.5, 3.5]],
    n_tokens=380,
    text="English",
)


# -- our own format ----------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_our_own_file_is_exact(tmp_path, llama, dtype):
    record = dataclasses.replace(
        model_record(llama),
        text="own samples \x1b[2J",
        n_prompts=3,
        n_tokens=2**40,
        seed=-1,
        first_position=4,
        settings={"ridge": 1e-3, "layers": [0, 2], "nested": {"a": None}},
    )
    lens = dataclasses.replace(lens_of(dtype=dtype, quality=QUALITY), record=record)
    path = tmp_path / "a.safetensors"
    lens.save(path)
    read = lr.load_lens(path, llama)
    assert (read.kind, read.record, read.source, read.sums) == ("linear", record, str(path), None)
    assert repr(read.quality) == repr(QUALITY)  # NaN is equal to no NaN
    assert read.digest == lens.digest
    assert read.layers == lens.layers
    for layer, transport in lens.transports.items():
        assert torch.equal(read.transports[layer].weight, transport.weight)
        assert read.transports[layer].is_residual == transport.is_residual
        hidden = numbers(5, WIDTH, seed=8)
        assert torch.equal(transported(read, layer, hidden), transported(lens, layer, hidden))


def test_sums_are_read_alone_and_only_when_asked(tmp_path, monkeypatch):
    sums = {"0.xx": numbers(3, 3).double(), "n": torch.tensor([7])}
    lens = lens_of(sums=sums)
    lens.save(tmp_path / "without.safetensors")
    lens.save(tmp_path / "with.safetensors", sums=True)
    asked: list[str] = []
    opened = own.safe_open

    class Watched:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.file = opened(*args, **kwargs)

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *_: Any) -> None: ...

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def get_tensor(self, name: str) -> torch.Tensor:
            asked.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(own, "safe_open", Watched)
    assert lr.load_lens(tmp_path / "with.safetensors").digest == lens.digest
    assert asked
    assert all(name.startswith("transports.") for name in asked)
    asked.clear()
    read = load_sums(tmp_path / "with.safetensors")
    assert sorted(asked) == ["sums.0.xx", "sums.n"]
    assert {name: total.tolist() for name, total in read.items()} == {
        name: total.tolist() for name, total in sums.items()
    }
    assert read["0.xx"].dtype == torch.float64
    assert load_sums(tmp_path / "without.safetensors") == {}
    with pytest.raises(ValueError, match="has no sums to save"):
        lens_of().save(tmp_path / "c.safetensors", sums=True)


def test_tensors_of_one_memory_are_saved_as_they_are(tmp_path):
    """Transports that are views of one stack, or the same tensor twice, or turned."""
    stack = numbers(3, WIDTH, WIDTH)
    transports = {0: Affine(stack[0]), 1: Affine(stack[1].T), 2: Affine(stack[1].T)}
    for name, more in {
        "a.safetensors": {},
        "a.pt": {"format": "jacobian", "dtype": torch.float32},
    }.items():
        Lens("jacobian", transports).save(tmp_path / name, **more)
        read = lr.load_lens(tmp_path / name)
        for layer, transport in transports.items():
            assert torch.equal(read.transports[layer].weight, transport.weight)


def test_a_failed_save_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.safetensors"
    lens_of().save(path)
    before = path.read_bytes()
    bad = dataclasses.replace(lens_of(), record=LensRecord(settings={"f": object()}))
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        bad.save(path)
    with pytest.raises(lr.LensError, match="cannot write"):
        lens_of().save(tmp_path / "no" / "folder.safetensors")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("a.pt", {}, "does not end in .safetensors"),
        ("a.pt", {"format": "onnx"}, "format='onnx' is unknown"),
        ("a.safetensors", {"dtype": torch.float16}, "dtype= is for format='jacobian'"),
        ("t", {"format": "tuned", "sums": True}, "has no place for sums"),
    ],
)
def test_a_save_that_makes_no_sense_is_refused(tmp_path, name, arguments, words):
    with pytest.raises(ValueError, match=words):
        lens_of(sums={"a": numbers(1)}).save(tmp_path / name, **arguments)


# -- Jacobian lenses ---------------------------------------------------


def test_a_file_of_the_reference_reads_as_there(tmp_path, llama):
    """There: `h @ J.T` in float32."""
    path = saved(reference(), tmp_path / "a.pt")
    lens = lr.load_lens(path, llama)
    stored = torch.load(path, weights_only=True)
    hidden = numbers(5, WIDTH, seed=8)
    for layer, jacobian in stored["J"].items():
        assert torch.equal(transported(lens, layer, hidden), hidden @ jacobian.float().T)
    assert (lens.kind, lens.layers, lens.d_model) == ("jacobian", [0, 1, 2], WIDTH)
    assert lens.record == LensRecord(n_prompts=7, first_position=16)


def test_what_transformerlens_and_neuronpedia_note_is_kept(tmp_path):
    metadata = {
        "model_name": "gpt2",
        "model_revision": "abc",
        "estimator": "paper",
        "corpus": "wikitext",
        "n_prompts": 7,
        "fit_dtype": "torch.float32",
        "target_layer": 3,
        "dim_batch": 8,
        "skip_first_positions": 4,
        "prepend_bos": True,
        "per_prompt": [1, 2, 3],
    }
    lens = lr.load_lens(saved(reference(metadata=metadata), tmp_path / "a.pt"))
    assert lens.record == LensRecord(
        model="gpt2",
        revision="abc",
        text="wikitext",
        n_prompts=7,
        target_layer=3,
        first_position=4,
        starts_with_bos=True,
        settings={"estimator": "paper", "fit_dtype": "torch.float32", "dim_batch": 8},
    )
    provenance = {"capture_point": "resid_post", "stream_reduce": None}
    lens = lr.load_lens(saved(reference(provenance=provenance), tmp_path / "b.pt"))
    assert lens.record.settings == provenance
    assert lens.record.first_position == 16


@pytest.mark.parametrize("layers", [[0, 2], [1], [2, 0]])
def test_layers_may_be_missing(tmp_path, llama, layers):
    lens = lr.load_lens(saved(reference(layers), tmp_path / "a.pt"), llama)
    assert lens.layers == sorted(layers)


def test_the_identity_of_the_last_layer_is_left_out(tmp_path, llama):
    values = reference(metadata={"target_layer": LAYERS - 1})
    values["J"][LAYERS - 1] = torch.eye(WIDTH).half()
    for listed in (list(range(LAYERS - 1)), list(range(LAYERS))):
        lens = lr.load_lens(saved({**values, "source_layers": listed}, tmp_path / "a.pt"), llama)
        assert lens.layers == [0, 1, 2]
        assert lens.record.n_layers == LAYERS
    # Identities alone say nothing of how many layers there are; the model does.
    eyes = {layer: torch.eye(WIDTH).half() for layer in range(LAYERS)}
    path = saved({"J": eyes, "n_prompts": 1, "d_model": WIDTH}, tmp_path / "b.pt")
    assert lr.load_lens(path).layers == [0, 1, 2, 3]
    assert lr.load_lens(path, llama).layers == [0, 1, 2]


def test_a_fit_that_has_not_ended_is_its_mean_so_far(tmp_path):
    sums = matrices([0, 1])
    checkpoint = {
        "jacobian_sum": sums,
        "n_done": 5,
        "next_idx": 6,
        "source_layers": [0, 1],
        "target_layer": 2,
        "skip_first": 3,
    }
    lens = lr.load_lens(saved(checkpoint, tmp_path / "a.pt"))
    for layer, total in sums.items():
        assert torch.equal(lens.transports[layer].weight, total / 5)
    record = lens.record
    assert (record.n_prompts, record.first_position, record.target_layer) == (5, 3, 2)
    assert record.settings == {"is_unfinished_fit": True, "next_idx": 6}
    with pytest.raises(lr.LensError, match="has not read a prompt yet"):
        lr.load_lens(saved({**checkpoint, "n_done": 0}, tmp_path / "b.pt"))


def test_tensors_in_every_form_that_torch_saves(tmp_path):
    """Views of one stack, turned matrices, parameters, ordered dicts, texts as keys."""
    stack = numbers(3, WIDTH, WIDTH).double()
    forms = {
        "0": stack[0],
        "1": stack[1].T,
        "2": torch.nn.Parameter(stack[2, :, :].bfloat16()),
        "5": numbers(WIDTH + 3, WIDTH + 2)[3:, 2:],
    }
    lens = lr.load_lens(saved({"J": OrderedDict(forms)}, tmp_path / "a.pt"))
    for layer, matrix in forms.items():
        assert torch.equal(lens.transports[int(layer)].weight, matrix.detach())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_each_protocol_of_pickles(tmp_path, protocol):
    values = reference()
    with (tmp_path / "a.pt").open("wb") as file:
        torch.save(values, file, pickle_protocol=protocol)
    lens = lr.load_lens(tmp_path / "a.pt")
    assert torch.equal(lens.transports[2].weight, values["J"][2])


def test_an_r_lens_is_not_taken_for_a_jacobian_lens(tmp_path):
    values = reference()
    assert lr.load_lens(saved(values, tmp_path / "jlens" / "lens_fp32.pt")).kind == "jacobian"
    assert lr.load_lens(saved(values, tmp_path / "rlens" / "lens_fp32.pt")).kind == "r"
    for number, (config, kind) in enumerate(
        [
            ({"lens_type": "rlens"}, "r"),
            ({"method": "R-lens (LRP rules)"}, "r"),
            ({"kind": "r"}, "r"),
            ({"corpus": "r/science", "name": "lrp"}, "jacobian"),
            ({"method": {"lrp": 1}}, "jacobian"),
        ]
    ):
        path = saved(values, tmp_path / str(number) / "lens.pt")
        (path.parent / "config.json").write_text(json.dumps(config))
        assert lr.load_lens(path).kind == kind, config
    assert lr.load_lens(saved(values, tmp_path / "r" / "lens.pt")).kind == "jacobian"
    for text in ('{"method": "jacobian"}', "no JSON", "[]"):
        path = saved(values, tmp_path / "other" / "lens.pt")
        (path.parent / "config.json").write_text(text)
        assert lr.load_lens(path).kind == "jacobian"
    # As TransformerLens notes it; a corpus whose name begins with an r is none.
    noted = reference(metadata={"estimator": "relevance_lens", "rule_coverage": {"installed": []}})
    corpus = reference(metadata={"estimator": "jacobian_lens", "corpus": "r lens", "note": "lrp"})
    assert lr.load_lens(saved(corpus, tmp_path / "d.pt")).kind == "jacobian"
    r_lens = lr.load_lens(saved(noted, tmp_path / "a.pt"))
    assert r_lens.name == "R-lens"
    # And it stays one in a file of its own, and in one of this layout.
    r_lens.save(tmp_path / "b.safetensors")
    r_lens.save(tmp_path / "c.pt", format="jacobian")
    assert lr.load_lens(tmp_path / "b.safetensors").kind == "r"
    assert lr.load_lens(tmp_path / "c.pt").kind == "r"


def test_what_we_write_is_what_the_reference_writes(tmp_path):
    transports = {layer: Affine(matrix, None, layer == 1) for layer, matrix in matrices().items()}
    record = LensRecord(model="m", n_layers=LAYERS, n_prompts=3, target_layer=3, text="wiki")
    Lens("jacobian", {**transports, EMBEDDING: transports[0]}, record).save(
        tmp_path / "a.pt", format="jacobian"
    )
    stored = torch.load(tmp_path / "a.pt", weights_only=True)
    assert set(stored) == {"J", "n_prompts", "source_layers", "d_model", "metadata"}
    assert (stored["n_prompts"], stored["source_layers"]) == (3, [0, 1, 2])
    # TransformerLens refuses another "model_name" than the one that it loaded the model by.
    assert stored["metadata"] == {"estimator": "jacobian_lens", "model": "m", "n_layers": LAYERS, "corpus": "wiki",
                                  "n_prompts": 3, "target_layer": 3, "skip_first_positions": 0}  # fmt: skip
    assert stored["d_model"] == WIDTH
    for layer, transport in transports.items():
        assert stored["J"][layer].dtype == torch.float16
        whole = transport.weight + torch.eye(WIDTH) * transport.is_residual
        assert torch.equal(stored["J"][layer], whole.half())
    read = lr.load_lens(tmp_path / "a.pt")
    assert (read.kind, read.layers) == ("jacobian", [0, 1, 2])
    assert dataclasses.replace(read.record, settings={}) == record
    Lens("jacobian", transports, record).save(
        tmp_path / "b.pt", format="jacobian", dtype=torch.float32
    )
    read = lr.load_lens(tmp_path / "b.pt")
    hidden = numbers(4, WIDTH)
    torch.testing.assert_close(transported(read, 1, hidden), transports[1].transform_hidden(hidden))


def test_a_bias_has_no_place_among_jacobians(tmp_path):
    with pytest.raises(
        lr.LensError, match=r"layer 0 has a bias, .* other tools would read another"
    ):
        lens_of().save(tmp_path / "a.pt", format="jacobian")
    without = {0: Affine(torch.eye(WIDTH), torch.zeros(WIDTH))}
    Lens("linear", without).save(tmp_path / "a.pt", format="jacobian")
    large = {0: Affine(torch.full((WIDTH, WIDTH), 1e6))}
    with pytest.raises(ValueError, match=r"too large for torch\.float16"):
        Lens("linear", large).save(tmp_path / "b.pt", format="jacobian")
    with pytest.raises(lr.LensError, match="no transport of a stream after a block"):
        Lens("linear", {EMBEDDING: Affine(torch.eye(WIDTH))}).save(
            tmp_path / "c.pt", format="jacobian"
        )
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.pt"]


# -- tuned lenses ------------------------------------------------------

CONFIG = {
    "base_model_name_or_path": "gpt2",
    "d_model": WIDTH,
    "num_hidden_layers": LAYERS,
    "bias": True,
    "base_model_revision": "main",
    "unembed_hash": "abc",
    "lens_type": "linear_tuned_lens",
}
OLD_CONFIG = {"d_model": WIDTH, "num_layers": LAYERS, "bias": True, "unemebd_hash": "abc"}


def folder_of(folder: Path, config: dict[str, Any], parameters: dict[str, Any]) -> Path:
    saved(parameters, folder / "params.pt")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def current(dtype: torch.dtype = torch.float16) -> dict[str, Any]:
    """What the package tuned-lens saves: `hidden_states[i]` has translator i."""
    parameters = {}
    for index in range(LAYERS):
        parameters[f"{index}.weight"] = numbers(WIDTH, WIDTH, seed=index).to(dtype)
        parameters[f"{index}.bias"] = numbers(WIDTH, seed=50 + index).to(dtype)
    return parameters


def legacy(of_embedding: str, of_layers: str) -> dict[str, Any]:
    """What it saved before April 2023."""
    parameters = {"layer_norm.weight": numbers(WIDTH), "unembedding.weight": numbers(9, WIDTH)}
    for part, shape in (("weight", (WIDTH, WIDTH)), ("bias", (WIDTH,))):
        parameters[f"{of_embedding}.{part}"] = current(torch.float32)[f"0.{part}"]
        for layer in range(LAYERS - 1):
            value = current(torch.float32)[f"{layer + 1}.{part}"]
            assert value.shape == shape
            parameters[f"{of_layers}.{layer}.{part}"] = value
    return parameters


@pytest.mark.parametrize(
    ("config", "parameters", "dtype"),
    [
        (CONFIG, current(), torch.float16),
        (CONFIG, OrderedDict(current(torch.float32)), torch.float32),
        (OLD_CONFIG, legacy("input_translator", "layer_translators"), torch.float32),
        (OLD_CONFIG, legacy("input_probe", "layer_probes"), torch.float32),
        (OLD_CONFIG, legacy("input_adapter", "layer_adapters"), torch.float32),
    ],
    ids=["half", "single", "translators", "probes", "adapters"],
)
def test_a_tuned_lens_of_any_age_reads_as_there(tmp_path, llama, config, parameters, dtype):
    """There: `h + translator[i](h)` of `hidden_states[i]`, so the stream after block l has l + 1."""
    folder = folder_of(tmp_path / "t", config, parameters)
    hidden = numbers(5, WIDTH, seed=8)
    for path in (folder, folder / "params.pt"):
        lens = lr.load_lens(path, llama)
        assert (lens.kind, lens.layers) == ("tuned", [EMBEDDING, 0, 1, 2])
        for layer in lens.layers:
            weight, bias = (
                current(dtype)[f"{layer + 1}.{part}"].float() for part in ("weight", "bias")
            )
            expected = hidden + hidden @ weight.T + bias
            torch.testing.assert_close(transported(lens, layer, hidden), expected)
        assert lens.record.settings["unembed_hash"] == "abc"
        assert lens.record.n_layers == LAYERS
        assert lens.record.model == config.get("base_model_name_or_path")


def test_a_state_of_a_module_is_read(tmp_path):
    """`state_dict()` is an ordered dict with attributes of its own."""
    translators = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
    lens = lr.load_lens(folder_of(tmp_path / "t", CONFIG, translators.state_dict()))
    hidden = numbers(5, WIDTH)
    expected = (hidden + translators[2](hidden)).detach()
    torch.testing.assert_close(transported(lens, 1, hidden), expected)


def test_what_we_write_is_what_tuned_lens_writes(tmp_path, llama):
    lens = lens_of(llama)
    lens.save(tmp_path / "t", format="tuned", model=llama)
    config = json.loads((tmp_path / "t" / "config.json").read_text())
    assert config == {
        "base_model_name_or_path": lens.record.model,
        "d_model": WIDTH,
        "num_hidden_layers": LAYERS,
        "bias": True,
        "base_model_revision": None,
        "unembed_hash": tuned_lens_hash(llama),
        "lens_type": "linear_tuned_lens",
    }
    translators = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
    stored = torch.load(tmp_path / "t" / "params.pt", weights_only=True)
    translators.load_state_dict(stored, strict=True)
    hidden = numbers(5, WIDTH, seed=8)
    for layer in (EMBEDDING, 0, 2):
        read_there = (hidden + translators[layer + 1](hidden)).detach()
        torch.testing.assert_close(read_there, transported(lens, layer, hidden))
    # A stream without a transport is read there as by the logit lens.
    assert torch.equal((hidden + translators[2](hidden)).detach(), hidden)
    assert lr.load_lens(tmp_path / "t", llama).layers == [EMBEDDING, 0, 1, 2]


def test_a_tuned_lens_that_was_loaded_is_written_as_it_was(tmp_path):
    folder_of(tmp_path / "a", CONFIG, current())
    lr.load_lens(tmp_path / "a").save(tmp_path / "b", format="tuned")
    before = torch.load(tmp_path / "a" / "params.pt", weights_only=True)
    after = torch.load(tmp_path / "b" / "params.pt", weights_only=True)
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == CONFIG


def test_the_hash_of_tuned_lens_is_that_of_all_numbers(llama):
    import hashlib

    whole = llama.lm_head._module.weight.detach().float().numpy()
    assert tuned_lens_hash(llama) == hashlib.sha256(whole.tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("config", "change", "words"),
    [
        ({"num_hidden_layers": 3}, {}, "stream after block 2 of 3"),
        ({"lens_type": "mlp"}, {}, "lens_type is 'mlp'"),
        ({"rank": 4}, {}, "has rank, so its translators are more"),
        ({"d_model": 31}, {}, "has the shape [32, 32], expected is [31, 31]"),
        ({"d_model": None}, {}, "its width is None"),
        ({"d_model": 2**40}, {}, "its width is 1099511627776"),
        ({"num_hidden_layers": "4"}, {}, "num_hidden_layers is '4'"),
        ({}, {"0.weight": None}, "as no tensor"),
        ({}, {"1.0.weight": numbers(2, 2)}, "'1.0.weight', which is no part"),
        ({}, {"9.bias": numbers(WIDTH)}, "has no weight"),
        ({}, {"1.bias": numbers(WIDTH + 1)}, "expected is [32]"),
        ({}, {"1.bias": numbers(WIDTH) * math.inf}, "NaN or infinite"),
    ],
)
def test_a_tuned_lens_that_is_none_is_refused(tmp_path, config, change, words):
    folder = folder_of(tmp_path / "t", {**CONFIG, **config}, {**current(), **change})
    with pytest.raises(lr.LensError) as error:
        lr.load_lens(folder)
    assert words in str(error.value)


# -- which model a lens belongs to -------------------------------------


@pytest.fixture(scope="module")
def other():
    """The tiny Llama with other weights, without a tokenizer."""
    model = tiny.llama(vocab_size=tiny.STRING_VOCAB)
    tiny.unsettle(model, seed=77)
    return lr.load(model)


def test_a_lens_of_this_model_passes(llama):
    check_belongs(lens_of(llama), llama)
    check_belongs(lens_of(), llama)


def test_a_lens_of_another_model_is_refused(llama, other, tmp_path):
    lens = lens_of(llama)
    record = lens.record
    wide = Lens("linear", {0: Affine(numbers(WIDTH + 1, WIDTH + 1))}, LensRecord(model="m"))
    deep = Lens("linear", {LAYERS: Affine(numbers(WIDTH, WIDTH))})
    heads = Lens("jacobian", {LAYERS - 1: Affine(numbers(WIDTH, WIDTH))})
    rows = [
        (wide, "for vectors of the width 33, and the stream of this LlamaForCausalLM is 32 wide"),
        (wide, "It says that it is of 'm'."),
        (deep, "has a transport for layer 4, and the last layer of this LlamaForCausalLM is 3"),
        (heads, "which is read as it is"),
        (dataclasses.replace(record, n_layers=5), "with 5 layers, and this LlamaForCausalLM has 4"),
        (dataclasses.replace(record, target_layer=2), "maps to the stream after layer 2"),
        (dataclasses.replace(record, unembedding="0" * 16), "with another unembedding"),
        (dataclasses.replace(record, tokenizer="0" * 16), "with another tokenizer"),
    ]
    for bad, words in rows:
        if isinstance(bad, LensRecord):
            bad = dataclasses.replace(lens, record=bad)
        with pytest.raises(lr.LensError, match=words):
            check_belongs(bad, llama)
        bad.save(tmp_path / "bad.safetensors")
        with pytest.raises(lr.LensError, match=words):
            lr.load_lens(tmp_path / "bad.safetensors", llama)
        with pytest.raises(lr.LensError, match=words):
            lr.load_lens(bad, llama)
        assert lr.load_lens(tmp_path / "bad.safetensors").digest == bad.digest
    with pytest.raises(lr.LensError, match="with another unembedding"):
        check_belongs(lens, other)


def test_what_is_not_known_is_passed_over(llama, other, folder):
    """Of the lens, or of the model: without a tokenizer, without weights, or with weights of another form."""
    assert tokenizer_digest(other) is None
    without_digest = dataclasses.replace(model_record(llama), unembedding=None)
    check_belongs(dataclasses.replace(lens_of(), record=without_digest), other)

    skeleton = lr.load(str(folder), remote=True)
    assert unembedding_digest(skeleton) is None
    assert tuned_lens_hash(skeleton) is None
    assert tokenizer_digest(skeleton) == tokenizer_digest(llama)
    check_belongs(lens_of(llama), skeleton)
    assert model_record(skeleton).n_layers == LAYERS
    wrong = dataclasses.replace(model_record(llama), tokenizer="0" * 16)
    with pytest.raises(lr.LensError, match="with another tokenizer"):
        check_belongs(dataclasses.replace(lens_of(), record=wrong), skeleton)

    class Packed(torch.Tensor):
        """Weights of another form, as quantised ones are."""

    model = tiny.llama(vocab_size=tiny.STRING_VOCAB)
    packed = model.lm_head.weight.detach().as_subclass(Packed)
    model.lm_head.weight = torch.nn.Parameter(packed, requires_grad=False)
    assert unembedding_digest(lr.load(model)) is None
    check_belongs(lens_of(llama), lr.load(model))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_one_checkpoint_has_one_digest_in_every_dtype(family, dtype):
    """From any dtype into any other, as far as casts leave the signs."""
    build = tiny.FAMILIES[family]
    digest = unembedding_digest(tiny.shared(family))
    assert digest is not None
    assert unembedding_digest(lr.load(build().to(dtype))) == digest
    assert unembedding_digest(lr.load(build().to(dtype).float())) == digest


def test_a_little_training_is_another_unembedding():
    model = tiny.llama()
    before = unembedding_digest(lr.load(model))
    weight = model.lm_head.weight
    with torch.no_grad():
        weight += numbers(*weight.shape) * 0.01 * weight.std()
    assert unembedding_digest(lr.load(model)) not in (before, None)


def test_a_tokenizer_is_its_tokens_and_how_texts_begin(llama):
    tokenizer = tiny.tiny_tokenizer()
    model = tiny.llama(vocab_size=tiny.STRING_VOCAB)
    assert tokenizer_digest(lr.load(model, tokenizer=tokenizer)) == tokenizer_digest(llama)
    tokenizer.add_tokens(["<more>"])
    assert tokenizer_digest(lr.load(model, tokenizer=tokenizer)) != tokenizer_digest(llama)


# -- where a lens is found ---------------------------------------------


def test_a_folder_with_one_lens_needs_no_name(tmp_path):
    saved(reference(), tmp_path / "a" / "x.pt")
    (tmp_path / "a" / "config.yaml").write_text("a: 1")
    assert lr.load_lens(tmp_path / "a").source == str(tmp_path / "a" / "x.pt")
    saved(reference([0]), tmp_path / "a" / "y.pt")
    with pytest.raises(lr.LensError, match=r"has 2 files that may be a lens \(x.pt, y.pt\)"):
        lr.load_lens(tmp_path / "a")
    assert lr.load_lens(tmp_path / "a", file="y.pt").layers == [0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(lr.LensError, match="has 0 files"):
        lr.load_lens(tmp_path / "empty")


@pytest.mark.parametrize("file", ["../x.pt", "/etc/passwd", "a/../../b.pt", "a\\b.pt", "", "."])
def test_a_name_that_leaves_its_folder_is_refused(tmp_path, file):
    with pytest.raises(ValueError, match="is no path inside"):
        lr.load_lens(tmp_path, file=file)
    with pytest.raises(ValueError, match="is no path inside"):
        lr.load_lens("owner/name", file=file)


def test_arguments_that_do_not_go_together(tmp_path):
    path = saved(reference(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="file= is of a folder"):
        lr.load_lens(path, file="b.pt")
    with pytest.raises(ValueError, match="revision= is of a repository"):
        lr.load_lens(path, revision="main")
    with pytest.raises(ValueError, match="received int"):
        lr.load_lens(3)
    for missing in ("no-such", "out/lens.pt", "a/b/c", str(tmp_path / "no.safetensors")):
        with pytest.raises(lr.LensError, match="there is no file or folder"):
            lr.load_lens(missing)


# -- the hub -----------------------------------------------------------


def file_of(values: Any) -> bytes:
    written = io.BytesIO()
    torch.save(values, written)
    return written.getvalue()


@pytest.fixture(scope="module")
def hub():
    jlens = "jlens/Salesforce-wikitext"
    config = json.dumps(CONFIG).encode()
    with fakehub.FakeHub(
        {
            "neuronpedia/jacobian-lens@main": {
                f"qwen3-4b/{jlens}/Qwen3-4B_jacobian_lens.pt": file_of(reference([0])),
                f"other/{jlens}/Tiny_jacobian_lens.pt": file_of(reference([1])),
                f"other/{jlens}/Tiny_jacobian_lens_n1000.pt": file_of(reference([2])),
                f"other/{jlens}/Tiny-it_jacobian_lens.pt": file_of(reference([0, 1])),
            },
            "neuronpedia/jacobian-lens@qwen-n1000": {
                f"qwen3.5-4b/{jlens}/Qwen3.5-4B_jacobian_lens_n1000.pt": file_of(reference([0, 2])),
            },
            "spaces/AlignmentResearch/tuned-lens@main": {
                "lens/gpt2/config.json": config,
                "lens/gpt2/params.pt": file_of(current()),
            },
            "me/lenses@main": {
                "x/rlens/lens_fp32.pt": file_of(reference()),
                "x/rlens/config.json": b"{}",
                "y/lens.pt": file_of(reference([0])),
            },
            "me/one@main": {"lens.pt": file_of(reference([1])), "README.md": b"hello"},
        }
    ) as server:
        yield server


@pytest.fixture
def at_hub(hub, tmp_path):
    with fakehub.asked_instead(hub.url, tmp_path / "cache"):
        hub.asked.clear()
        yield hub


def named(llama: Any, name: str, monkeypatch: Any) -> Any:
    """The tiny model, as if it came from the hub under a name."""
    monkeypatch.setattr("lens_recipes.lenses.load.model_name", lambda _: name)
    return llama


@pytest.mark.parametrize(
    ("name", "layers", "at"),
    [
        ("Qwen/Qwen3-4B", [0], ""),
        ("someone/qwen3-4b", [0], ""),  # a copy of the same weights
        ("Qwen/Qwen3.5-4B", [0, 2], "@qwen-n1000"),
        ("me/Tiny", [2], ""),  # by its name in the list; that of the most prompts
        ("me/tiny-IT", [0, 1], ""),
    ],
)
def test_the_published_lens_of_a_model_is_found(at_hub, llama, monkeypatch, name, layers, at):
    model = named(llama, name, monkeypatch)
    lens = lr.load_lens("neuronpedia/jacobian-lens", model=model)
    assert lens.layers == layers
    assert lens.source.startswith(f"hf://neuronpedia/jacobian-lens{at}/")
    # Its address is as good, and the second time nothing is sent but a question.
    assert lr.load_lens(lens.source, model).digest == lens.digest


def test_each_published_file_has_the_name_of_its_model():
    """What is known and what is found by names agree."""
    names = [*published.FOLDERS.values(), *published.PREFERRED]
    assert len({name.lower() for name in names}) == len(names)
    files = [published.jacobian_file(f"owner/{name}") for name in names]
    assert all(file is not None for file in files)
    listed = [file.file for file in files if file is not None]
    for name, file in zip(names, listed, strict=True):
        assert published.find_jacobian_file(f"any/{name.upper()}", listed) == file
    assert published.jacobian_file("Qwen/Qwen3.5-2B") is None  # there is one of its base model
    assert published.find_jacobian_file("Qwen/Qwen3.5-2B", listed) is None


def test_what_is_in_the_cache_is_read_without_the_hub(at_hub, llama, monkeypatch):
    model = named(llama, "Qwen/Qwen3-4B", monkeypatch)
    lens = lr.load_lens("neuronpedia/jacobian-lens", model=model)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    at_hub.asked.clear()
    assert lr.load_lens("neuronpedia/jacobian-lens", model=model).digest == lens.digest
    assert at_hub.asked == []


def test_a_published_tuned_lens_is_found(at_hub, llama, monkeypatch):
    """Old folders have the name of the model without its owner."""
    model = named(llama, "openai-community/gpt2", monkeypatch)
    lens = lr.load_lens("AlignmentResearch/tuned-lens", model=model)
    assert lens.source == "hf://spaces/AlignmentResearch/tuned-lens/lens/gpt2"
    assert (lens.kind, lens.layers) == ("tuned", [EMBEDDING, 0, 1, 2])
    assert lr.load_lens(lens.source, model).digest == lens.digest
    by_file = lr.load_lens("AlignmentResearch/tuned-lens", file="lens/gpt2/params.pt")
    assert by_file.digest == lens.digest


def test_a_lens_of_any_repository(at_hub):
    assert lr.load_lens("me/one").layers == [1]
    assert lr.load_lens("me/lenses", file="y/lens.pt").kind == "jacobian"
    assert lr.load_lens("me/lenses", file="x/rlens/lens_fp32.pt").kind == "r"


@pytest.mark.parametrize(
    ("source", "arguments", "words"),
    [
        ("me/lenses", {}, "has 2 files that may be a lens: 'x/rlens/lens_fp32.pt', 'y/lens.pt'"),
        ("me/none", {}, "the list of its files of 'me/none' could not be had from the hub"),
        ("me/one", {"file": "no.pt"}, "'no.pt' of 'me/one' could not be had from the hub"),
        ("me/one", {"file": "README.md"}, "is no lens that can be read"),
        ("me/one", {"file": "lens.pt", "revision": "v9"}, "at the revision 'v9'"),
        ("neuronpedia/jacobian-lens", {}, "holds lenses of many models"),
        ("AlignmentResearch/tuned-lens", {}, "holds lenses of many models"),
    ],
)
def test_what_is_not_at_the_hub_is_said(at_hub, source, arguments, words):
    with pytest.raises(lr.LensError) as error:
        lr.load_lens(source, **arguments)
    assert words in str(error.value)


def test_a_model_without_a_published_lens(at_hub, llama, monkeypatch):
    model = named(llama, "me/unknown", monkeypatch)
    with pytest.raises(lr.LensError, match="has no lens of 'me/unknown'"):
        lr.load_lens("neuronpedia/jacobian-lens", model=model)
    with pytest.raises(lr.LensError, match="has no tuned lens at 'lens/me/unknown' nor"):
        lr.load_lens("AlignmentResearch/tuned-lens", model=model)


def test_a_hub_that_is_not_there_is_a_sentence(tmp_path):
    with fakehub.FakeHub({}) as gone:
        url = gone.url
    with (
        fakehub.asked_instead(url, tmp_path / "cache"),
        pytest.raises(lr.LensError, match=r"could not be had from the hub\. Check the name"),
    ):
        lr.load_lens("me/one", file="lens.pt")
