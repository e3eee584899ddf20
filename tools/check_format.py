#!/usr/bin/env python3
"""Checks that every C++ and Rust source is formatted (`make format`). Exits with status 77 and a reason without clang-format-19."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("src", "tests", "bench", "tools")


def main():
    formatter = shutil.which("clang-format-19")
    if not formatter:
        print("skipped: clang-format-19 is not installed (tools/setup clang-format-19)")
        return 77
    sources = [str(file) for folder in FOLDERS for kind in ("h", "cc") for file in (ROOT / folder).rglob(f"*.{kind}")]
    commands = [[formatter, "--dry-run", "--Werror", *sorted(sources)]]
    cargo = shutil.which("cargo") or str(Path.home() / ".cargo/bin/cargo")
    if subprocess.run([cargo, "fmt", "--version"], capture_output=True).returncode == 0:
        commands.append([cargo, "fmt", "--check", "--manifest-path", str(ROOT / "rust/Cargo.toml")])
    failed = [command for command in commands if subprocess.run(command).returncode != 0]
    if failed:
        print("run `make format`")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
