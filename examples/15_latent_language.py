"""In which language does a model think? French words, asked for in Spanish.

Each prompt is an item for each language: how likely the lens finds the first token of its word.
Llama 2 goes through English (Wendler et al. 2024). SmolLM2-135M, mostly trained on English, is not
seen to: first the French word rises, which it copies, then Spanish. English has 2 % at layer 25,
[0, 6], which does not leave its control: ten words are too few to tell. Its tokenizer cuts German
into single letters and Chinese into bytes, with which many other words begin: no rival for English.

    python examples/15_latent_language.py [MODEL]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr

LANGUAGES = ("French", "Spanish", "English", "German", "Chinese")
WORDS = """eau agua water Wasser 水; maison casa house Haus 房; chien perro dog Hund 狗;
feu fuego fire Feuer 火; porte puerta door Tür 门; roi rey king König 王; chat gato cat Katze 猫;
cheval caballo horse Pferd 马; ville ciudad city Stadt 城; soleil sol sun Sonne 日"""


def main(model: str = "smollm2") -> None:
    loaded = lr.load(model)
    words = [line.split() for line in WORDS.split(";")]
    items = []
    for word in words:
        shown = [f"{other[0]} - Español: {other[1]}" for other in words if other is not word][:4]
        prompt = "Français: " + "\nFrançais: ".join([*shown, f"{word[0]} - Español:"])
        for language, answer in zip(LANGUAGES, word, strict=True):
            first = loaded.tokenizer.encode(f" {answer}", add_special_tokens=False)[0]
            about = {"group": language, "cluster": word[0]}
            items.append({"prompt": prompt, "target": first, **about})
    Path("out").mkdir(exist_ok=True)
    lens = lr.fit_lens(loaded, tokens=6_000, path="out/two_lenses.safetensors")
    survey = lr.survey(loaded, items, lens=lens)
    print(survey.table(metric="prob", by="group", stride=2))
    lr.write_html(lr.survey_curve(survey, "prob"), "out/latent_language.html")
    print("\nLook in out/latent_language.html for a language that rises before Spanish does.")


if __name__ == "__main__":
    main(*sys.argv[1:])
