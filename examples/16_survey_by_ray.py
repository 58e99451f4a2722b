"""A survey in four parts that workers of Ray do at the same time, on one machine or many.

    python examples/16_survey_by_ray.py [ITEMS] [MODEL]      # pip install "ray>=2.40"

Parts are made of blocks of 256 items. Each is kept in a folder of its own: a worker that dies is
asked again, and goes on there. A job array of Slurm, or GNU parallel, does the same without Ray:

    #SBATCH --array=1-4
    lens-recipes survey items.jsonl --shard $SLURM_ARRAY_TASK_ID/4 \
        --folder out/shard-$SLURM_ARRAY_TASK_ID --json out/shard-$SLURM_ARRAY_TASK_ID.json

    parallel lens-recipes survey items.jsonl --shard {}/4 --folder out/shard-{} \
        --json out/shard-{}.json ::: 1 2 3 4

and `lr.Survey.merge(lr.Survey.load(f"out/shard-{n}.json") for n in (1, 2, 3, 4))` is the whole.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ray

import lens_recipes as lr

N_PARTS = 4


@ray.remote(num_cpus=1, max_retries=3)  # num_gpus=1 for a model on a GPU
def survey_part(number: int, items: str, model: str, folder: str) -> lr.Survey:
    loaded = lr.load(model)
    return lr.survey(loaded, items, shard=(number, N_PARTS), path=f"{folder}/shard-{number}")


def main(items: str = "capitals", model: str = "smollm2") -> None:
    folder = str(Path("out").absolute())
    parts = [survey_part.remote(n, items, model, folder) for n in range(1, N_PARTS + 1)]
    whole = lr.Survey.merge(ray.get(parts))
    whole.save("out/survey.json")
    print(whole.summary())
    print("\nLook in out/survey.json: it is what one process would have found.")


if __name__ == "__main__":
    main(*sys.argv[1:])
