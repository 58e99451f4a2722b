"""The lens of a 70B model from a laptop: what it will cost, then a job that outlives this process.

No weights are downloaded. It needs an NDIF key (NDIF_API_KEY, or `nnsight.login()`), or another server's address in
NDIF_HOST. Stop it while it waits, run it again, and it goes on with the same job.

    python examples/08_remote_70b.py [MODEL] [QUESTION]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr

CAPITALS = {"France": " Paris", "Japan": " Tokyo", "Peru": " Lima", "Kenya": " Nairobi"}


def main(model: str = "meta-llama/Llama-3.1-70B", question: str = "The capital of {} is") -> None:
    place = Path("out") / f"{model.rpartition('/')[2]}, {question.replace('/', ' ')}.job"
    place.parent.mkdir(exist_ok=True)
    if place.exists():
        job = lr.Job.load(place)
    else:
        skeleton = lr.load(model, remote=True)
        prompts = [question.format(country) for country in CAPITALS]
        asked = {"targets": [[city] for city in CAPITALS.values()], "positions": -1}
        print(lr.estimate(lr.logit_lens, skeleton, prompts, **asked))
        job = lr.submit(lr.logit_lens, skeleton, prompts, **asked, path=place)
    print(job.status())
    result = job.result()
    place.unlink()  # done: the next call asks anew
    for number, (country, city) in enumerate(CAPITALS.items()):
        first = result[number].settled(city)[-1]
        layer = f"from layer {result.sites[first].layer} on" if first >= 0 else "at no layer"
        print(f"{country}: {city!r} is the first choice {layer}, of {len(result.sites)}")
    print(result.certificate)
    lr.write_html(lr.trajectory(result, metric="rank"), "out/70b.html")
    print("\nLook in out/70b.html at the layers where the ranks fall: are they the same for all four countries?")


if __name__ == "__main__":
    main(*sys.argv[1:])
