"""The recipes from a shell: results on stdout, everything else on stderr.

No command imports torch before it runs a recipe: `--help` answers at once.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from lens_recipes.caller import in_a_shell
from lens_recipes.cli.anatomy import anatomy_command
from lens_recipes.cli.attribute import ATTRIBUTE_EXAMPLES, attribute_command
from lens_recipes.cli.common.arguments import OPTIONS
from lens_recipes.cli.common.usage import in_plain_words
from lens_recipes.cli.doctor.command import DOCTOR_EXAMPLES, doctor_command
from lens_recipes.cli.generate.command import GENERATE_EXAMPLES, generate_command
from lens_recipes.cli.lenses.fit import FIT_EXAMPLES, fit_command
from lens_recipes.cli.lenses.merge import MERGE_EXAMPLES, merge_command
from lens_recipes.cli.logit_lens.command import LOGIT_LENS_EXAMPLES, logit_lens_command
from lens_recipes.cli.paste import PASTE_EXAMPLES, paste_command
from lens_recipes.cli.patch_map import PATCH_MAP_EXAMPLES, patch_map_command
from lens_recipes.cli.show import SHOW_EXAMPLES, show_command
from lens_recipes.cli.survey.command import SURVEY_EXAMPLES, survey_command
from lens_recipes.terminal import escape_terminal


class Commands(TyperGroup):
    """The commands; what is wrong with an option is said in plain words."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that is named; typer calls this."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:  # typer would end without a word
            fail(str(error) or "interrupted", status=130)
        except Exception as error:
            message = getattr(error, "message", None)
            if isinstance(message, str) and hasattr(error, "format_message"):  # of click
                error.message = in_plain_words(message)  # type: ignore[attr-defined]
            raise


app = typer.Typer(
    name="lens-recipes",
    cls=Commands,
    help="What a language model predicts at every layer, with proof that it was read right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command("logit-lens", epilog=LOGIT_LENS_EXAMPLES)(logit_lens_command)
app.command("attribute", epilog=ATTRIBUTE_EXAMPLES)(attribute_command)
app.command("patch-map", epilog=PATCH_MAP_EXAMPLES)(patch_map_command)
app.command("survey", epilog=SURVEY_EXAMPLES)(survey_command)
app.command("generate", epilog=GENERATE_EXAMPLES)(generate_command)
app.command("fit", epilog=FIT_EXAMPLES)(fit_command)
app.command("merge", epilog=MERGE_EXAMPLES)(merge_command)
app.command("paste", epilog=PASTE_EXAMPLES)(paste_command)
app.command("show", epilog=SHOW_EXAMPLES)(show_command)
app.command("doctor", epilog=DOCTOR_EXAMPLES)(doctor_command)
app.command("anatomy")(anatomy_command)


def main() -> None:
    """Run the command line; a user's mistake is a sentence on stderr, never a traceback."""
    from lens_recipes.errors import LensError

    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character shows a question mark.
            stream.reconfigure(errors="replace")
    try:
        with in_a_shell(OPTIONS):
            app()
    except ValueError as error:
        fail(str(error), status=2)
    except (LensError, OSError) as error:  # OSError: for one, stdout cannot be written to
        fail(str(error), status=1)
    except KeyboardInterrupt as error:
        fail(str(error) or "interrupted", status=130)


def open_closed_streams() -> None:
    """Let what is printed go nowhere where the caller has closed stdout or stderr, as `>&-` does.

    Otherwise what belongs to stderr would be printed to stdout, and files would get the number of
    the closed stream, to which libraries write.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, nowhere)


def fail(message: str, status: int) -> NoReturn:
    """Print why the command failed, and exit."""
    print(escape_terminal(f"lens-recipes: {message}"), file=sys.stderr)
    sys.exit(status)
