"""What a lens is worth, as a table of text."""

from __future__ import annotations

from lens_recipes.arrays.used_lens import EMBEDDING, LensQuality

HEADINGS = ("layer", "KL", "logit lens", "top-1", "logit lens", "KL of two refits")
WIDTHS = (6, 7, 11, 7, 11, 19)


def quality_table(quality: LensQuality, name: str) -> str:
    """Return a line for each layer: KL to the model's output and top-1 agreement, beside no lens.

    Args:
        quality: What was measured.
        name: What the lens is called.
    """
    lines = [
        f"{name}, measured on {quality.n_tokens} tokens of {quality.text}:",
        "KL(model ‖ lens) in nats, and how often top-1 is the model's",
        cells(HEADINGS),
    ]
    is_better = quality.is_better
    for index, layer in enumerate(quality.layers):
        refits = " to ".join(f"{half[index]:.2f}" for half in sorted_halves(quality, index))
        line = cells(
            (
                "embed" if layer == EMBEDDING else str(layer),
                f"{quality.kl[index]:.2f}",
                f"{quality.logit_kl[index]:.2f}",
                f"{quality.agreement[index]:.0%}",
                f"{quality.logit_agreement[index]:.0%}",
                refits,
            )
        )
        lines.append(line if is_better[index] else f"{line}  no better than the logit lens")
    return "\n".join([*lines, ""])


def sorted_halves(quality: LensQuality, index: int) -> list[list[float]]:
    """Return the refits in the order of their KL at one layer."""
    return sorted(quality.refit_kl, key=lambda half: half[index])


def cells(words: tuple[str, ...]) -> str:
    """Return one line, its words under the headings."""
    padded = [word.rjust(width) for word, width in zip(words, WIDTHS, strict=True)]
    return "".join(padded).rstrip()
