"""Checks the files of a release: names, versions and sizes.

    python scripts/check_dist.py dist
    python scripts/check_dist.py --release v0.1.0 dist    # also that none is missing

Prints their sizes. `twine check` looks at what is inside.
"""

import argparse
import re
import sys
from pathlib import Path

# Far below the 100 MB that PyPI takes: a wheel that grows so much holds something that it should not.
LARGEST_WHEEL = 10_000_000  # bytes
LARGEST_SDIST = 10_000_000

PYTHONS = ("cp310", "cp311", "cp312", "cp313", "cp314")
PLATFORMS = (
    r"manylinux_2_(?:17|2[0-8])_x86_64",
    r"manylinux_2_(?:17|2[0-8])_aarch64",
    r"macosx_11_0_arm64",
    r"macosx_(?:10_\d+|11_0)_x86_64",
    r"win_amd64",
)
WHEEL = re.compile(r"chatglm_cpp-(?P<version>[^-]+)-(?P<python>cp\d+)-(?P=python)-(?P<platform>[\w.]+)\.whl")
SDIST = re.compile(r"chatglm_cpp-(?P<version>[^-]+)\.tar\.gz")


def problems(files: dict[str, int], release: str) -> list[str]:
    """What is wrong with files of these names and sizes; `release` is a tag, "v0.1.0", or empty."""
    found = []
    versions, built = set(), set()
    for name, size in files.items():
        match = WHEEL.fullmatch(name) or SDIST.fullmatch(name)
        if not match:
            found.append(f"{name}: is no file of this package.")
            continue
        versions.add(match["version"])
        limit = LARGEST_WHEEL if name.endswith(".whl") else LARGEST_SDIST
        if size > limit:
            found.append(f"{name}: has {size} bytes, more than {limit}.")
        if name.endswith(".whl"):
            # A wheel that fits several says all of them: manylinux_2_27_x86_64.manylinux_2_28_x86_64.
            platforms = [
                p for p in PLATFORMS if any(re.fullmatch(p, one) for one in match["platform"].split("."))
            ]
            if not platforms:
                found.append(f"{name}: is for a platform that releases are not made for.")
            built.update((match["python"], platform) for platform in platforms)
    if len(versions) > 1:
        found.append(f"The files have several versions: {', '.join(sorted(versions))}.")
    if release:
        if versions != {release.removeprefix("v")}:
            found.append(f"The tag is {release}, and the version {', '.join(sorted(versions)) or 'missing'}.")
        if not any(SDIST.fullmatch(name) for name in files):
            found.append("There is no source distribution.")
        found += [
            f"There is no wheel of {p} for {q}." for p in PYTHONS for q in PLATFORMS if (p, q) not in built
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", default="", metavar="TAG", help="expect all files of this release")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    files = {path.name: path.stat().st_size for path in sorted(args.folder.iterdir())}
    for name, size in files.items():
        print(f"{size / 1e6:6.2f} MB  {name}")
    found = problems(files, args.release)
    if not files:
        found.append(f"{args.folder}: holds no files.")
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
