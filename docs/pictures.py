"""Makes the pictures of the README from real results: python docs/pictures.py (needs the extra `png` and a Chrome)."""

from __future__ import annotations

from pathlib import Path

import lens_recipes as lr

HERE = Path(__file__).parent


def main() -> None:
    model = lr.load("smollm2")
    result = lr.logit_lens(model, "The capital of France is", targets=[" Paris"])
    figure = lr.heatmap(result, stride=1)
    figure.update_layout(font_size=13)
    figure.write_image(HERE / "heatmap.png", width=760, height=860, scale=1.5)

    who = lr.attribution(model, "The capital of France is", " Paris", against=" London", unit="head")
    lr.head_grid(who).write_image(HERE / "heads.png", width=720, height=820, scale=1.5)

    said = lr.generate_lens(model, "The capital of France is", max_new_tokens=12, do_sample=False)
    figure = lr.generation_heatmap(said, stride=1)
    figure.write_image(HERE / "generation.png", width=1000, height=860, scale=1.5)


if __name__ == "__main__":
    main()
