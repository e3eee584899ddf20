#!/usr/bin/env python3
"""Runs the tests of build folders by ctest and ends with one line: N passed, N failed, N skipped.

    run_tests.py build build-dev='base checkpoint'

takes all tests of build/ and those of the named source folders of build-dev/. GoogleTest's cases are counted one by one,
a case that runs in two build folders once: it has failed if it failed in either. The exit status is 1 if a test failed.
"""

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

RANK = {"skipped": 0, "passed": 1, "failed": 2}


def outcome(case):
    """Of a <testcase>, whose elements ctest and GoogleTest write alike; with the reason of a skip."""
    if case.find("failure") is not None or case.get("status") == "fail":
        return "failed", ""
    skipped = case.find("skipped")
    if skipped is not None or case.get("status") in ("notrun", "disabled"):
        return "skipped", (skipped.get("message") or "" if skipped is not None else "").strip()
    return "passed", ""


def run_ctest(build, folders):
    """Yields (test, outcome, reason) for every case."""
    results = build / "test-results"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    command = ["ctest", "--test-dir", str(build), "--output-on-failure", "--no-tests=error"]
    command += ["--output-junit", str(results.resolve() / "ctest.xml"), "-j", str(os.cpu_count())]
    if folders:
        command += ["-L", f"^({'|'.join(folders)})$"]
    print("+", " ".join(command), flush=True)
    environment = dict(os.environ, GTEST_OUTPUT=f"xml:{results.resolve()}/", GTEST_BRIEF="1")
    status = subprocess.run(command, env=environment).returncode
    tests = ElementTree.parse(results / "ctest.xml").getroot().iter("testcase")
    failures = 0
    for test in tests:
        name = test.get("name")
        whole = outcome(test)
        cases = list(read_gtest(results / f"{name.replace('.', '_')}_test.xml", name))
        # A program that crashes leaves no report, or an incomplete one.
        if not cases or (whole[0] == "failed" and all(case[1] != "failed" for case in cases)):
            cases.append((name, *whole))
        failures += sum(case[1] == "failed" for case in cases)
        yield from cases
    if status != 0 and not failures:
        yield f"ctest in {build}", "failed", ""


def read_gtest(report, name):
    if report.exists():
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            if case.get("status") != "notrun":
                yield f"{name} {case.get('classname')}.{case.get('name')}", *outcome(case)


def main():
    worst, reasons = {}, {}
    for argument in sys.argv[1:]:
        build, _, folders = argument.partition("=")
        for test, result, reason in run_ctest(Path(build), folders.split()):
            reasons[test] = reason
            worst[test] = max(worst.get(test, "skipped"), result, key=RANK.get)
    print()
    for test, result in sorted(worst.items()):
        if result != "passed":
            print(f"{result}: {test}" + (f": {' '.join(reasons[test].split())}" if reasons[test] else ""))
    count = Counter(worst.values())
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] or not worst else 0


if __name__ == "__main__":
    sys.exit(main())
