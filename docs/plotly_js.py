"""Bring the part of plotly.js that our figures use, and what unpacks it, from npm.

python docs/plotly_js.py            # needs npm and a network; writes into lens_recipes/views/plotly_js

The releases are pinned, each with the hash by which npm names its content. The release of plotly.js is the one
that the pinned plotly.py brings. Change both together, and `BUNDLE_RELEASE` of `bundle.py` with them.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "lens_recipes" / "views" / "plotly_js"


class Source(NamedTuple):
    """A package of npm, the file of it that is taken, and where its licences stand."""

    package: str
    version: str
    integrity: str
    path: str
    licences: tuple[str, ...]

    def archive(self, folder: Path) -> Path:
        """Download the package; end the program where its content is another than expected."""
        name = f"{self.package}@{self.version}"
        done = subprocess.run(
            ["npm", "pack", "--silent", name],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        )
        path = folder / done.stdout.strip()
        digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
        if f"sha512-{digest}" != self.integrity:
            sys.exit(f"{name} has another content than expected: sha512-{digest}")
        return path


PLOTLY = Source(
    "plotly.js-cartesian-dist-min",
    "4.1.1",
    "sha512-o8GrFeusncwBIxbBynRJpY4pkgVB6caM+JLpwrLYbbsO7dZ8FJ+SVN2Fr+L7kiG/Z6w4P5O0Jus/Qr5EefHVeg==",
    "package/plotly-cartesian.min.js",
    ("package/LICENSE",),
)
PAKO = Source(
    "pako",
    "2.1.0",
    "sha512-w+eufiZ1WuJYgPXbV/PO3NCMEc3xqylkKHzp8bxp1uW4qaSNQUkwmLLEc3kKsfz8lpV1F8Ht3U1Cm+9Srog2ug==",
    "package/dist/pako_inflate.min.js",
    ("package/LICENSE", "package/lib/zlib/README"),
)


def main() -> None:
    """Write the two scripts and their licences."""
    licences = []
    for source in (PLOTLY, PAKO):
        with (
            tempfile.TemporaryDirectory() as folder,
            tarfile.open(source.archive(Path(folder))) as archive,
        ):
            content = archive.extractfile(source.path).read()
            texts = [archive.extractfile(path).read().decode().strip() for path in source.licences]
        name = Path(source.path).name
        if source is PLOTLY:
            name, content = f"{name}.gz", gzip.compress(content, 9, mtime=0)
        (FOLDER / name).write_bytes(content)
        licences += [f"{name}: {source.package} {source.version}", *texts]
    (FOLDER / "LICENSES").write_text("\n\n\n".join(licences) + "\n")


if __name__ == "__main__":
    main()
