"""Tasks about servers, files for other people, and models that have no lens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import lens_recipes as lr
import loopback
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from answers import Check, Rejected, close, top
from bench import Bench, task
from by_hand import lens
from checkpoints import build, ids_of, tokenizer

PROMPTS = ["The capital of France is", "The quick brown fox jumps over", "One two three"]


@task
def ndif_without_the_package(bench: Bench) -> Iterator[Check]:
    """nnsight's own rehearsal of a server, made strict: without this package, and only what was saved comes back.

    The checkpoint that the script is given has the shape of the server's model, and other weights.
    """
    module, log, weights = build("gemma2", 401), bench.folder / "log.json", bench.folder / "server.pt"
    torch.save(module.state_dict(), weights)
    runner = (str(Path(__file__).parent / "rehearse.py"), str(log), str(weights))
    answer = bench.run(bench.checkpoint(build("gemma2", 400)), {"prompts": PROMPTS, "remote": "local"}, runner)
    expected = np.array([lens(module, prompt)[:, -1] for prompt in PROMPTS])
    ids = answer.ids("top_ids", *expected.shape[:2], 5)
    yield top("top_ids", ids, expected)
    best = -np.sort(-expected, axis=-1)[..., :5]
    yield close("top_logprobs", answer.numbers("top_logprobs", *best.shape), best)
    ran = json.loads(log.read_text()) if log.exists() else {"blocks": 0, "bytes": 0}
    yield Check("remote", ran["blocks"] > 0, f"{ran['blocks']} blocks were run as on a server")
    yield Check("bytes", ran["bytes"] < 8000, f"{ran['bytes']} bytes came back; 8000 allowed")


@task
def ndif_job(bench: Bench) -> Iterator[Check]:
    """Called twice: the first call hands the job over and ends, the second one fetches what the server has found."""
    module, job = build("llama", 402), bench.folder / "asked.job"
    hub = bench.folder / "hub"
    loopback.lay_out(hub, loopback.REPO, bench.checkpoint(module))
    env = {"HF_HUB_CACHE": str(hub), "NDIF_API_KEY": loopback.KEY}
    with loopback.Loopback(lr.load(module, tokenizer=tokenizer())) as server:
        asked = {"prompts": PROMPTS, "server": server.url, "job": str(job)}
        bench.call(loopback.REPO, asked, env=env)
        waited = bool(server.read)
        answer = bench.run(loopback.REPO, asked, env=env)
        posts, times = server.posts, sum(parcel.runs for parcel in server.parcels.values())
    expected = np.array([lens(module, prompt)[:, -1] for prompt in PROMPTS])
    yield top("top_ids", answer.ids("top_ids", *expected.shape[:-1])[..., None], expected)
    yield Check("handed_over", not waited, "the first call " + ("waited for its result" if waited else "did not wait"))
    yield Check("sent_once", posts == times == 1, f"{posts} jobs were sent, and {times} run; 1 is wanted")


# What a browser would fetch; a link to click on is none of it.
OUTSIDE = re.compile(
    r"""<(?:script|link|img|iframe|source)\b[^<>]*?(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(\s*["']?https?:""",
    re.IGNORECASE,
)


@task
def offline_report(bench: Bench) -> Iterator[Check]:
    """One page for a colleague without a network: nothing is loaded from anywhere."""
    module, page = build("llama", 403, vocab=400), bench.folder / "report.html"
    invented = _invented(module)
    folder = bench.checkpoint(module)
    invented.save_pretrained(folder)
    asked = {"prompt": PROMPTS[0], "word": " the", "report": str(page)}
    answer = bench.run(folder, asked)
    expected = lens(module, PROMPTS[0])[:, -1]
    yield close("logprobs", answer.numbers("logprobs", len(expected)), expected[:, int(ids_of(" the"))])
    if not page.is_file():
        raise Rejected("The script wrote no report where it was told to.", "page")
    html = page.read_text(encoding="utf-8", errors="replace")
    yield Check("page", "<html" in html.lower() and "<script" in html.lower(), f"{len(html)} characters")
    outside = OUTSIDE.search(html)
    yield Check("offline", outside is None, outside[0] if outside else "nothing is loaded from elsewhere")
    words = [tokenizer().decode([i]).strip() for i in ids_of(PROMPTS[0])[0]]
    lost = [word for word in words if word and word not in html]
    yield Check("words", not lost, f"words of the prompt that are not in the page: {lost}")
    lost = [word for word in map(invented.decode, expected.argmax(-1)) if word not in html]
    yield Check("layers", not lost, f"first choices of layers that are not in the page: {lost}")


def _invented(module: PreTrainedModel) -> PreTrainedTokenizerBase:
    """A tokenizer with words that stand in no page by chance; the model is made to choose among them."""
    words, generator = tokenizer(), np.random.default_rng(403)
    start = len(words)
    words.add_tokens(["".join(generator.choice(list("bdfgjkmpqvwxz"), 9)) for _ in range(60)])
    with torch.no_grad():
        module.lm_head.weight[:start] *= 0.05
        module.lm_head.weight[len(words) :] *= 0.05
    return words


# Of each family that has no lens, what its own reason says, and what it does not.
REASONS = {"t5": ("encoder", None), "gemma3n": ("streams|altup", "encoder")}


@task
def refused(bench: Bench) -> Iterator[Check]:
    """An encoder–decoder and a model with several streams have no logit lens; other decoders have."""
    for family, (says, not_says) in REASONS.items():
        answer = bench.run(bench.checkpoint(build(family, 404), family), {})
        told = "top_ids" not in answer.entries
        yield Check(f"refused of {family}", told, "no lens is given" if told else "a lens is given all the same")
        reason = answer.text("reason")
        fits = re.search(says, reason, re.I) and not (not_says and re.search(not_says, reason, re.I))
        yield Check(f"reason of {family}", bool(fits), reason[:160])
    for family in ("llama", "gpt2", "mamba"):
        module = build(family, 404)
        answer = bench.run(bench.checkpoint(module, family), {})
        if "top_ids" in answer.entries:
            expected = lens(module, "The fox")[:, -1]
            yield top(f"top_ids of {family}", answer.ids("top_ids", len(expected))[:, None], expected)
        else:
            yield Check(
                f"top_ids of {family}", False, f"no lens is given, though there is one: {answer.text('reason')}"
            )
