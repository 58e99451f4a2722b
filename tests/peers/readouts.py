"""A lens result as peers give theirs: all log-probabilities, in the order of the vocabulary."""

from __future__ import annotations

import torch


def logprobs_of(result, layer):
    """The log-probabilities of a layer, `[position, vocabulary]`; the result has every token among its top ones."""
    site = [site.layer for site in result.sites].index(layer)
    ids = torch.from_numpy(result.top_ids[site]).long()
    values = torch.from_numpy(result.top_logprobs[site]).float()
    return torch.zeros_like(values).scatter(-1, ids, values)
