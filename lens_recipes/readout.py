"""Vectors become numbers: final norm, unembedding and all metrics, in chunks of bounded memory.

Everything here takes and gives plain tensors, names no other file of this package and imports only torch: a traced
block runs it where the model is, also on a server that does not have this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

PADDED = {"tracked_ids": -1, "tracked_logprobs": float("nan")}  # arrays of uneven width, and what fills them
_COPIES = 5  # float32 arrays of [rows, vocabulary] that are alive at once below


def first_of(output: Any) -> Tensor:
    """A block's output stream: families and versions differ in whether it comes alone or first in a tuple."""
    return output[0] if isinstance(output, (tuple, list)) else output


def model_logits(output: Any) -> Float[Tensor, "batch position vocab"]:
    """The logits in what a model returned."""
    return output.logits if hasattr(output, "logits") else output[0]


def token_axis(name: str) -> int:
    """Which axis of a `readout` array is the tokens': the second, after the sites, if it has sites."""
    return 0 if name in ("tracked_ids", "final_ids", "final_logprob", "error", "scale", "kl_last", "agrees") else 1


def unembed(model: Any, tail: list[tuple], rows: Float[Tensor, "row d_model"], norm: bool = True) -> Tensor:
    """Take stream vectors to float32 logits `[row, vocabulary]`, by the model's own modules, in its own way.

    `tail` is `Anatomy.tail`: which modules to call and which numbers to apply in between. Modules are called and
    never their weights, so this works where the weights are quantised, sharded, or not in this process at all.
    `norm=False` leaves out the final norm and reads the raw stream.
    """
    x = rows.unsqueeze(0)  # modules expect [batch, position, d_model]
    for kind, name, *more in tail:
        if kind == "call":
            is_norm, device = more
            if is_norm and not norm:
                continue
            x = first_of(model.get(name)(x if device is None else x.to(device)))
        elif kind == "op":
            x = getattr(torch, name)(x, *more)
        elif kind == "cast":
            x = x.to(getattr(torch, name))
        elif kind == "keep":
            x = x[..., :name]
    return x[0].float().to(rows.device)


def readout(
    streams: list[Float[Tensor, "token d_model"]],
    reads: list[tuple[int, bool]],
    to_logits: Callable[[Tensor, bool], Tensor],
    final_logits: Float[Tensor, "batch position vocab"],
    where: tuple[Int[Tensor, " token"], Int[Tensor, " token"]],
    wanted: Int[Tensor, "token want"],
    *,
    n_sites: int,
    top_k: int,
    track: str | int | None,
    max_tracked: int,
    max_bytes: int,
) -> dict[str, Tensor]:
    """Everything a lens says about some tokens, as small arrays on the CPU.

    Args:
        streams: The stream at each layer that was read.
        reads: (index into `streams`, whether the norm is applied) of every site, and last of all the certificate's
            read: the last layer through the norm. Only the first `n_sites` are given back as sites.
        to_logits: (rows, norm) ─► float32 logits, as `unembed` does.
        final_logits: What the model itself said.
        where: (row, position) of each token in `final_logits`.
        wanted: Token ids whose log-probability and rank are asked for at every site of a token; −1 for none.
            The model's own answer is added as a last column.
        track: "top1", a number of the final layer's top tokens, or None.

    Returns:
        `top_ids`, `top_logprobs` [site, token, k]; `entropy`, `kl`, `logsumexp` [site, token];
        `wanted_logprobs`, `wanted_ranks` [site, token, want + 1]; `tracked_ids` [token, m], `tracked_logprobs`
        [site, token, m]; `final_ids`, `final_logprob` [token]; and the certificate's `error`, `scale`, `kl_last`,
        `agrees` [token]. Entropy and KL in nats, ranks from 0.
    """
    n_tokens, vocab = len(wanted), final_logits.shape[-1]
    rows, positions = where
    per_token = len(reads) * vocab * 4 * _COPIES
    step = max(1, max_bytes // per_token)  # tokens at a time, all their sites together
    width = max(1, min(len(reads), max_bytes // (vocab * 4 * _COPIES)))  # sites at a time
    parts: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for start in range(0, n_tokens, step):
            here = slice(start, min(start + step, n_tokens))
            part = _some_tokens(
                [stream[here] for stream in streams], reads, to_logits,
                final_logits[rows[here], positions[here]], wanted[here],
                n_sites, top_k, track, max_tracked, width,
            )  # fmt: skip
            for name, value in part.items():
                parts.setdefault(name, []).append(value.cpu())
    m = max(part.shape[-1] for part in parts["tracked_ids"])
    for name, fill in PADDED.items():
        parts[name] = [torch.nn.functional.pad(p, (0, m - p.shape[-1]), value=fill) for p in parts[name]]
    return {name: torch.cat(value, token_axis(name)) for name, value in parts.items()}


def _some_tokens(
    streams: list[Tensor],
    reads: list[tuple[int, bool]],
    to_logits: Callable[[Tensor, bool], Tensor],
    final_logits: Tensor,
    wanted: Tensor,
    n_sites: int,
    top_k: int,
    track: str | int | None,
    max_tracked: int,
    width: int,
) -> dict[str, Tensor]:
    """The readout of a few tokens at all sites, `width` sites at a time."""
    final_logits = final_logits.to(streams[-1].device).float()
    final = final_logits - final_logits.logsumexp(-1, keepdim=True)  # as below, so that equal logits have KL 0
    final_ids = final_logits.argmax(-1, keepdim=True)
    wanted = torch.cat([wanted.to(final_ids.device), final_ids], -1)
    chunks = [list(range(first, min(first + width, len(reads)))) for first in range(0, len(reads), width)]
    found: list[dict[str, Tensor]] = []
    for chunk in chunks:
        logits = _site_logits(streams, reads, to_logits, chunk)
        logsumexp = logits.logsumexp(-1, keepdim=True)
        found.append(_metrics(logits, logsumexp, final, wanted, top_k))
    result = {name: torch.cat([part[name] for part in found])[:n_sites] for name in found[0]}
    ids = _tracked(result["top_ids"][..., 0], final_logits, track, max_tracked)
    tracked = []
    for chunk in chunks if ids.shape[-1] else []:
        if len(chunks) > 1:  # they did not fit at once: make them again, for these few tokens
            logits = _site_logits(streams, reads, to_logits, chunk)
            logsumexp = logits.logsumexp(-1, keepdim=True)
        tracked.append(_at(logits, ids) - logsumexp)
    gap = torch.where(logits[-1] == final_logits, 0.0, (logits[-1] - final_logits).abs())  # −inf beside −inf: no gap
    return result | {
        "tracked_ids": ids,
        "tracked_logprobs": torch.cat(tracked)[:n_sites] if tracked else final.new_zeros(n_sites, len(ids), 0),
        "final_ids": final_ids[:, 0],
        "final_logprob": _at(final[None], final_ids)[0, :, 0],
        "error": gap.amax(-1),
        "scale": final_logits.masked_fill(final_logits.isinf(), 0.0).abs().amax(-1),
        "kl_last": _kl(final, logits[-1] - logsumexp[-1]),
        "agrees": logits[-1].argmax(-1) == final_ids[:, 0],
    }


def _site_logits(
    streams: list[Tensor],
    reads: list[tuple[int, bool]],
    to_logits: Callable[[Tensor, bool], Tensor],
    sites: list[int],
) -> Float[Tensor, "site token vocab"]:
    """The logits of some sites: one product for all that go through the norm, one for all that do not."""
    n_tokens, device = len(streams[0]), streams[-1].device
    made: dict[int, Tensor] = {}
    for norm in (True, False):
        group = [site for site in sites if reads[site][1] is norm]
        if group:
            rows = torch.cat([streams[reads[site][0]].to(device) for site in group])
            made |= dict(zip(group, to_logits(rows, norm).split(n_tokens), strict=True))
    return torch.stack([made[site] for site in sites])


def _metrics(
    logits: Float[Tensor, "site token vocab"],
    logsumexp: Float[Tensor, "site token 1"],
    final: Float[Tensor, "token vocab"],
    wanted: Int[Tensor, "token want"],
    top_k: int,
) -> dict[str, Tensor]:
    logprobs = logits - logsumexp
    probs = logprobs.exp()
    top = logits.topk(top_k, -1)
    at = _at(logits, wanted)
    ranks = [(logits > at[..., i : i + 1]).sum(-1) for i in range(wanted.shape[-1])]
    nothing = wanted < 0
    information = torch.where(probs == 0, 0.0, probs * logprobs)  # 0 · log 0 = 0; a NaN stays a NaN
    return {
        "top_ids": top.indices.int(),
        "top_logprobs": top.values - logsumexp,
        "entropy": -information.sum(-1),
        "kl": _kl(final, logprobs),
        "logsumexp": logsumexp[..., 0],
        "wanted_logprobs": (at - logsumexp).masked_fill(nothing, float("nan")),
        "wanted_ranks": torch.stack(ranks, -1).int().masked_fill(nothing, -1),
    }


def _at(logits: Float[Tensor, "site token vocab"], ids: Int[Tensor, "token want"]) -> Float[Tensor, "site token want"]:
    """The logits of each token's own ids; NaN where the id is −1."""
    index = ids.long().clamp(min=0).expand(len(logits), -1, -1)
    return logits.gather(-1, index).masked_fill(ids < 0, float("nan"))


def _kl(final: Float[Tensor, "token vocab"], lens: Float[Tensor, "*site token vocab"]) -> Float[Tensor, "*site token"]:
    """KL(model ‖ lens) in nats, of log-probabilities: what a reader of this site still gets wrong."""
    probs = final.exp()
    return torch.where(probs == 0, 0.0, probs * (final - lens)).sum(-1).clamp(min=0)  # rounding may give −1e−7


def _tracked(
    top1: Int[Tensor, "site token"], final_logits: Tensor, track: str | int | None, at_most: int
) -> Int[Tensor, "token m"]:
    """Which tokens are followed through all sites: the union of the sites' top-1, or the final top n."""
    if track is None:
        return top1.new_zeros(top1.shape[1], 0)
    if track != "top1":
        return final_logits.topk(int(track), -1).indices.int()
    columns = top1.flip(0).T.tolist()  # the last layer's first, so that a cut loses the earliest
    unions = [list(dict.fromkeys(column))[:at_most] for column in columns]
    widest = max(map(len, unions))
    return torch.tensor([ids + [-1] * (widest - len(ids)) for ids in unions], dtype=torch.int32, device=top1.device)
