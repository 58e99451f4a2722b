"""The lens of a 70B model from a laptop: first the cost, then a job that outlives this process.

No weights are downloaded. It needs an NDIF key (NDIF_API_KEY, or `nnsight.login()`), or the address
of another server in NDIF_HOST. Stop it while it waits, run it again: it goes on with the same job.

    python examples/08_remote_70b.py [MODEL] [QUESTION]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr

CAPITALS = {"France": " Paris", "Japan": " Tokyo", "Peru": " Lima", "Kenya": " Nairobi"}
TARGETS = [[city] for city in CAPITALS.values()]


def main(model: str = "meta-llama/Llama-3.1-70B", question: str = "The capital of {} is") -> None:
    name = f"{model.rpartition('/')[2]}, {question.replace('/', ' ')}.job"
    path = Path("out") / name
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        job = lr.Job.load(path)
    else:
        remote_model = lr.load(model, remote=True)
        prompts = [question.format(country) for country in CAPITALS]
        options = {"targets": TARGETS, "positions": -1}
        print(lr.estimate(lr.logit_lens, remote_model, prompts, **options))
        job = lr.submit(lr.logit_lens, remote_model, prompts, **options, path=path)
    print(job.status())
    result = job.result()
    path.unlink()  # done: the next call sends a new job
    for single, (country, city) in zip(result, CAPITALS.items(), strict=True):
        site = single.settled(city)[-1]
        layer = f"from layer {result.sites[site].layer} on" if site >= 0 else "at no layer"
        print(f"{country}: {city!r} is the first choice {layer}, of {len(result.sites)}")
    print(result.certificate)
    lr.write_html(lr.trajectory(result, metric="rank"), "out/70b.html")
    print("\nLook in out/70b.html at the layers where the ranks fall: are they the same for all?")


if __name__ == "__main__":
    main(*sys.argv[1:])
