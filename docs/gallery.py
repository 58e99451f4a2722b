"""Draw every figure of this package, each on three cases, to be looked at.

python docs/gallery.py [FOLDER]     # docs/gallery by default; this needs the extra `png` and Chrome or Chromium

The cases are one prompt, thirty facts, a survey, a picture, and 600 tokens of text. A figure that is about single
prompts shows the first of the facts; one that makes no sense of a case is left out there.
"""

from __future__ import annotations

import pydoc_data.topics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import plotly.graph_objects as go

import lens_recipes as lr

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from planted_images import planted

FOLDER = Path(__file__).parent / "gallery"
PROMPT, ANSWER, RIVAL = "The capital of France is", " Paris", " London"
N_TOKENS = 600
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Germany": "Berlin", "Spain": "Madrid",
    "Egypt": "Cairo", "Russia": "Moscow", "China": "Beijing", "Greece": "Athens", "Austria": "Vienna",
    "Portugal": "Lisbon", "Ireland": "Dublin", "Norway": "Oslo", "Sweden": "Stockholm",
    "Poland": "Warsaw", "Hungary": "Budapest", "Cuba": "Havana", "Peru": "Lima", "Chile": "Santiago",
    "Canada": "Ottawa", "Iran": "Tehran", "Iraq": "Baghdad", "India": "Delhi", "Kenya": "Nairobi",
    "Belgium": "Brussels", "Finland": "Helsinki", "Ukraine": "Kiev", "Syria": "Damascus",
    "Denmark": "Copenhagen", "Scotland": "Edinburgh",
}  # fmt: skip

Drawing = Callable[[], go.Figure]


class Case(NamedTuple):
    """A case, and what is drawn of it."""

    name: str
    drawings: dict[str, Drawing]


def cases() -> Iterator[Case]:
    """Yield each case with its figures."""
    model = lr.load("smollm2")
    one = lr.logit_lens(model, PROMPT, targets=[ANSWER, RIVAL], track=10)
    parts = lr.logit_lens(model, PROMPT, components=("attn_out", "mlp_out", "resid_post"))
    by_component = lr.attribution(model, PROMPT, ANSWER, against=RIVAL, unit="component")
    by_head = lr.attribution(model, PROMPT, ANSWER, against=RIVAL, unit="head")
    by_token = lr.attribution(model, PROMPT, ANSWER, against=RIVAL, unit="token")
    written = lr.generate_lens(model, PROMPT, max_new_tokens=40, do_sample=False)
    other = lr.logit_lens(model, "The capital of Italy is", targets=[ANSWER, RIVAL])
    spain = (PROMPT, "The capital of Spain is", ANSWER, " Madrid")
    patched = lr.patch_map(model, *spain)
    patched_heads = lr.patch_map(model, *spain, unit="head_out", direction="noise")
    yield Case(
        "one",
        {
            "heatmap": lambda: lr.heatmap(one),
            "heatmap_rank": lambda: lr.heatmap(one, metric="rank", of=ANSWER),
            "heatmap_entropy": lambda: lr.heatmap(one, metric="entropy"),
            "heatmap_show_all": lambda: lr.heatmap(one, show_all=True),
            "heatmap_components": lambda: lr.heatmap(parts),
            "trajectory": lambda: lr.trajectory(one),
            "trajectory_rank": lambda: lr.trajectory(one, metric="rank"),
            "top_tokens": lambda: lr.top_tokens(one),
            "rank_flow": lambda: lr.rank_flow(one),
            "layer_profile": lambda: lr.layer_profile(one),
            "compare": lambda: lr.compare(one, other, align="position"),
            "attribution_bars": lambda: lr.attribution_bars(by_component),
            "head_grid": lambda: lr.head_grid(by_head),
            "source_map": lambda: lr.source_map(by_token),
            "patch_heatmap": lambda: lr.patch_heatmap(patched),
            "patch_heatmap_heads": lambda: lr.patch_heatmap(patched_heads),
            "generation_heatmap": lambda: lr.generation_heatmap(written),
            "generation_steps": lambda: lr.generation_steps(written),
            "lens_quality": lambda: lr.lens_quality_figure(invented_quality()),
        },
    )
    facts = [f"The capital of {country} is" for country in CAPITALS]
    targets = [[f" {city}"] for city in CAPITALS.values()]
    many = lr.logit_lens(model, facts, targets=targets, positions=-1, track=10)
    rivals = [f" {city}" for city in [*list(CAPITALS.values())[1:], ANSWER.strip()]]
    heads = lr.attribution(model, facts, targets, against=rivals, unit="head")
    turned = [*facts[1:], facts[0]]
    steering = lr.steer((rivals[0], targets[0][0]), layer=20, scale=0.3, positions=-1)
    steered = lr.dose(model, facts, steering, targets=targets)
    patched_facts = lr.patch_map(
        model, facts, turned, [target for (target,) in targets], rivals, align="end"
    )
    yield Case(
        "facts",
        {
            "heatmap": lambda: lr.heatmap(many),
            "heatmap_prompts": lambda: lr.heatmap(many, kind="prompts"),
            "trajectory": lambda: lr.trajectory(many),
            "top_tokens": lambda: lr.top_tokens(many),
            "rank_flow": lambda: lr.rank_flow(many),
            "layer_profile": lambda: lr.layer_profile(many),
            "layer_profile_rank": lambda: lr.layer_profile(many, metric="rank", of="final"),
            "compare": lambda: lr.compare(many, many, prompt_b=1, align="position"),
            "attribution_bars": lambda: lr.attribution_bars(heads),
            "head_grid": lambda: lr.head_grid(heads),
            "patch_heatmap": lambda: lr.patch_heatmap(patched_facts),
            "dose": lambda: lr.dose_figure(steered),
        },
    )
    asked = lr.survey(model, "capitals")
    edited = lr.survey(model, "capitals", edits=lr.ablate(layer=23, component="head_out", head=4))
    yield Case(
        "survey",
        {
            "accuracy": lambda: lr.accuracy_curve(asked),
            "rank": lambda: lr.rank_curve(asked),
            "emergence": lambda: lr.emergence_curve(asked),
            "depths": lambda: lr.depth_histogram(asked),
            "probability": lambda: lr.survey_curve(asked, "prob"),
            "heatmap": lambda: lr.survey_heatmap(asked),
            "difference": lambda: lr.difference_curve(asked.compare(edited, "logprob")),
        },
    )
    seen = planted(12, 20)
    yield Case(
        "image",
        {
            "top1": lambda: lr.image_heatmap(seen),
            "entropy": lambda: lr.image_heatmap(seen, "entropy", layer=1),
            "token": lambda: lr.image_heatmap(seen, " dog"),
            "object": lambda: lr.object_map(seen, " dog"),
        },
    )
    words = " ".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))
    text = lr.logit_lens(model, [model.tokenizer(words[:8000]).input_ids[:N_TOKENS]], track=10)
    yield Case(
        "text",
        {
            "heatmap": lambda: lr.heatmap(text),
            "heatmap_loss": lambda: lr.heatmap(text, metric="loss"),
            "trajectory": lambda: lr.trajectory(text, of="final"),
            "top_tokens": lambda: lr.top_tokens(text),
            "rank_flow": lambda: lr.rank_flow(text),
            "layer_profile": lambda: lr.layer_profile(text),
            "compare": lambda: lr.compare(text, text, metric="kl", names=("a", "b")),
        },
    )


def invented_quality() -> lr.LensQuality:
    """Return what might have been measured of a lens of thirty layers: a figure needs no more."""
    layers = list(range(-1, 29))
    kl = [3 * 0.93**row for row in range(len(layers))]
    agreement = [0.2 + 0.02 * row for row in range(len(layers))]
    logit_kl = [12 * 0.99**row for row in range(len(layers))]
    refits = [[1.05 * each for each in kl], [1.12 * each for each in kl]]
    return lr.LensQuality(
        layers=layers,
        kl=kl,
        agreement=agreement,
        logit_kl=logit_kl,
        logit_agreement=[share / 2 for share in agreement],
        refit_kl=refits,
        n_tokens=256,
        text="a text that nobody wrote",
    )


def main() -> None:
    """Draw each figure of each case into a folder."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases():
        for name, draw in case.drawings.items():
            lr.save_png(draw(), folder / f"{case.name}_{name}.png", scale=1)
            print(f"{case.name}_{name}.png", flush=True)


if __name__ == "__main__":
    main()
