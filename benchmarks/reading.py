"""Measure how dense Python code is to read: tokens a line, ternaries, comprehensions, names, docstrings.

    python benchmarks/reading.py [FOLDER ...]

A line of code is a line that holds a token that is neither comment nor docstring.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

MAX_COLUMNS = 100
NOT_CODE = {
    tokenize.NEWLINE,
    tokenize.NL,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.COMMENT,
    tokenize.ENDMARKER,
}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)
IMPERATIVES = set(
    """
    accept account add align allocate answer append apply arrange ask assemble attribute average
    begin bound break bring build cache calculate call cap change check choose chunk claim classify
    clean clear clip close collect color combine compare complete compose compress compute concatenate
    confirm connect construct continue convert copy correct count cover create cut deal decide decode
    decompose decompress decorate deduplicate defer define delete describe deserialize detect determine
    diagnose digest discard divide do download draw drop embed empty encode end enlarge enter escape
    estimate evaluate examine exclude execute exit expand explain export express extend extract fetch
    fill filter find finish fit flatten fold follow force forget format forward freeze gather generate
    get give go group guard guess handle hash hide highlight hold identify ignore import include infer
    insert inspect install interleave interpret invert isolate iterate join judge keep label lay leave
    let limit linearize link list load locate log look lower make map mark mask match measure merge
    move multiply name narrow normalize note notice number omit open order outline pack pad parse pass
    pause permit pick place plan plot point post prefer prepare print probe proceed process produce prove
    provide pull put raise rank read rebuild recall receive reconstruct record recover reduce refuse
    register reject release remember remove render reorder repeat replace replay report represent
    request require reserve resolve rest restore retry return reverse rewrite round run sample save say
    scale scan search see select send separate serialize set shade shape share shorten show simulate
    size skip slice sort spell split spread stack start state stop store stream strip submit subtract
    suggest sum summarize suppress switch take tell test time title trace track transform translate
    transpose treat trim truncate try turn unpack update use validate verify wait walk warn wrap write
    yield
    """.split()  # noqa: SIM905 - words read better as a text
)


def main() -> None:
    """Print the figures of each folder."""
    for folder in sys.argv[1:] or ["lens_recipes"]:
        print(folder)
        for name, value in measure(Path(folder)).items():
            print(f"  {name:<40} {value}")


def measure(folder: Path) -> dict[str, str]:
    """Return the figures of all Python files in a folder, as text by name."""
    files = {path: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))}
    trees = [ast.parse(text) for text in files.values()]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    lines = [
        line
        for text, tree in zip(files.values(), trees, strict=True)
        for line in code_lines(text, tree)
    ]
    thousand = len(lines) / 1000
    names = [
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]
    docstrings = [ast.get_docstring(node) for node in nodes if isinstance(node, FUNCTIONS)]
    documented = [text for text in docstrings if text]
    imperative = [
        text for text in documented if text.split()[0].lower().strip(".,:`") in IMPERATIVES
    ]
    too_long = sum(len(line) > MAX_COLUMNS for text in files.values() for line in text.splitlines())
    ternaries = sum(isinstance(node, ast.IfExp) for node in nodes)
    comprehensions = sum(isinstance(node, COMPREHENSIONS) for node in nodes)
    longest = max(files, key=lambda path: files[path].count("\n"))
    return {
        "files": str(len(files)),
        "lines, lines of code": f"{sum(text.count(chr(10)) for text in files.values())}, {len(lines)}",
        "tokens per line of code": f"{mean(lines):.1f}",
        "ternaries per 1000 lines of code": f"{ternaries / thousand:.0f}",
        "comprehensions per 1000 lines of code": f"{comprehensions / thousand:.0f}",
        "mean length of assigned names": f"{mean(map(len, names)):.1f}",
        "functions with a docstring": f"{len(documented) / len(docstrings):.0%}",
        "docstrings that begin with a verb": f"{len(imperative) / max(len(documented), 1):.0%}",
        f"lines over {MAX_COLUMNS} columns": str(too_long),
        "most entries in a folder": str(max(entries(folder))),
        "longest module": f"{longest.relative_to(folder)}, {files[longest].count(chr(10))} lines",
    }


def code_lines(text: str, tree: ast.Module) -> Iterator[int]:
    """Yield the number of tokens of each line of code."""
    docstring_lines = set[int]()
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            docstring_lines.update(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    tokens_by_line: dict[int, int] = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line = token.start[0]
        if token.type not in NOT_CODE and line not in docstring_lines:
            tokens_by_line[line] = tokens_by_line.get(line, 0) + 1
    yield from tokens_by_line.values()


def entries(folder: Path) -> Iterator[int]:
    """Yield the number of modules and packages in each package, `__init__` and `__main__` left out."""
    for package in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        modules = [path for path in package.glob("*.py") if not path.name.startswith("__")]
        packages = [path for path in package.iterdir() if (path / "__init__.py").is_file()]
        yield len(modules) + len(packages)


if __name__ == "__main__":
    main()
