#!/usr/bin/env python3
"""Fails if a folder under src/ includes a folder that it does not list in DEPS, or if DEPS has a cycle."""

import re
import sys
from pathlib import Path

SRC = Path(__file__).resolve().parent.parent / "src"
# External headers that only these folders may include.
CONFINED = {
    "torch/": {"tensor"},
    "ATen/": {"tensor"},
    "c10/": {"tensor"},
    "cuda": {"kernels", "tensor"},
    "yaml-cpp/": {"base"},
    "quern_text_ffi.h": {"prompt", "data"},
}


def read_dependencies():
    dependencies = {}
    for cmake in SRC.glob("*/CMakeLists.txt"):
        call = re.search(r"quern_module\((\w+)(?:\s+DEPS([^)]*))?\)", cmake.read_text())
        if call:
            dependencies[call.group(1)] = set((call.group(2) or "").split("SUBDIRS")[0].split())
    return dependencies


def rank_folders(dependencies, errors):
    rank = {}
    while len(rank) < len(dependencies):
        ready = [f for f in dependencies if f not in rank and dependencies[f] <= rank.keys()]
        if not ready:
            errors.append(f"cycle, or a folder without CMakeLists.txt, among {sorted(set(dependencies) - set(rank))}")
            break
        for folder in ready:
            rank[folder] = 1 + max((rank[d] for d in dependencies[folder]), default=-1)
    return rank


def check_include(where, folder, quote, path, dependencies, errors):
    target = path.split("/")[0]
    if quote == '"' and target not in dependencies and path not in CONFINED:
        errors.append(f'{where}: write includes from src/, as in "ops/norm.h"')
    elif target in dependencies and target != folder and target not in dependencies[folder]:
        errors.append(f"{where}: {folder}/ may not include {target}/")
    for prefix, allowed in CONFINED.items():
        if path.startswith(prefix) and folder not in allowed:
            errors.append(f"{where}: {path} belongs behind {' or '.join(sorted(allowed))}/")


def main():
    errors = []
    dependencies = read_dependencies()
    rank = rank_folders(dependencies, errors)
    for file in sorted(p for p in SRC.rglob("*") if p.suffix in {".h", ".cc", ".cu", ".cuh"}):
        folder = file.relative_to(SRC).parts[0]
        for number, line in enumerate(file.read_text().splitlines(), 1):
            include = re.match(r'\s*#\s*include\s*([<"])([^>"]+)', line)
            if include:
                where = f"{file.relative_to(SRC.parent)}:{number}"
                check_include(where, folder, include.group(1), include.group(2), dependencies, errors)
    print("\n".join(errors) or "layers: " + " < ".join(sorted(rank, key=rank.get)))
    return bool(errors)


if __name__ == "__main__":
    sys.exit(main())
