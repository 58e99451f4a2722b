"""The recipes from a shell: results on stdout, everything else on stderr.

Nothing here imports torch until a recipe runs, so `--help` answers at once.
"""

from __future__ import annotations

import io
import sys

import typer

from lens_recipes.cli.attribute import ATTRIBUTE_EXAMPLES, attribute_command
from lens_recipes.cli.doctor.command import DOCTOR_EXAMPLES, doctor_command
from lens_recipes.cli.generate.command import GENERATE_EXAMPLES, generate_command
from lens_recipes.cli.logit_lens import LOGIT_LENS_EXAMPLES, logit_lens_command
from lens_recipes.cli.options import Model, Remote, loaded
from lens_recipes.cli.paste import PASTE_EXAMPLES, paste_command
from lens_recipes.cli.show import SHOW_EXAMPLES, show_command

app = typer.Typer(
    name="lens-recipes",
    help="What a language model predicts at every layer, with proof that it was read right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _root() -> None:
    """What stands before every subcommand: nothing yet."""


app.command("logit-lens", epilog=LOGIT_LENS_EXAMPLES)(logit_lens_command)
app.command("attribute", epilog=ATTRIBUTE_EXAMPLES)(attribute_command)
app.command("generate", epilog=GENERATE_EXAMPLES)(generate_command)

app.command("paste", epilog=PASTE_EXAMPLES)(paste_command)

app.command("show", epilog=SHOW_EXAMPLES)(show_command)

app.command("doctor", epilog=DOCTOR_EXAMPLES)(doctor_command)


@app.command("anatomy")
def anatomy_command(model: Model = "smollm2", remote: Remote = False) -> None:
    """Show where a model keeps blocks, norm and unembedding, and what it applies after it."""
    from lens_recipes import anatomy

    print(anatomy(loaded(model, remote, None)))


def main() -> None:
    """Run the command line; a user's mistake is a sentence on stderr, never a traceback."""
    from lens_recipes.errors import LensError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="replace"
            )  # a terminal that cannot show a character shows a question mark
    try:
        app()
    except (LensError, ValueError) as error:
        print(f"lens-recipes: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)
    except OSError as error:  # stdout cannot be written to, for one
        print(f"lens-recipes: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("lens-recipes: interrupted", file=sys.stderr)
        sys.exit(130)
