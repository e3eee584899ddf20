#!/usr/bin/env python3
"""Makes stubs for missing shared libraries that torch's Python module is linked to.

    stub_libraries.py TORCH_LIB OUT

TORCH_LIB is torch/lib of the wheel, a CUDA build. Its Python module can be imported on a machine without NVIDIA's
libraries if something defines the symbols that it takes from them. Each missing library becomes a file of its name in
OUT. A stub holds one instruction, which ends a process that calls it. Symbols without a version may belong to any of
the libraries without versions, so each of these has all of them.
"""

import subprocess
import sys
from pathlib import Path


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def dependencies(library):
    """All libraries that the loader looks for: name -> path, "not" if missing."""
    rows = (line.split() for line in output("ldd", library) if " => " in line)
    return {row[0]: row[2] for row in rows}


def symbols(library, kind):
    """{(name, version)} of those that are not weak."""
    rows = (line.split() for line in output("nm", "-D", f"--{kind}-only", library))
    names = (row[-1].partition("@") for row in rows if kind == "defined" or row[-2] == "U")
    return {(name, version.lstrip("@")) for name, _, version in names}


def versions(library):
    """The library that each version of a symbol belongs to."""
    owner, file = {}, ""
    for line in output("readelf", "--wide", "-V", library):
        words = line.split()
        if "File:" in words:
            file = words[words.index("File:") + 1]
        elif words[1:2] == ["Name:"]:
            owner[words[2]] = file
    return owner


def make(out, library, exported):
    """`exported`: {version: names}; all are the address of one trap."""
    names = {name for group in exported.values() for name in group}
    labels = "".join(f".globl {name}\n.type {name}, @function\n{name}:\n" for name in sorted(names))
    source, script = out / "stub.s", out / "stub.map"
    source.write_text(f'.text\n{labels}ud2\n.section .note.GNU-stack,"",@progbits\n')
    groups = (f"{version} {{ {'; '.join(sorted(group))}; }};\n" for version, group in sorted(exported.items()))
    script.write_text("".join(groups))
    options = ["-shared", "-nostdlib", f"-Wl,-soname,{library}", f"-Wl,--version-script,{script}"]
    subprocess.run(["cc", *options, "-o", out / library, source], check=True)
    source.unlink()
    script.unlink()


def main():
    torch, out = Path(sys.argv[1]), Path(sys.argv[2])
    loaded = sorted(torch.glob("*.so*"))
    found, owner, undefined = {}, {}, set()
    for library in loaded:
        found |= dependencies(library)
        owner = versions(library) | owner
        undefined |= symbols(library, "undefined")
    missing = {library: {} for library, path in sorted(found.items()) if path == "not"}
    python = Path(sys.executable).resolve()
    providers = [*loaded, python, *dependencies(python).values(), *found.values()]
    defined = {name for file in set(map(str, providers)) - {"not"} for name, _ in symbols(file, "defined")}
    for name, version in undefined:
        if owner.get(version) in missing:
            missing[owner[version]].setdefault(version, set()).add(name)
    unversioned = {name for name, version in undefined if not version} - defined
    out.mkdir(parents=True, exist_ok=True)
    for library, exported in missing.items():
        make(out, library, exported or {"": unversioned})


if __name__ == "__main__":
    main()
