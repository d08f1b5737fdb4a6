"""Writes the Homebrew formula of a source distribution, from packaging/homebrew/chatglm-cpp.rb.in.

    python scripts/homebrew_formula.py dist/chatglm_cpp-0.1.0.tar.gz --homepage URL -o chatglm-cpp.rb

The Python packages that it installs are what pip chooses today for this Python, which should be the one of
the formula.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

TEMPLATE = Path(__file__).resolve().parent.parent / "packaging" / "homebrew" / "chatglm-cpp.rb.in"
EXTRAS = ("convert", "cli")

# numpy and certifi are formulas of their own. hf-xet makes some downloads faster and wants a Rust compiler;
# without it huggingface_hub downloads over plain HTTPS.
LEFT_OUT = ("numpy", "certifi", "hf-xet", "chatglm-cpp")


class Source(NamedTuple):
    """What one package is installed from."""

    name: str
    file: str  # a source distribution, or a wheel for every system
    sha256: str

    @property
    def url(self) -> str:
        kind = self.file.split("-")[-3] if self.file.endswith(".whl") else "source"
        return f"https://files.pythonhosted.org/packages/{kind}/{self.name[0]}/{self.name}/{self.file}"


def source_of(name: str, path: Path) -> Source:
    return Source(name, path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def required_packages(sdist: Path) -> list[Source]:
    """Everything that the package and EXTRAS need: wheels where one fits every system, else sources."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        requirement = f"{sdist.resolve()}[{','.join(EXTRAS)}]"
        run_pip("install", "--dry-run", "--ignore-installed", "--report", report, requirement)
        entries = json.loads(report.read_text("utf-8"))["install"]
    sources = []
    for entry in entries:
        name, version = normalized(entry["metadata"]["name"]), entry["metadata"]["version"]
        file = entry["download_info"]["url"].rpartition("/")[2]
        if name in LEFT_OUT:
            continue
        if file.endswith("-none-any.whl"):
            sources.append(Source(name, file, entry["download_info"]["archive_info"]["hashes"]["sha256"]))
        else:
            sources.append(download(name, version))
    return sorted(sources)


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def download(name: str, version: str) -> Source:
    with tempfile.TemporaryDirectory() as folder:
        run_pip("download", "--no-deps", "--no-binary", name, "--dest", folder, f"{name}=={version}")
        (path,) = Path(folder).iterdir()
        return source_of(name, path)


def run_pip(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *map(str, arguments)], check=True)


def check_sdist(path: Path) -> None:
    """Raises ValueError unless `path` is a source distribution of this package."""
    match = re.fullmatch(r"chatglm_cpp-([^-]+)\.tar\.gz", path.name)
    if not match:
        raise ValueError(f"{path}: is no source distribution of chatglm-cpp by its name.")
    with tarfile.open(path) as archive:
        if f"chatglm_cpp-{match[1]}/CMakeLists.txt" not in archive.getnames():
            raise ValueError(f"{path}: holds no CMakeLists.txt.")


def formula(sdist: Source, resources: Iterable[Source], homepage: str) -> str:
    stanzas = "".join(
        f'  resource "{r.name}" do\n    url "{r.url}"\n    sha256 "{r.sha256}"\n  end\n\n' for r in resources
    )
    text = TEMPLATE.read_text("utf-8")
    for place, value in (
        ("@HOMEPAGE@", homepage),
        ("@URL@", sdist.url),
        ("@SHA256@", sdist.sha256),
        ("@RESOURCES@\n", stanzas),
    ):
        text = text.replace(place, value)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sdist", type=Path, help="source distribution, as it lies on PyPI")
    parser.add_argument("--homepage", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    try:
        check_sdist(args.sdist)
    except (ValueError, OSError, tarfile.TarError) as error:
        sys.exit(f"error: {error}")
    text = formula(source_of("chatglm-cpp", args.sdist), required_packages(args.sdist), args.homepage)
    args.output.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
