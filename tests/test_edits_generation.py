"""An edited text is what Hugging Face's `generate` writes with plain hooks, for the prompt, what is written, and both."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import strict_local
import tiny
import torch
from test_remote import NOT_THERE

import lens_recipes as lr
from lens_recipes.models.structure.block.blocks import residual_blocks

NEW = 5
PROMPTS = [[11, 12, 13, 14, 15, 16, 17], [21, 22, 23], [31, 32, 33, 34, 35]]
# Caches of every kind: full, sliding window, hybrid, state space, and none at all.
FAMILIES = [
    "llama",
    "gemma2",
    "gpt2",
    "falcon",
    "mamba",
    "mixtral",
    "granite",
    "falcon_h1",
    "recurrent_gemma",
    "openai_gpt",
    "bert_lm",
    "rwkv",
]
WHEN = ["prompt", "written", "both"]


class Passes:
    """Which columns of a text run in each forward pass of a plain `generate`."""

    def __init__(self, module, width: int) -> None:
        self.width = width
        self.step = -1
        self.handles = [module.register_forward_pre_hook(self.begin, with_kwargs=True)]

    def begin(self, _module, _args, options):
        self.step += 1
        self.total = self.width + self.step
        self.first = self.total - options["input_ids"].shape[1]

    def columns(self, when: str, positions) -> list[int]:
        """The columns of this forward pass that an edit changes."""
        prompt = list(range(self.width)) if positions is None else positions
        prompt = [column % self.width for column in prompt] if when != "written" else []
        written = range(self.width, self.total) if when != "prompt" else []
        return [column - self.first for column in [*prompt, *written] if column >= self.first]

    def edit_output(self, module, change, when: str, positions=None) -> None:
        """Change what a module gives at these columns, as `change` says."""

        def hook(_module, _args, output):
            stream = (output if torch.is_tensor(output) else output[0]).clone()
            change(stream[0], self.columns(when, positions), self.step)
            return stream if torch.is_tensor(output) else (stream, *output[1:])

        self.handles.append(module.register_forward_hook(hook))

    def edit_input(self, module, change, when: str, positions=None) -> None:
        """Change what a module takes."""

        def hook(_module, args):
            stream = args[0].clone()
            grid = stream.reshape(-1, stream.shape[-1])
            change(grid, self.columns(when, positions), self.step)
            return (grid.reshape(stream.shape), *args[1:])

        self.handles.append(module.register_forward_pre_hook(hook))


def hooked(model, prompt, install, new=NEW):
    """What `generate` writes after a prompt alone, and what the model gave to each token."""
    module = model._module
    passes = Passes(module, len(prompt))
    install(passes)
    ids = torch.tensor([prompt])
    try:
        out = module.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    finally:
        for handle in passes.handles:
            handle.remove()
    written = out.sequences[0, len(prompt) :]
    logprobs = torch.stack(out.logits)[:, 0].float().log_softmax(-1)
    return written.tolist(), logprobs.gather(-1, written[:, None])[:, 0].numpy()


def block(model, layer):
    """A block, to be looked up before a hook is there: then the model is examined anew."""
    return model._module.get_submodule(lr.anatomy(model).block(layer))


def set_to_zero(rows, columns, _step):
    rows[columns] = 0


def with_tokenizer(family):
    """A model that takes several prompts in one batch."""
    return lr.load(tiny.FAMILIES[family](), tokenizer=tiny.tiny_tokenizer())


def assert_as_hooked(result, model, install, prompts=PROMPTS, new=NEW, atol=1e-5):
    """Each prompt's text is that of a hooked `generate` of the prompt alone."""
    assert result.certificate.passed
    assert result.certificate.max_edit_error < 1e-5
    for number, prompt in enumerate(prompts):
        ids, logprobs = hooked(model, prompt, install, new)
        tokens = result[number].tokens
        assert tokens.next_id[tokens.generated].tolist() == ids
        np.testing.assert_allclose(tokens.next_logprob[tokens.generated], logprobs, atol=atol)


def generated(model, edits, prompts=PROMPTS, new=NEW, **options):
    return lr.generate_lens(
        model, prompts, max_new_tokens=new, do_sample=False, edits=edits, **options
    )


# -- as with hooks -----------------------------------------------------


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_stream_that_is_changed_while_any_family_writes(family, when):
    """A vector is added after a block, in a batch with padding where the family takes that."""
    model = with_tokenizer(family)
    target = block(model, 1)
    vector = torch.randn(lr.anatomy(model).d_model, generator=torch.Generator().manual_seed(3))

    def add(rows, columns, _step):
        rows[columns] += 1.5 * vector

    edit = lr.steer(vector, layer=1, scale=1.5, normalize=False, when=when)
    plain = generated(model, None)
    result = generated(model, edit)
    assert_as_hooked(result, model, lambda passes: passes.edit_output(target, add, when))
    assert (
        plain.tokens.next_logprob.round(3).tolist() != result.tokens.next_logprob.round(3).tolist()
    )


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "falcon"])
def test_a_head_that_is_ablated_while_a_text_is_written(family, when):
    model = with_tokenizer(family)
    heads = residual_blocks(model)[2].writes[0].heads
    projection = model._module.get_submodule(heads.point.path)

    def silence(rows, columns, _step):
        rows[np.ix_(columns, heads.columns[1])] = 0

    edit = lr.ablate(layer=2, component="head_out", head=1, when=when)
    assert_as_hooked(
        generated(model, edit),
        model,
        lambda passes: passes.edit_input(projection, silence, when),
    )


PLACES = {"attn_out": "self_attn", "resid_mid": "self_attn", "mlp_out": "mlp"}


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("component", PLACES)
def test_a_vector_is_added_within_a_block_while_a_text_is_written(component, when):
    model = with_tokenizer("llama")
    target = getattr(block(model, 1), PLACES[component])
    vector = torch.randn(lr.anatomy(model).d_model, generator=torch.Generator().manual_seed(3))

    def add(rows, columns, _step):
        rows[columns] += vector

    edit = lr.steer(vector, layer=1, component=component, normalize=False, when=when)
    assert_as_hooked(
        generated(model, edit), model, lambda passes: passes.edit_output(target, add, when)
    )


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("component", ["embed", "resid_pre"])
def test_the_stream_before_a_block_is_changed_while_a_text_is_written(component, when):
    model = with_tokenizer("llama")
    target = block(model, 0)
    layer = {} if component == "embed" else {"layer": 0}

    def to_ones(rows, columns, _step):
        rows[columns] = 1

    edit = lr.ablate(
        component=component, to=torch.ones(lr.anatomy(model).d_model), when=when, **layer
    )
    assert_as_hooked(
        generated(model, edit), model, lambda passes: passes.edit_input(target, to_ones, when)
    )


@pytest.mark.parametrize("when", ["prompt", "both"])
def test_positions_are_those_of_each_prompt_and_written_tokens_are_all(when):
    model = with_tokenizer("llama")
    target = block(model, 1)
    edit = lr.ablate(layer=1, positions=[0, -1], when=when)
    assert_as_hooked(
        generated(model, edit, include_prompt=True),
        model,
        lambda passes: passes.edit_output(target, set_to_zero, when, [0, -1]),
    )


@pytest.mark.parametrize("when", WHEN)
def test_what_is_added_is_measured_in_vectors_of_the_prompt(when):
    """Its unit is their median norm also where only what is written is changed."""
    model = with_tokenizer("llama")
    target = block(model, 2)
    vector = torch.randn(lr.anatomy(model).d_model, generator=torch.Generator().manual_seed(3))
    unit = {}

    def add(rows, columns, step):
        if step == 0:
            unit["norm"] = torch.quantile(rows.norm(dim=-1), 0.5, interpolation="lower")
        rows[columns] += 0.7 * unit["norm"] * vector / vector.norm()

    edit = lr.steer(vector, layer=2, scale=0.7, when=when)
    assert_as_hooked(
        generated(model, edit),
        model,
        lambda passes: passes.edit_output(target, add, when),
    )


@pytest.mark.parametrize("when", WHEN)
def test_a_live_swap_of_two_tokens(when):
    model = with_tokenizer("llama")
    target = block(model, 1)
    module = model._module
    gain = module.model.norm.weight.detach()
    rows_of_tokens = module.lm_head.weight.detach()[[41, 42]] * gain
    plane = (rows_of_tokens / rows_of_tokens.norm(dim=-1, keepdim=True)).double()

    def exchange(rows, columns, _step):
        coordinates = rows[columns].double() @ torch.linalg.pinv(plane)
        rows[columns] += ((coordinates.flip(-1) - coordinates) @ plane).float()

    edit = lr.swap(41, 42, layers=1, clamp=False, when=when)
    assert_as_hooked(
        generated(model, edit),
        model,
        lambda passes: passes.edit_output(target, exchange, when),
    )


def test_the_mean_of_other_prompts_stands_in_for_what_is_written():
    model = with_tokenizer("gpt2")
    target = block(model, 1)
    over = [[5, 6, 7, 8], [9, 8, 7, 6]]
    streams = []
    handle = block(model, 1).register_forward_hook(
        lambda _module, _args, output: streams.append(
            output if torch.is_tensor(output) else output[0]
        )
    )
    with torch.no_grad():
        model._module(input_ids=torch.tensor(over))
    handle.remove()
    mean = streams[0][:, 1:].flatten(0, 1).mean(0)

    def to_mean(rows, columns, _step):
        rows[columns] = mean

    edit = lr.ablate(layer=1, to="mean", over=over, when="written")
    assert_as_hooked(
        generated(model, edit),
        model,
        lambda passes: passes.edit_output(target, to_mean, "written"),
    )


def test_a_patch_of_the_prompt_goes_on_in_what_is_written():
    """A source is read once, before anything is written."""
    model = with_tokenizer("llama")
    target = block(model, 1)
    source = [44, 45, 46, 47, 48]
    kept = []
    handle = block(model, 1).register_forward_hook(
        lambda _module, _args, output: kept.append(
            (output if torch.is_tensor(output) else output[0])[0].clone()
        )
    )
    with torch.no_grad():
        model._module(input_ids=torch.tensor([source]))
    handle.remove()

    def put_in(rows, columns, _step):
        if columns:
            rows[columns] = kept[0][3]

    edit = lr.patch(source, layer=1, positions=-1, source_positions=3)
    assert_as_hooked(
        generated(model, edit),
        model,
        lambda passes: passes.edit_output(target, put_in, "prompt", [-1]),
    )


@pytest.mark.parametrize("when", WHEN)
def test_without_a_cache_the_whole_text_is_edited_again(when):
    model = with_tokenizer("llama")
    edits = [
        lr.steer(43, layer=1, scale=0.8, when=when),
        lr.ablate(layer=2, component="mlp_out", positions=[1], when="prompt"),
    ]
    with_cache = generated(model, edits)
    without = generated(model, edits, generation_config={"use_cache": False})
    assert without.tokens.next_id.tolist() == with_cache.tokens.next_id.tolist()
    np.testing.assert_allclose(
        without.tokens.next_logprob, with_cache.tokens.next_logprob, atol=1e-5
    )


def test_edits_of_the_prompt_and_of_what_is_written_may_differ_at_one_site():
    model = with_tokenizer("llama")
    vector = torch.ones(lr.anatomy(model).d_model)
    target = block(model, 1)

    def install(passes):
        def to_ones(rows, columns, _step):
            rows[columns] = 1

        passes.edit_output(target, set_to_zero, "prompt", [2])
        passes.edit_output(target, to_ones, "written")

    edits = [lr.ablate(layer=1, positions=2), lr.ablate(layer=1, to=vector, when="written")]
    assert_as_hooked(generated(model, edits), model, install)


def test_the_lens_of_each_step_is_that_of_the_edited_run():
    """What `logit_lens` reads of the whole text with the same edit at the same tokens."""
    model = with_tokenizer("llama")
    prompt = PROMPTS[0]
    result = generated(model, lr.ablate(layer=1, to="zero", when="written"), [prompt])
    written = result.tokens.next_id.tolist()
    whole = [*prompt, *written[:-1]]
    again = lr.logit_lens(
        model,
        [whole],
        positions=slice(len(prompt) - 1, None),
        edits=lr.ablate(layer=1, positions=slice(len(prompt), None)),
    )
    np.testing.assert_allclose(result.top_logprobs, again.top_logprobs, atol=2e-4)
    assert (result.top_ids[1] == again.top_ids[1]).mean() > 0.9  # a zero stream: all ties


def test_sampled_with_a_seed_it_is_hugging_faces_text(smollm2):
    prompt = "Once upon a time"
    edit = lr.ablate(layer=20, component="mlp_out", when="both")
    result = lr.generate_lens(
        smollm2, prompt, max_new_tokens=NEW, temperature=0.9, seed=4, edits=edit
    )
    module = smollm2._module
    handle = module.model.layers[20].mlp.register_forward_hook(
        lambda _module, _args, output: torch.zeros_like(output)
    )
    ids = torch.tensor([smollm2.tokenizer(prompt).input_ids])
    torch.manual_seed(4)
    try:
        out = module.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            do_sample=True,
            temperature=0.9,
        )
    finally:
        handle.remove()
    assert result.tokens.next_id.tolist() == out[0, ids.shape[1] :].tolist()
    assert result.certificate.max_edit_error == 0


def test_rows_that_end_early_leave_the_others_as_they_are():
    model = with_tokenizer("llama")
    edit = lr.steer(43, layer=1, scale=0.8, when="both")
    plain = generated(model, edit)
    first = plain[0].tokens.next_id.tolist()
    ended = generated(model, edit, generation_config={"eos_token_id": first[1]})
    assert ended[0].tokens.next_id.tolist() == first[: first.index(first[1]) + 1]
    for number in range(len(PROMPTS)):
        written = ended[number].tokens.next_id.tolist()
        assert written == plain[number].tokens.next_id.tolist()[: len(written)]


# -- what changes nothing ----------------------------------------------


def test_an_edit_of_what_is_written_leaves_the_first_token_as_it_is():
    model = with_tokenizer("llama")
    plain = generated(model, None)
    edited = generated(model, lr.ablate(layer=1, when="written"))
    for number in range(len(PROMPTS)):
        one, other = plain[number], edited[number]
        assert (one.top_logprobs[:, 0] == other.top_logprobs[:, 0]).all()
    assert plain.tokens.next_id.tolist() != edited.tokens.next_id.tolist()


def test_adding_nothing_changes_no_number():
    model = with_tokenizer("llama")
    plain = generated(model, None)
    edited = generated(model, lr.steer(43, layer=1, scale=0.0, when="both"))
    assert (plain.top_logprobs == edited.top_logprobs).all()
    assert (plain.tokens.next_logprob == edited.tokens.next_logprob).all()


# -- nothing is left behind --------------------------------------------


def state(module):
    """All that a run might leave: hooks, and the weights."""
    hooks = [
        (name, len(child._forward_hooks), len(child._forward_pre_hooks), "forward" in vars(child))
        for name, child in module.named_modules()
    ]
    weights = [parameter.detach().clone() for parameter in module.parameters()]
    return hooks, weights


def assert_same_state(module, before):
    hooks, weights = state(module)
    assert hooks == before[0]
    for one, other in zip(weights, before[1], strict=True):
        assert torch.equal(one, other)


def test_ctrl_c_keeps_what_was_written_and_leaves_nothing_behind():
    model = with_tokenizer("llama")
    edits = [lr.steer(43, layer=1, scale=0.8, when="both"), lr.ablate(layer=2, when="written")]
    whole = generated(model, edits)
    plain = generated(model, None)
    seen = []

    def interrupt(step):
        seen.append(step)
        if len(seen) == 2 * len(PROMPTS):
            signal.raise_signal(signal.SIGINT)

    before = state(model._module)
    part = generated(model, edits, on_step=interrupt)
    assert_same_state(model._module, before)
    assert {response.finish for response in part.responses} == {"interrupted"}
    for number in range(len(part)):
        written = part[number].tokens.next_id.tolist()
        assert 0 < len(written) < NEW
        assert written == whole[number].tokens.next_id.tolist()[: len(written)]
    assert [edit.kind for edit in part.edits] == ["ablate", "steer"]
    again = generated(model, None)
    assert (again.top_logprobs == plain.top_logprobs).all()


def test_ctrl_c_while_a_source_is_read_is_ctrl_c():
    model = with_tokenizer("llama")
    edit = lr.patch([1, 2, 3], layer=1, positions=0)
    generated(model, edit, new=1)
    before = state(model._module)
    with pytest.MonkeyPatch.context() as patch:

        def interrupted(*_args, **_options):
            raise KeyboardInterrupt

        patch.setattr("lens_recipes.recipes.generation.generate.read_sources", interrupted)
        with pytest.raises(KeyboardInterrupt):
            generated(model, edit)
    assert_same_state(model._module, before)


def test_an_exception_leaves_nothing_behind():
    model = with_tokenizer("llama")
    plain = generated(model, None)
    before = state(model._module)

    def fail(step):
        raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        generated(model, lr.ablate(layer=1, when="both"), on_step=fail)
    assert_same_state(model._module, before)
    assert (generated(model, None).top_logprobs == plain.top_logprobs).all()


# -- what is saved and sent --------------------------------------------


def test_a_file_keeps_the_edits(tmp_path):
    model = with_tokenizer("llama")
    edits = [lr.steer(43, layer=1, when="both"), lr.swap(3, 4, layers=2, clamp=False, when="both")]
    result = generated(model, edits)
    result.save(tmp_path / "edited.json")
    loaded = lr.LensResult.load(tmp_path / "edited.json")
    assert [str(edit) for edit in loaded.edits] == [str(edit) for edit in result.edits]
    assert {edit.when for edit in loaded.edits} == {"both"}
    steps = []
    generated(model, edits, on_step=steps.append)
    assert all(len(step.edits) == 2 for step in steps)


EDITS = {
    "stream": lambda: [lr.steer(43, layer=1, scale=0.8, when="both")],
    "sources": lambda: [
        lr.patch([44, 45, 46], layer=1, positions=-1, source_positions=1),
        lr.ablate(layer=2, component="mlp_out", to="mean", over=[[5, 6, 7]], when="written"),
    ],
}


@pytest.mark.parametrize("name", EDITS)
def test_a_server_without_this_package_edits_and_writes_the_same(name, llama, monkeypatch):
    here = generated(llama, EDITS[name](), PROMPTS[:2])
    strict_local.install(monkeypatch, *NOT_THERE)
    there = generated(llama, EDITS[name](), PROMPTS[:2], remote="local")
    assert there.tokens.next_id.tolist() == here.tokens.next_id.tolist()
    np.testing.assert_allclose(there.top_logprobs, here.top_logprobs, atol=2e-4)
    assert there.certificate.max_edit_error < 1e-5
    assert [str(edit) for edit in there.edits] == [str(edit) for edit in here.edits]


# -- what is refused ---------------------------------------------------

REFUSED = [
    (lambda: lr.ablate(layer=1, to="resample", when="both"), "another prompt has"),
    (lambda: lr.swap(1, 2, layers=1, when="written"), "clamp=False"),
    (lambda: lr.ablate(layer=1, positions=2, when="written"), "every token that the model writes"),
    (lambda: type(lr.patch([1], layer=1))(layer=1, source=[1], when="both"), "its source has"),
    (lambda: lr.steer(3, layer=1, when="always"), "unknown"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_what_cannot_act_on_written_tokens_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_where_nothing_is_written_an_edit_of_it_is_refused(llama):
    edit = lr.steer(3, layer=1, when="written")
    with pytest.raises(ValueError, match="nothing is written here"):
        lr.logit_lens(llama, "one prompt", edits=edit)
    with pytest.raises(ValueError, match="never goes through the model"):
        lr.generate_lens(llama, "one prompt", max_new_tokens=1, edits=edit)


def test_two_edits_of_every_written_token_are_refused(llama):
    edits = [
        lr.ablate(layer=1, positions=0, when="both"),
        lr.ablate(layer=1, to=torch.ones(lr.anatomy(llama).d_model), when="written"),
    ]
    with pytest.raises(ValueError, match="at every token that is written"):
        lr.generate_lens(llama, "one prompt", max_new_tokens=3, edits=edits)


def test_an_edit_is_made_again_from_what_a_job_keeps():
    edit = lr.swap(3, 4, layers=2, clamp=False, when="both")
    fields = json.loads(json.dumps(edit.to_json()))
    assert fields["when"] == "both"
