#!/usr/bin/env python3
"""Prints the difference of every architecture from its reference: golden, max difference, tolerance.

Runs the parity tests of tests/models and reads the properties that Goldens::expect (tests/models/parity.h)
records in them. A new family needs nothing here: its tests bring its rows.

    tools/parity_table.py [build folder, default: build]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

PREFIX = "parity "


def rows_of(program):
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        ran = subprocess.run([program, f"--gtest_output=json:{report}"], capture_output=True, text=True)
        if not report.exists():
            sys.exit(f"{program} ended with {ran.returncode} and without a report:\n{ran.stderr}")
        suites = json.loads(report.read_text())["testsuites"]
    for test in (test for suite in suites for test in suite["testsuite"]):
        for key, value in test.items():
            if key.startswith(PREFIX):
                fixture, golden = key.removeprefix(PREFIX).split(" ", 1)
                difference, tolerance = map(float, value.split())
                yield fixture, golden, difference, tolerance


def main():
    build = Path(sys.argv[1] if len(sys.argv) > 1 else "build")
    programs = sorted(build.glob("tests/models_*_test"))
    if not programs:
        sys.exit(f"no tests/models_*_test in {build}; build the target models_tests first")
    worst = {}
    for program in programs:
        for fixture, golden, difference, tolerance in rows_of(program):
            known = worst.get((fixture, golden), (0.0, tolerance))
            worst[fixture, golden] = (max(difference, known[0]), min(tolerance, known[1]))
    wide = max((len(golden) for _, golden in worst), default=0)
    print(f"{'fixture':22}{'golden':{wide + 2}}{'max difference':>16}{'tolerance':>12}")
    for (fixture, golden), (difference, tolerance) in sorted(worst.items()):
        mark = "" if difference <= tolerance else "  TOO FAR"
        print(f"{fixture:22}{golden:{wide + 2}}{difference:>16.2e}{tolerance:>12.0e}{mark}")
    sys.exit(any(difference > tolerance for difference, tolerance in worst.values()))


if __name__ == "__main__":
    main()
