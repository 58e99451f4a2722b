"""Vectors become numbers: final norm, unembedding and all metrics, in chunks of bounded memory.

Everything here takes and gives plain tensors and imports only torch. A traced block runs it where
the model is, also on a server that does not have this package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_recipes.trace.kernels import Kernels, kernels_for, on_cpu, sent
from lens_recipes.trace.lens_head import LensHead, Tiles, vocabulary_tiles, whole_tiles
from lens_recipes.trace.operations import rounding_eps, slices
from lens_recipes.trace.plan import SiteRead
from lens_recipes.trace.readout.buffers import fill_buffers, max_tracked_tokens, trim_buffers
from lens_recipes.trace.readout.scan import RuledOut, Scan, scan

# Arrays as large as a token's own logits for which there is room beside those of its sites: they,
# their probabilities, and what is made on the way, such as the three and a half of `logit_errors`,
# or kept by the allocator after it.
OWN_ROWS = 6
INFINITE_KL = 1e20  # beyond it a token that the model may say was ruled out


class ReadoutOptions(NamedTuple):
    """What a lens is asked for at every token.

    Attributes:
        n_sites: How many of the reads a result shows.
        top_k: How many of the most likely tokens to keep.
        track: Which tokens are followed through all sites: "top1" (those that are top-1 at some
            site), a number of the final layer's top tokens, or None.
        max_tracked: At most so many with "top1".
        max_bytes: Bound on the memory for logits.
        kernels: How large the pieces are; None for what is chosen for the device.
    """

    n_sites: int
    top_k: int
    track: str | int | None
    max_tracked: int
    max_bytes: int
    kernels: Kernels | None = None

    @property
    def tracked(self) -> int:
        """How many tokens of a position are followed at most."""
        return max_tracked_tokens(self.track, self.n_sites, self.max_tracked)


class OwnOutput(NamedTuple):
    """What the model itself said after some tokens.

    Attributes:
        logits, probs: `[token, vocab]`, in float32.
        ids: Its answer, `[token, 1]`.
        scan: Made like a lens's, for equal logits to have a KL of exactly 0.
    """

    logits: Float[Tensor, "token vocab"]
    probs: Float[Tensor, "token vocab"]
    ids: Int[Tensor, "token 1"]
    scan: Scan


def readout(
    rows: list[Tensor | Callable[[slice], Tensor]],
    reads: list[SiteRead],
    head: LensHead,
    final_logits: Float[Tensor, "batch position vocab"],
    places: tuple[Int[Tensor, " token"], Int[Tensor, " token"]],
    requested_ids: Int[Tensor, "token requested"],
    options: ReadoutOptions,
) -> dict[str, Tensor]:
    """Return everything that a lens says about some tokens, as small arrays on the CPU.

    Args:
        rows: Of every read, `[token, d_model]`, or a function that makes the rows of a slice of the
            tokens.
        reads: How each of them is decoded. The last is the certificate's: the last layer through
            the norm.
        head: From rows to logits.
        final_logits: What the model itself said.
        places: Row and position of each token in `final_logits`.
        requested_ids: Token ids whose log-probability and rank are asked for at every site of a
            token; −1 for none. The model's own answer is added as a last column.
        options: What is asked for.

    Returns:
        `top_ids`, `top_logprobs` [site, token, k]; `entropy`, `kl`, `logsumexp` [site, token];
        `wanted_logprobs`, `wanted_ranks` [site, token, requested + 1]; `tracked_ids` [token, m],
        `tracked_logprobs` [site, token, m]; `final_ids`, `final_logprob`, `final_entropy`
        [token];
        and the certificate's `error`, `scale`, `eps`, `kl_last`, `agrees` [token]. Entropy and KL
        in nats, ranks from 0.
    """
    device = device_of(rows[-1])
    kernels = options.kernels or kernels_for(device)
    batch_rows, positions = (sent(place, final_logits.device) for place in places)
    inputs = ReadoutInputs(
        rows, reads, head, final_logits, batch_rows, positions, sent(requested_ids, device)
    )
    with torch.no_grad():
        ruled_out = RuledOut(kernels)
        arrays = on_cpu(all_numbers(inputs, options, ruled_out) | ruled_out.flag())
        if ruled_out.is_flagged(arrays):
            again = RuledOut(kernels, clamps=True)
            arrays = on_cpu(all_numbers(inputs, options, again))
    return trim_buffers(arrays, len(requested_ids))


def device_of(rows: Tensor | Callable[[slice], Tensor]) -> torch.device:
    """Return where the rows of a read are, or where they will be made."""
    return rows(slice(0, 1)).device if callable(rows) else rows.device


class ReadoutInputs(NamedTuple):
    """What `readout` was given, each where it is used."""

    rows: list[Tensor | Callable[[slice], Tensor]]
    reads: list[SiteRead]
    head: LensHead
    final_logits: Float[Tensor, "batch position vocab"]
    batch_rows: Int[Tensor, " token"]
    positions: Int[Tensor, " token"]
    requested_ids: Int[Tensor, "token requested"]


def all_numbers(
    inputs: ReadoutInputs, options: ReadoutOptions, ruled_out: RuledOut
) -> dict[str, Tensor]:
    """Return the arrays of all tokens, chunk by chunk, on the device of the certificate's rows."""
    rows, reads, head, final_logits, batch_rows, positions, requested_ids = inputs
    n_tokens, vocab = len(requested_ids), final_logits.shape[-1]
    rows_in_budget = max(1, options.max_bytes // (vocab * 4 * head.logits_at_once))
    in_budget = rows_in_budget // (len(reads) + OWN_ROWS)
    at_once = ruled_out.kernels.rows_at_once // (len(reads) + 1)
    tokens_at_once = min(in_budget, at_once)
    reads_at_once = min(rows_in_budget, len(reads))
    arrays: dict[str, Tensor] = {}
    for tokens in slices(n_tokens, tokens_at_once):
        # No name for the chunk: its logits would live on beside those of the next one.
        numbers = TokenChunk(
            rows=[make(tokens) if callable(make) else make[tokens] for make in rows],
            reads=reads,
            head=head,
            final_logits=final_logits[batch_rows[tokens], positions[tokens]],
            reads_at_once=reads_at_once,
            ruled_out=ruled_out,
        ).numbers(requested_ids[tokens], options)
        fill_buffers(arrays, numbers, tokens.start, n_tokens, options.tracked)
    return arrays


class TokenChunk:
    """A few tokens at all sites, of which so many are decoded at a time as the budget allows."""

    def __init__(
        self,
        rows: list[Float[Tensor, "token d_model"]],
        reads: list[SiteRead],
        head: LensHead,
        final_logits: Float[Tensor, "token vocab"],
        reads_at_once: int,
        ruled_out: RuledOut,
    ) -> None:
        """Bring the tokens to the device of the certificate's rows."""
        self.rows = rows
        self.reads = reads
        self.head = head
        self.device = rows[-1].device
        self.ruled_out = ruled_out
        self.own = own_output(final_logits.to(self.device).float(), ruled_out)
        self.groups = group_reads(reads, reads_at_once)
        # Where all reads fit at once, their logits are kept for the tokens that are tracked.
        self.keeps_logits = reads_at_once == len(reads)

    def numbers(
        self, requested_ids: Int[Tensor, "token requested"], options: ReadoutOptions
    ) -> dict[str, Tensor]:
        """Return the arrays of `readout` for these tokens."""
        n_sites = options.n_sites
        kernels = self.ruled_out.kernels
        requested_ids = torch.cat([requested_ids, self.own.ids], -1)
        numbers: list[dict[str, Tensor]] = []
        kept_logits: list[Tensor] = []
        for group in self.groups:
            logits, tiles = self.tiles(group)
            found = scan(logits, tiles, options.top_k, self.own.probs, self.ruled_out)
            logits = logits.unflatten(0, (len(group), -1))
            scanned = found.by_site(len(group))
            numbers.append(site_numbers(logits, scanned, self.own.scan, requested_ids, kernels))
            if self.keeps_logits:
                kept_logits.append(logits)
        every = {name: torch.cat([part[name] for part in numbers]) for name in numbers[0]}
        groups_end_to_end = [read for group in self.groups for read in group]
        if groups_end_to_end != sorted(groups_end_to_end):
            order = sent(torch.tensor(groups_end_to_end, device="cpu").argsort(), self.device)
            every = {name: value[order] for name, value in every.items()}
        top1 = every["top_ids"][:n_sites, :, 0]
        token_ids = tracked_ids(top1, self.own.logits, options, kernels)
        tracked = self.own.logits.new_zeros(len(self.reads), *token_ids.shape)
        if token_ids.shape[-1]:
            for index, group in enumerate(self.groups):
                logits = kept_logits[index] if self.keeps_logits else self.logits_again(group)
                sites = span_of(group)
                of_sites = logits_at(logits, token_ids)
                tracked[sites] = of_sites - every["logsumexp"][sites][..., None]
        certificate_logits = logits[-1]
        own_logprob = self.own.logits.gather(-1, self.own.ids)[:, 0] - self.own.scan.logsumexp
        return {name: value[:n_sites] for name, value in every.items()} | {
            "tracked_ids": token_ids,
            "tracked_logprobs": tracked[:n_sites],
            "final_ids": self.own.ids[:, 0],
            "final_logprob": own_logprob.float(),
            "final_entropy": self.own.scan.entropy.float(),
            **logit_errors(certificate_logits, self.own.logits, self.rows[-1], kernels),
            "kl_last": every["kl"][-1],
            "agrees": every["top_ids"][-1, :, 0] == self.own.ids[:, 0],
        }

    def tiles(self, group: list[int]) -> Tiles:
        """Return the logits of some reads, all with or all without the norm, as tiles."""
        hidden = [
            self.reads[index].transport.transform_hidden(self.rows[index].to(self.device))
            for index in group
        ]
        return self.head.tiles(torch.cat(hidden), self.reads[group[0]].apply_norm)

    def logits_again(self, group: list[int]) -> Float[Tensor, "site token vocab"]:
        """Make the logits of some reads once more, where not all reads fit at once."""
        logits, tiles = self.tiles(group)
        for _ in tiles:  # drawing a tile fills it
            pass
        return logits.unflatten(0, (len(group), -1))


def group_reads(reads: list[SiteRead], reads_at_once: int) -> list[list[int]]:
    """Return reads in groups, those without and those with the norm apart.

    The last read comes last.
    """
    groups: list[list[int]] = []
    for apply_norm in (False, True):
        alike = [index for index, read in enumerate(reads) if read.apply_norm is apply_norm]
        groups += [alike[part] for part in slices(len(alike), reads_at_once)]
    return groups


def span_of(group: list[int]) -> slice | list[int]:
    """Return a group as a slice, if it is one: a list would have to be sent to the device."""
    span = slice(group[0], group[-1] + 1)
    return span if group == list(range(span.start, span.stop)) else group


def own_output(logits: Float[Tensor, "token vocab"], ruled_out: RuledOut) -> OwnOutput:
    """Return what the model itself said."""
    probs = logits.softmax(-1)
    own_scan = scan(*whole_tiles(logits, ruled_out.kernels), 1, probs, ruled_out)
    return OwnOutput(logits, probs, logits.argmax(-1, keepdim=True), own_scan)


def site_numbers(
    logits: Float[Tensor, "site token vocab"],
    scanned: Scan,
    own: Scan,
    requested_ids: Int[Tensor, "token requested"],
    kernels: Kernels,
) -> dict[str, Tensor]:
    """Return the numbers of some sites, in the form in which they are given back.

    KL(own ‖ lens) = Σ p (log p − log lens) for the model's own p.
    """
    # Rounding leaves Σ p, the mass, beside 1.
    kl = ((own.cross - scanned.cross) / own.mass + scanned.logsumexp - own.logsumexp).clamp(min=0)
    at_requested = logits_at(logits, requested_ids)
    ranks = ranks_of(at_requested, logits, kernels)
    return {
        "top_ids": scanned.top_ids.int(),
        "top_logprobs": (scanned.top_logits - scanned.logsumexp[..., None]).float(),
        "entropy": scanned.entropy.float(),
        "kl": kl.masked_fill(kl > INFINITE_KL, float("inf")).float(),
        "logsumexp": scanned.logsumexp.float(),
        "wanted_logprobs": (at_requested - scanned.logsumexp[..., None]).float(),
        "wanted_ranks": ranks.masked_fill(requested_ids < 0, -1),
    }


def ranks_of(
    at_requested: Float[Tensor, "site token requested"],
    logits: Float[Tensor, "site token vocab"],
    kernels: Kernels,
) -> Int[Tensor, "site token requested"]:
    """Count how many logits are larger than each requested one.

    Counts in float32 are fast, and exact to 2²⁴.
    """
    ranks = torch.zeros_like(at_requested)
    for columns in vocabulary_tiles(logits, kernels):
        tile = logits[..., columns]
        is_above = torch.empty_like(tile)
        for index in range(at_requested.shape[-1]):
            threshold = at_requested[..., index, None]
            ranks[..., index] += torch.gt(tile, threshold, out=is_above).sum(-1)
    return ranks.int()


def logits_at(
    logits: Float[Tensor, "site token vocab"], ids: Int[Tensor, "token requested"]
) -> Float[Tensor, "site token requested"]:
    """Return the logits of each token's own ids; NaN where the id is −1."""
    index = ids.long().clamp(min=0).expand(len(logits), -1, -1)
    return logits.gather(-1, index).masked_fill(ids < 0, float("nan"))


def tracked_ids(
    top1: Int[Tensor, "site token"],
    final_logits: Float[Tensor, "token vocab"],
    options: ReadoutOptions,
    kernels: Kernels,
) -> Int[Tensor, "token m"]:
    """Return the tokens that are followed through all sites, padded with −1."""
    if options.track is None:
        return top1.new_zeros(top1.shape[1], 0)
    if options.track != "top1":
        return final_logits.topk(int(options.track), -1).indices.int()
    if not kernels.asks_at_once:
        return distinct_ids(top1.flip(0).T, options.tracked)
    last_layer_first = top1.flip(0).T.tolist()  # a cut then loses the earliest
    unions = [list(dict.fromkeys(column))[: options.max_tracked] for column in last_layer_first]
    widest = max(map(len, unions))
    padded = [token_ids + [-1] * (widest - len(token_ids)) for token_ids in unions]
    return torch.tensor(padded, dtype=torch.int32, device=top1.device)


def distinct_ids(ids: Int[Tensor, "token site"], most: int) -> Int[Tensor, "token m"]:
    """Return the first distinct ids of each token, where they first stand, padded with −1.

    All of it on the device, where nobody knows how many there are: `most` columns.
    """
    is_equal = ids[:, :, None] == ids[:, None, :]
    is_repeated = is_equal.tril(-1).any(-1)
    places = (~is_repeated).cumsum(-1) - 1
    places = places.masked_fill(is_repeated, most).clamp(max=most)
    padded = ids.new_full((len(ids), most + 1), -1)  # what is not kept goes to the last column
    return padded.scatter_(1, places, ids)[:, :most].clone()


def logit_errors(
    lens: Float[Tensor, "token vocab"],
    final: Float[Tensor, "token vocab"],
    stream: Float[Tensor, "token d_model"],
    kernels: Kernels,
) -> dict[str, Float[Tensor, " token"]]:
    """Return how far the last layer's lens is from the model's own logits, and by what measure.

    "error" is the largest difference, "scale" the largest of the model's logits, and "eps" how
    finely numbers are rounded where the model runs, which a caller of a server cannot know.
    """
    errors, scales = [], []
    for tokens in slices(len(final), kernels.tokens_compared):
        one, other = lens[tokens], final[tokens]
        error = torch.where(one == other, 0.0, (one - other).abs())  # −∞ beside −∞ is no difference
        errors.append(error.amax(-1))
        scales.append(other.masked_fill(other.isinf(), 0.0).abs().amax(-1))
    scale = torch.cat(scales)
    eps = torch.full_like(scale, rounding_eps(stream))
    return {"error": torch.cat(errors), "scale": scale, "eps": eps}
