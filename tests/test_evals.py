"""The evals: their form, and a verifier that passes what is right and says why it rejects the rest."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

EVALS = Path(__file__).resolve().parent.parent / "evals"
sys.path.insert(0, str(EVALS))

import answers  # noqa: E402
import audit  # noqa: E402
import forms  # noqa: E402
import verify  # noqa: E402
from bench import TASKS, environment, lines_of_code  # noqa: E402
from warm import WarmPython  # noqa: E402


@pytest.fixture(scope="module")
def warm():
    python = WarmPython(environment({"OMP_NUM_THREADS": "1"}))
    yield python
    python.close()


# -- the two files -----------------------------------------------------


def test_the_files_have_their_form():
    assert forms.complaints() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found["evals"].pop(), "the verifier differ in"),
        (lambda found: found["evals"][3].update(id=1), "ids"),
        (lambda found: found["evals"][3].pop("prompt"), "must have id, name"),
        (lambda found: found["evals"][3].update(prompt="Do it."), "how the script is called"),
        (lambda found: found["evals"][3].update(expectations=["It works."]), "assertion: sentence"),
        (lambda found: [one.update(hard=False) for one in found["evals"]], "half of them hard"),
        (lambda found: found.update(skill_name="other"), "skill_name"),
    ],
)
def test_a_file_without_its_form_is_complained_about(monkeypatch, change, said):
    found = {"evals.json": forms.read("evals.json"), "triggers.json": forms.read("triggers.json")}
    change(found["evals.json"])
    monkeypatch.setattr(forms, "read", found.get)
    assert said in " ".join(forms.complaints())


def test_triggers_without_their_form_are_complained_about(monkeypatch):
    found = {"evals.json": forms.read("evals.json"), "triggers.json": forms.read("triggers.json")}
    found["triggers.json"][1] = dict(found["triggers.json"][0])
    monkeypatch.setattr(forms, "read", found.get)
    assert "comes twice" in " ".join(forms.complaints())


def test_each_task_has_a_solution_and_a_wrong_answer():
    tried = audit.trials(list(TASKS))
    assert {trial.task for trial in tried if not trial.fails} == set(TASKS)
    assert {trial.task for trial in tried if trial.fails} == set(TASKS)
    assert {trial.script.stem for trial in tried} == {
        path.stem for path in EVALS.glob("*/[!_]*.py")
    }


def test_what_a_wrong_answer_fails_is_an_expectation_of_its_task():
    for trial in audit.trials(list(TASKS)):
        assert {audit.expectation_of(name) for name in trial.fails} <= forms.expectations()[
            trial.task
        ], trial.script.name


# -- lines -------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("", 0),
        ("# a comment\n\n", 0),
        ('"""A docstring,\nof two lines."""\n', 0),
        ("x = 1  # one\n\ny = 2\n", 2),
        ('def f():\n    """What it does."""\n    return 1\n', 2),
        ("f(\n    1,\n    # why\n    2,\n)\n", 4),
        ('text = """two\nlines"""\n', 2),
        ("a = 1; b = 2", 1),
        ("this is (no python\n\n", 1),
    ],
)
def test_lines_of_code(source, lines):
    assert lines_of_code(source) == lines


def test_solutions_are_honest_about_their_lines():
    for path in (EVALS / "solutions").glob("*.py"):
        text = path.read_text()
        assert ";" not in text, path.name
        assert lines_of_code(text) <= audit.MOST_LINES, path.name


# -- answers -----------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "without writing"),
        ("", "no JSON"),
        ('{"top_ids": [', "no JSON"),
        ("[1, 2]", "is a list"),
        ("{}", "lacks 'top_ids'"),
        ('{"top_ids": NaN}', "holds NaN"),
        ('{"top_ids": [[1, 2, 3, 4, Infinity]]}', "holds Infinity"),
        ('{"top_ids": 5}', "a list of 4"),
        ('{"top_ids": [[1, 2, 3, 4, 5]]}', "has 1 entries where 4"),
        (json.dumps({"top_ids": [[1, 2, 3, 4, 5]] * 5}), "has 5 entries where 4"),
        (json.dumps({"top_ids": [[1, 2, 3, 4, "5"]] * 4}), "'5' where a finite number"),
        (json.dumps({"top_ids": [[1, 2, 3, 4, True]] * 4}), "True where a finite number"),
        (json.dumps({"top_ids": [[1, 2, 3, 4, None]] * 4}), "None where a finite number"),
        (json.dumps({"top_ids": [[1, 2, 3, 4, 10**400]] * 4}), "where a finite number"),
        (json.dumps({"top_ids": [[1, 2, 3, 4, 5.5]] * 4}), "whole numbers"),
        (json.dumps({"top_ids": [[1, 2, 3, 4, 5]] * 4}), "lacks 'top_logprobs'"),
    ],
)
def test_a_malformed_answer_is_rejected_with_a_sentence(tmp_path, written, said):
    script = tmp_path / "candidate.py"
    write = "" if written is None else f"Path(sys.argv[2]).write_text({written!r})\n"
    script.write_text(f"import sys\nfrom pathlib import Path\n\n{write}")
    verdict = verify.verify("first_lens", script)
    assert not verdict.passed
    assert verdict.failed[-1] == "answer" or said == "lacks 'top_logprobs'"
    assert said in verdict.checks[-1].detail
    assert "Traceback" not in str(verdict)


def test_a_script_that_fails_or_hangs_is_rejected_with_a_sentence(tmp_path):
    script = tmp_path / "candidate.py"
    script.write_text("raise RuntimeError('no such layer')\n")
    assert "status 1: RuntimeError: no such layer" in str(verify.verify("first_lens", script))
    script.write_text("while True:\n    pass\n")
    assert "had not ended after 1 s" in str(verify.verify("first_lens", script, limit_s=1.0))


def test_ids_outside_of_the_vocabulary_or_twice_are_not_the_top():
    logprobs = np.log([[0.5, 0.3, 0.2]])
    assert answers.top("top", np.array([[0, 1]]), logprobs).passed
    assert not answers.top("top", np.array([[1, 0]]), logprobs).passed
    assert "twice" in answers.top("top", np.array([[0, 0]]), logprobs).detail
    assert "not in the vocabulary" in answers.top("top", np.array([[0, 3]]), logprobs).detail
    assert "not in the vocabulary" in answers.top("top", np.array([[0, -1]]), logprobs).detail


def test_numbers_are_close_or_the_worst_is_named():
    assert answers.close("x", np.array([1.0, 2.001]), [1.0, 2.0]).passed
    off = answers.close("x", np.array([[1.0, 2.5]]), [[1.0, 2.0]])
    assert not off.passed
    assert off.detail == "largest difference at [0, 1]: 2.5, expected 2"


# -- the verifier ------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        "solutions/first_lens",
        "solutions/heads_under_sandwich_norms",
        "wrong/old_batch_row_0",
        "wrong/softcap_forgotten",
    ],
)
def test_solutions_pass_and_wrong_answers_are_rejected_for_their_reason(script, warm):
    trial = next(
        trial for trial in audit.trials(list(TASKS)) if trial.script == EVALS / f"{script}.py"
    )
    verdict = verify.verify(trial.task, trial.script, warm=warm)
    assert audit.surprise_of(trial, verdict) == ""


def test_the_audit_is_surprised_by_the_other_verdict():
    right, wrong = audit.trials(["first_lens"])[:2]
    passed = verify.Verdict("first_lens", [answers.Check("answer", True, "")], 8, 0.0)
    failed = verify.Verdict("first_lens", [answers.Check("answer", False, "it hangs")], 8, 0.0)
    assert audit.surprise_of(wrong, passed) == "a wrong answer passed"
    assert audit.surprise_of(wrong, failed) == "rejected for answer, not for top_ids, top_logprobs"
    assert audit.surprise_of(right, failed) == "answer: it hangs"
    assert "differ in top_ids" in audit.surprise_of(right, passed)
    assert audit.surprise_of(right, dataclasses.replace(passed, lines=12)) == "12 lines"


def test_a_crash_is_no_reason_unless_it_says_what_was_expected(tmp_path):
    failed = verify.Verdict(
        "entropy_kl", [answers.Check("answer", False, "status 1")], 8, 0.0, "a typo"
    )
    trial = audit.Trial("entropy_kl", tmp_path, ("answer",), "no attribute 'value'")
    assert "nothing says" in audit.surprise_of(trial, failed)
    assert (
        audit.surprise_of(trial, dataclasses.replace(failed, stderr="x has no attribute 'value'"))
        == ""
    )
    script = tmp_path / "wrong.py"
    script.write_text('"""It crashes.\n\ntask: entropy_kl\nfails: answer\n"""\n')
    with pytest.raises(SystemExit, match="says: REGEX"):
        audit._wrong(script)


def test_the_command_says_what_is_wrong_with_its_arguments(monkeypatch, capsys):
    for arguments, said in (
        (["no_such_task", "x.py"], "invalid choice"),
        (["first_lens", "x.py"], "is no file"),
    ):
        monkeypatch.setattr(sys, "argv", ["verify.py", *arguments])
        with pytest.raises(SystemExit) as end:
            verify.main()
        assert end.value.code == 2
        assert said in capsys.readouterr().err
