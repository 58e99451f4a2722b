"""Texts and attributions of edited runs on a real server, for callers that it trusts and for strangers: as here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lens_recipes as lr

FRANCE, ITALY = "The capital of France is", "The capital of Italy is"


def edits_of(when: str) -> list[lr.Edit]:
    """Edits with and without sources, of the stream, of the middle of a block, of a module and of a head."""
    return [
        lr.steer(260, layer=1, scale=0.5, when=when),
        lr.steer(261, layer=2, scale=0.5, component="resid_mid", when=when),
        lr.ablate(layer=2, component="mlp_out", to="mean", over=[FRANCE], when=when),
        lr.ablate(layer=1, component="head_out", head=1, when=when),
        lr.patch(ITALY, layer=0, positions=-1, source_positions=-1),
    ]


@pytest.mark.parametrize("when", ["prompt", "written", "both"])
def test_an_edited_text_is_the_one_that_is_written_here(when, any_server, client, here):
    options = {"max_new_tokens": 5, "do_sample": False, "edits": edits_of(when)}
    there = lr.generate_lens(client(any_server, "tiny"), [FRANCE, ITALY], **options)
    own = lr.generate_lens(here("tiny"), [FRANCE, ITALY], **options)
    assert there.responses == own.responses
    np.testing.assert_array_equal(there.tokens.next_id, own.tokens.next_id)
    np.testing.assert_allclose(there.tokens.next_logprob, own.tokens.next_logprob, atol=1e-3)
    assert there.certificate.passed
    assert there.certificate.max_edit_error < 1e-5
    assert [str(edit) for edit in there.edits] == [str(edit) for edit in own.edits]


def test_a_steered_text_of_a_real_model(any_server, client, here):
    edit = lr.steer((" Rome", " Paris"), layer=20, scale=0.2, when="both")
    options = {"max_new_tokens": 6, "do_sample": False, "layers": [20, 29], "edits": edit}
    there = lr.generate_lens(client(any_server, "smollm2"), FRANCE, **options)
    own = lr.generate_lens(here("smollm2"), FRANCE, **options)
    assert there.responses == own.responses
    assert there.certificate.max_edit_error < 1e-5


def before_a_block(model):
    """An edit of the stream before a block, while a text is written."""
    vector = torch.ones(lr.anatomy(model).d_model)
    return lr.steer(vector, layer=2, component="resid_pre", normalize=False, when="both")


def test_before_a_block_where_the_caller_is_trusted(server, client, here):
    options = {"max_new_tokens": 4, "do_sample": False, "edits": before_a_block(here("tiny"))}
    there = lr.generate_lens(client(server, "tiny"), FRANCE, **options)
    assert there.responses == lr.generate_lens(here("tiny"), FRANCE, **options).responses


def test_before_a_block_it_is_refused_to_a_stranger(sandbox_server, client, here):
    """A stranger's edits come back to the model as copies, that of its cache among them."""
    edit = before_a_block(here("tiny"))
    with pytest.raises(lr.RemoteLensError, match="while it writes") as caught:
        lr.generate_lens(client(sandbox_server, "tiny"), FRANCE, max_new_tokens=4, edits=edit)
    assert "Nothing was computed" in str(caught.value)


@pytest.mark.parametrize("unit", ["component", "head"])
def test_the_parts_of_an_edited_logit_are_those_of_here(unit, any_server, client, here):
    options = {"unit": unit, "edits": edits_of("prompt"), "at_layer": 2}
    there = lr.attribution(client(any_server, "tiny"), [FRANCE, ITALY], [260], **options)
    own = lr.attribution(here("tiny"), [FRANCE, ITALY], [260], **options)
    assert there.parts == own.parts
    assert [str(part) for part in there.parts if part.component == "edit"]
    np.testing.assert_allclose(there.values, own.values, atol=2e-3)
    assert there.certificate.passed
    assert there.certificate.max_edit_error < 1e-5
