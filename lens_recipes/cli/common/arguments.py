"""Which option of the commands stands for which argument of the library's functions."""

from __future__ import annotations

OPTIONS = {
    "add_special_tokens": "--no-special-tokens",
    "against": "--against",
    "at_layer": "--at-layer",
    "components": "--components",
    "dtype": "--dtype",
    "format": "--format",
    "heads": "--heads",
    "layers": "--layers",
    "lens": "--lens",
    "max_new_tokens": "--max-new-tokens",
    "metric": "--metric",
    "of": "--of",
    "position": "--position",
    "positions": "--positions",
    "prompt": "--prompt",
    "remote": "--remote",
    "sample_top_k": "--top-k",
    "seed": "--seed",
    "show_top": "--show-top",
    "stop": "--stop",
    "stride": "--stride",
    "targets": "--target",
    "temperature": "--temperature",
    "top_k": "--show-top",
    "top_p": "--top-p",
    "unit": "--unit",
    "width": "--width",
}
