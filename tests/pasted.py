"""Execute pasted scripts in this process, and compare their numbers with the library's."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from agreement import assert_ranks, assert_top_ids, distributions
from loopback import environment, lay_out

import lens_recipes as lr
from lens_recipes.recipes.paste.names import SCRIPTS

# Those of any model; the other one is of models that take images: test_paste_images.py.
OF_TEXT = [recipe for recipe in SCRIPTS if recipe != "image-lens"]
LOCAL = [recipe for recipe in OF_TEXT if recipe != "remote"]
PROMPT = "The capital of France is"
ANSWERS = {"The capital of France is": "a", "Two plus two is": "e", "Fire is": "t"}
# The small tokenizer knows letters, but no capitals.
LETTERS = {
    '" Paris"': '"a"', '" London"': '"e"', '" four"': '"e"', '" hot"': '"t"', '" Rome"': '"a"', '" Madrid"': '"e"',
    '"The capital of Italy is"': '"a b c d"', '"The capital of Spain is"': '"a b e d"',
}  # fmt: skip


def checkpoint(family: str, hub: Path, folder: Path) -> str:
    """A small random model of a family, with a tokenizer, in a hub's cache; its id there."""
    lay_out(hub, f"tiny/{family}", tiny.save(tiny.for_text(family), folder))
    return f"tiny/{family}"


def script(recipe: str, model: str, **options: Any) -> str:
    """Return a pasted script that asks for tokens which the small tokenizer has."""
    text = lr.paste(recipe, model, **options)
    for word, letter in LETTERS.items():
        text = text.replace(word, letter)
    return text


def rehearsed(text: str) -> str:
    """Change a script for a server so that nnsight rehearses it here: see strict_local."""
    text = replaced(text, "REMOTE = True", 'REMOTE = "local"')
    return replaced(text, "tokenizer=tokenizer)", "dispatch=True)")


def replaced(text: str, old: str, new: str) -> str:
    """Return a text with every `old`, of which there must be one, replaced."""
    assert old in text
    return text.replace(old, new)


def execute(text: str, folder: Path) -> dict[str, Any]:
    """Run a script from a file, as nnsight needs it, and return its globals."""
    path = folder / "pasted.py"
    path.write_text(text)
    return runpy.run_path(str(path), run_name="__main__")


def close(found: Any, expected: Any, message: str = "") -> None:
    np.testing.assert_allclose(
        np.asarray(found), np.asarray(expected), atol=2e-4, rtol=1e-3, err_msg=message
    )


# Log-probabilities of a script and of the library that are nearer than this may change places.
NEAR = 4e-4


def likeliest(ids: Any, logprobs: np.ndarray, name: str = "ids") -> None:
    """Check that ids `[…, k]` are the likeliest of distributions `[…, vocab]`, but for near ties."""
    ids = np.asarray(ids)
    assert ids.shape[:-1] == logprobs.shape[:-1], name
    assert_top_ids(ids, logprobs, NEAR, name)


def stacked(tensors: Any) -> np.ndarray:
    return torch.stack([tensor.cpu() for tensor in tensors]).numpy()


def layers_of(found: dict[str, Any]) -> list[int]:
    return list(found["LAYERS"])


ALONE = """
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "lens_recipes":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from nnsight.modeling import huggingface
huggingface._ID_CACHE.update({name: name for name in sys.argv[2:]})  # no hub can be asked
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def alone(
    text: str, hub: Path, folder: Path, *ids: str, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own that cannot import this package.

    Args:
        text: The script.
        hub: The cache of a hub, in which models are found.
        folder: Where the process runs.
        *ids: Hub ids that are to be taken as spelled right: no hub can be asked.
        **more: Environment variables.
    """
    (folder / "script.py").write_text(text)
    command = [sys.executable, "-c", ALONE, "script.py", *ids]
    variables = environment(hub) | more
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=variables
    )


def proof(recipe: str) -> str:
    """Return what a script says of its own check, where that succeeded."""
    if recipe == "patch-map":
        return "proof: patched everywhere it is the clean run"
    return "proof: the last layer's lens is the model's own output"


# The most lines of code; the other scripts have forty, and two more on a server.
LONGER = {
    "attribution": 55,
    "components": 47,
    "image-lens": 46,
    "patch-map": 50,
    "remote": 48,
    "steer": 48,
}


def refuse_bad_form(model: str, recipes: list[str], folder: Path, remote: bool) -> None:
    """Check that scripts are formatted, have no unused names, and are short."""
    for recipe in recipes:
        (folder / f"{recipe}.py").write_text(lr.paste(recipe, model, remote=remote))
    ruff = Path(sys.executable).with_name("ruff")
    rules = [
        "check",
        "--isolated",
        "--line-length=100",
        "--select=E,F,I,UP,B,PIE,C4",
        "--ignore=B905",
    ]
    for command in (["format", "--isolated", "--line-length=100", "--check", "--diff"], rules):
        done = subprocess.run([ruff, *command, folder], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    for recipe in recipes:
        text = (folder / f"{recipe}.py").read_text()
        code = re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
        lines = [
            line for line in code.splitlines() if line.strip() and not line.strip().startswith("#")
        ]
        assert 10 <= len(lines) <= LONGER.get(recipe, 42 if remote else 40), (recipe, len(lines))
        assert "lens_recipes" not in code
        assert str(folder) not in text


# -- what each recipe must have found ----------------------------------


def first_lens(found: dict[str, Any], model: Any) -> None:
    logprobs = distributions(
        partial(lr.logit_lens, model, PROMPT, layers=layers_of(found), positions=-1)
    )[:, 0]
    likeliest([[int(token)] for _, token in found["lens"]], logprobs)
    close([float(prob) for prob, _ in found["lens"]], np.exp(logprobs.max(-1)))


def top_k(found: dict[str, Any], model: Any) -> None:
    run = partial(lr.logit_lens, model, PROMPT, layers=layers_of(found))
    result = run()
    likeliest(stacked(found["top_ids"]), distributions(run))
    close(stacked(found["top_logprobs"]), result.top_logprobs)
    close(stacked(found["entropies"]), result.entropy)


def token_track(found: dict[str, Any], model: Any) -> None:
    run = partial(lr.logit_lens, model, PROMPT, layers=layers_of(found), targets=["a", "e"])
    result, logprobs, ranks = run(), distributions(run), stacked(found["target_ranks"])
    for column, token in enumerate(result.target_ids[0]):
        assert_ranks(ranks[..., column], logprobs, token, NEAR)
    close(stacked(found["target_logprobs"]), result.target_logprobs)


def grid_heatmap(found: dict[str, Any], model: Any) -> None:
    logprobs = distributions(partial(lr.logit_lens, model, PROMPT, layers=layers_of(found)))
    likeliest(stacked(found["top_ids"])[..., None], logprobs)
    close(found["figure"].data[0].z, np.exp(logprobs.max(-1)))
    assert "plotly" in Path("grid.html").read_text()


def batch(found: dict[str, Any], model: Any) -> None:
    answers = [[target] for target in ANSWERS.values()]
    run = partial(
        lr.logit_lens,
        model,
        list(ANSWERS),
        layers=layers_of(found),
        targets=answers,
        positions=-1,
    )
    assert_ranks(stacked(found["answer_ranks"]), distributions(run), run().target_ids[:, 0], NEAR)


def components(found: dict[str, Any], model: Any) -> None:
    assert [layer for layer, _ in found["lens"]] == layers_of(found)
    for name in dict.fromkeys(name for _, said in found["lens"] for name in said):
        rows = {layer: said[name] for layer, said in found["lens"] if name in said}
        logprobs = distributions(
            partial(lr.logit_lens, model, PROMPT, layers=list(rows), components=name, positions=-1)
        )[:, 0]
        ids = stacked([ids for _, ids in rows.values()])
        assert ids.shape[-1] == 3
        likeliest(ids, logprobs, name)
        likelihood = np.exp(-np.sort(-logprobs, axis=-1)[:, :3])
        close(stacked([probs for probs, _ in rows.values()]), likelihood, name)


def attribution(found: dict[str, Any], model: Any) -> None:
    result = lr.attribution(model, PROMPT, "a", against="e", unit="component")
    expected: dict[str, float] = {}
    for part, value in zip(result.parts, result.values[:, 0, 0], strict=True):
        name = (
            part.component
            if part.component in ("embed", "bias")
            else f"{part.layer} {part.component}"
        )
        expected[name] = expected.get(name, 0.0) + float(value)
    values = {"bias": 0.0, **found["shares"]}
    assert set(expected) == set(values)
    size = max(map(abs, expected.values()))
    for name, value in values.items():
        assert abs(value - expected[name]) < 1e-4 * size + 1e-5, name
    close(float(found["logit"]), result.logit[0, 0])


def generation(found: dict[str, Any], model: Any) -> None:
    run = partial(
        lr.generate_lens,
        model,
        PROMPT,
        layers=layers_of(found),
        max_new_tokens=found["NEW_TOKENS"],
        do_sample=False,
    )
    np.testing.assert_array_equal(found["written"].cpu(), run().tokens.next_id)
    likeliest(stacked(found["predictions"]).T[..., None], distributions(run))


def remote(found: dict[str, Any], model: Any) -> None:
    run = partial(lr.logit_lens, model, PROMPT, layers=layers_of(found), positions=-1)
    likeliest(stacked(found["result"]["top_ids"]), distributions(run)[:, 0])
    close(stacked(found["result"]["top_logprobs"]), run().top_logprobs[:, 0])


def steer(found: dict[str, Any], model: Any) -> None:
    edit = lr.steer(("e", "a"), layer=found["LAYER"], scale=found["SCALE"])
    ids = list(range(lr.anatomy(model).vocab_size))
    for row, edits in enumerate((None, edit)):
        run = partial(lr.logit_lens, model, PROMPT, positions=-1, layers=-1, edits=edits)
        close(found["logprobs"][row], run(targets=ids).target_logprobs[-1, 0])


def patch_map(found: dict[str, Any], model: Any) -> None:
    layers, clean, corrupt = layers_of(found), found["CLEAN"], found["CORRUPT"]
    assert np.shape(stacked(found["recovery"])) == (len(layers), len(found["tokens"]))

    def logit_diff(prompt: str, edits: Any = None) -> float:
        run = partial(lr.logit_lens, model, prompt, positions=-1, layers=-1, edits=edits)
        logits = run(targets=["a", "e"]).target_logits[-1, 0]
        return float(logits[0] - logits[1])

    best, worst = logit_diff(clean), logit_diff(corrupt)
    for row, layer in enumerate(layers):
        for position in (0, len(found["tokens"]) // 2, len(found["tokens"]) - 1):
            patched = logit_diff(corrupt, lr.patch(clean, layer=layer, positions=position))
            recovery = (patched - worst) / (best - worst)
            np.testing.assert_allclose(found["recovery"][row][position], recovery, atol=5e-3)


CHECKS: dict[str, Callable[[dict[str, Any], Any], None]] = {
    "first-lens": first_lens,
    "top-k": top_k,
    "token-track": token_track,
    "grid-heatmap": grid_heatmap,
    "batch": batch,
    "components": components,
    "attribution": attribution,
    "generation": generation,
    "steer": steer,
    "patch-map": patch_map,
    "remote": remote,
}
