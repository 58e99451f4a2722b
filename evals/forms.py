"""The form of evals.json and triggers.json, as skill-creator reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import TASKS

HERE = Path(__file__).resolve().parent
KINDS = {"id": int, "name": str, "hard": bool, "prompt": str, "expected_output": str, "expectations": list}
# Tasks that the solution of another one solves too, whatever the family.
SAME = {
    **dict.fromkeys(("softcap_lens", "logit_scale", "any_family"), "first_lens"),
    **dict.fromkeys(("parallel_blocks", "residual_inside", "residual_multiplier"), "component_attribution"),
}
CALL = "python candidate.py MODEL_FOLDER OUT.json"


def read(name: str) -> Any:
    """One of the two files."""
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def solution(task: str) -> Path:
    """The reference solution of a task."""
    return HERE / "solutions" / f"{SAME.get(task, task)}.py"


def expectations() -> dict[str, set[str]]:
    """Of each task the assertions that its expectations name, before the colon, and "answer", which goes for all."""
    found = read("evals.json")["evals"]
    return {one["name"]: {"answer", *(text.partition(": ")[0] for text in one["expectations"])} for one in found}


def complaints() -> list[str]:
    """What is wrong with the two files, in sentences."""
    return [*_about_evals(read("evals.json")), *_about_triggers(read("triggers.json"))]


def _about_evals(found: Any) -> list[str]:
    if (
        not isinstance(found, dict)
        or found.get("skill_name") != "lens-recipes"
        or set(found) != {"skill_name", "evals"}
    ):
        return ['evals.json must be {"skill_name": "lens-recipes", "evals": […]}.']
    said = [complaint for one in found["evals"] for complaint in _about_one(one)]
    evals = [one for one in found["evals"] if set(one) == set(KINDS)]
    ids, names = [one["id"] for one in evals], [one["name"] for one in evals]
    if ids != list(range(1, len(ids) + 1)):
        said.append("the ids in evals.json are not 1, 2, 3, …")
    if set(names) != set(TASKS) or len(set(names)) < len(names):
        said.append(f"evals.json and the verifier differ in {sorted(set(names) ^ set(TASKS))}, or a name comes twice.")
    if len(evals) < 25 or 2 * sum(one["hard"] for one in evals) < len(evals):
        said.append("fewer than 25 tasks, or fewer than half of them hard.")
    return said + [f"{n} has no solution." for n in names if not solution(n).is_file()]


def _about_one(one: dict[str, Any]) -> list[str]:
    who = f"eval {one.get('id')}"
    if set(one) != set(KINDS) or not all(isinstance(one[key], kind) for key, kind in KINDS.items()):
        return [f"{who} must have {', '.join(KINDS)}, each of its kind."]
    said = [] if CALL in one["prompt"] else [f"{who} does not say how the script is called: {CALL}"]
    if not one["expectations"] or not all(isinstance(t, str) and ": " in t for t in one["expectations"]):
        said.append(f"{who} needs expectations of the form 'assertion: sentence'.")
    return said


def _about_triggers(found: Any) -> list[str]:
    if not isinstance(found, list) or any(set(one) != {"query", "should_trigger"} for one in found):
        return ['triggers.json must be a list of {"query", "should_trigger"}.']
    counts = [sum(one["should_trigger"] is wanted for one in found) for wanted in (True, False)]
    is_even = counts[0] == counts[1] >= 20
    said = [] if is_even else [f"triggers.json has {counts[0]} that should and {counts[1]} that should not."]
    twice = len({one["query"] for one in found}) < len(found)
    return [*said, "a query in triggers.json comes twice."] if twice else said
