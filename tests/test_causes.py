"""What is refused names its true cause, and what is read in an unlikely way says so."""

from __future__ import annotations

import io
import logging

import numpy as np
import peft
import pytest
import tiny
import torch
from rich.cells import cell_len
from rich.console import Console
from torch import nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
from transformers import PreTrainedTokenizerFast

import lens_recipes as lr
from lens_recipes.views.tables.generation.report import generation_report

IDS = [[7, 8, 9]]


# -- quantised products ------------------------------------------------


class Linear8bitLt(nn.Linear):
    """Rounds what it takes to 8 bits, as bitsandbytes' class of this name."""

    __module__ = "bitsandbytes.nn.modules"

    def forward(self, rows):
        step = rows.abs().amax(-1, keepdim=True).clamp(min=1e-6) / 127
        return nn.functional.linear((rows / step).round() * step, self.weight, self.bias)


def int8():
    """A Llama whose projections round what they take."""
    module = tiny.llama()
    for path, child in list(module.named_modules()):
        parent, _, name = path.rpartition(".")
        if isinstance(child, nn.Linear) and name != "lm_head":
            rounding = Linear8bitLt(child.in_features, child.out_features, child.bias is not None)
            rounding.load_state_dict(child.state_dict())
            setattr(module.get_submodule(parent), name, rounding)
    return module.requires_grad_(False)


def torchao_int8():
    module = tiny.llama()
    quantize_(module, Int8DynamicActivationInt8WeightConfig())
    return module


def dynamic_int8():
    """The unembedding is quantised, too, and rounds by the largest of all rows it is given."""
    return torch.ao.quantization.quantize_dynamic(tiny.llama(), {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize("build", [int8, torchao_int8, dynamic_int8])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_parts_of_a_quantised_product_blame_the_quantisation(build):
    model = lr.load(build())
    with pytest.raises(lr.LensError, match=r"Likely cause: this model is quantised") as error:
        lr.attribution(model, IDS, 9, unit="head")
    assert "hook" not in str(error.value)
    assert "layers or components, not heads" in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_logits_that_depend_on_the_other_rows_blame_the_quantisation():
    with pytest.raises(lr.LensError, match=r"Likely cause: this model is quantised") as error:
        lr.logit_lens(lr.load(dynamic_int8()), IDS)
    assert "softcap" not in str(error.value)


def test_a_hook_is_blamed_where_nothing_is_quantised(monkeypatch):
    certificate = lr.Certificate(0.0, 20.0, 0.0, 1.0, 5, "float32", max_block_error=0.5)
    with pytest.raises(lr.LensError, match="a hook, an adapter"):
        certificate.check()
    with pytest.raises(lr.LensError, match="Likely cause: of mine"):
        certificate.check(lambda: "of mine")


# -- other causes ------------------------------------------------------


def test_prompt_tuning_adds_tokens():
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    tuned = peft.get_peft_model(tiny.llama(), config).eval()
    with pytest.raises(lr.LensError, match="puts vectors before the prompt that are no tokens"):
        lr.logit_lens(lr.load(tuned), IDS)


def test_a_mean_of_logits_that_holds_minus_infinity():
    module = tiny.llama()
    head = nn.Linear(32, tiny.VOCAB)
    head.weight.data = module.lm_head.weight.data.clone()
    head.bias.data.zero_()
    head.bias.data[5] = -torch.inf
    module.lm_head = head
    model = lr.load(module.requires_grad_(False))
    with pytest.raises(lr.LensError, match=r"a logit of −∞, so the mean .* is −∞"):
        lr.attribution(model, IDS, 9, against="mean")
    assert lr.attribution(model, IDS, 9, against=8).certificate.passed


@pytest.mark.parametrize("is_known", [False, True])
def test_a_recipe_within_a_trace_says_to_leave_it(is_known):
    model = lr.load(tiny.llama())
    if is_known:
        lr.logit_lens(model, IDS)
    for recipe in (lr.logit_lens, lambda *args: lr.attribution(*args, 9)):
        with (
            pytest.raises(lr.LensError, match=r"in the middle of a trace.*leave the trace"),
            model.trace(torch.tensor(IDS)),
        ):
            recipe(model, IDS)
    assert lr.logit_lens(model, IDS).certificate.passed


# -- beginnings --------------------------------------------------------


@pytest.fixture(scope="module")
def bos_model():
    """A model whose tokenizer puts <s> before a text."""
    plain = tiny.tiny_tokenizer()
    backend = plain.backend_tokenizer
    from tokenizers.processors import TemplateProcessing

    bos = plain.convert_ids_to_tokens(tiny.BOS)
    backend.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tiny.BOS)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=plain.eos_token
    )
    return lr.load(tiny.llama(tiny.STRING_VOCAB), tokenizer=tokenizer)


def test_a_text_that_brings_its_own_beginning_is_told(bos_model, caplog):
    from lens_recipes.models.handle import tokenizer_of

    bos = tokenizer_of(bos_model).bos_token
    for recipe in (lr.logit_lens, generated):
        with caplog.at_level(logging.WARNING, logger="lens_recipes"):
            recipe(bos_model, ["a prompt", f"{bos}a prompt"])
        (record,) = caplog.records
        assert f"prompt 1 begins with {bos} twice" in record.getMessage()
        assert "add_special_tokens=False" in record.getMessage()
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="lens_recipes"):
            recipe(bos_model, f"{bos}a prompt", add_special_tokens=False)
            recipe(bos_model, "a prompt")
            recipe(bos_model, [[tiny.BOS, tiny.BOS, 9]])
        assert not caplog.records


def generated(model, prompts, **options):
    return lr.generate_lens(model, prompts, max_new_tokens=2, do_sample=False, **options)


def test_writing_takes_a_text_without_a_beginning(bos_model):
    text = generated(bos_model, "a prompt", add_special_tokens=False, include_prompt=True)
    with_bos = generated(bos_model, "a prompt", include_prompt=True)
    assert with_bos.tokens.id[0] == tiny.BOS
    assert text.tokens.id[0] != tiny.BOS
    module, ids = bos_model._module, with_bos.tokens.id[1:-1].tolist()
    expected = module.generate(torch.tensor([ids]), max_new_tokens=2, do_sample=False)
    assert text.tokens.next_id[-2:].tolist() == expected[0, len(ids) :].tolist()


# -- narrow terminals --------------------------------------------------


@pytest.mark.parametrize("width", [40, 60, 100])
def test_no_line_of_a_generation_is_wider_than_the_console(bos_model, width):
    result = generated(bos_model, "a prompt that goes on and on, and on, and on, and still on")
    for written in (False, True):
        console = Console(file=io.StringIO(), width=width)
        generation_report(result, console, written=written)
        lines = console.file.getvalue().splitlines()
        response = result.responses[0].text.splitlines()
        widest = max(cell_len(line) for line in lines if line not in response)
        assert widest <= width
        assert np.any(["wrote" in line for line in lines])
