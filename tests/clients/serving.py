"""What the tests of real clients share: the program, a server of it on a port of its own, and the way to skip."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
MODEL = SOURCE / "tests/data/tiny-qwen3.6"
SKIPPED = 77  # what CTest takes for "skipped"


def skip(why):
    print("skipped:", why)
    sys.exit(SKIPPED)


def clients_folder():
    """Where tools/setup_clients installs."""
    cache = os.environ.get("QUERN_CACHE") or Path.home() / ".cache/quern"
    return Path(cache) / "clients"


def under_clients_python():
    """Runs the calling script again with the packages of tests/clients/requirements.txt."""
    python = clients_folder() / "python/bin/python"
    if Path(sys.prefix) == python.parents[1]:
        return
    if not (clients_folder() / "python.stamp").exists():
        skip("the packages of tests/clients/requirements.txt are not installed: run tools/setup_clients")
    os.execv(python, [str(python), *sys.argv])


class Server:
    """`quern serve` with these options, from the time that it is ready to the end of a `with`."""

    def __init__(self, program, *options, name="tiny"):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([program, "serve", str(MODEL), "--served-model-name", name, "--port", "0",
                                         *options], stderr=self.log)
        self.url = self._wait_until_ready()

    def _wait_until_ready(self):
        while True:
            self.log.seek(0)
            text = self.log.read()
            ready = re.search(r"READY url=(\S+)", text)
            if ready:
                return ready.group(1)
            if self.process.poll() is not None:
                raise RuntimeError(text)
            try:
                self.process.wait(0.05)
            except subprocess.TimeoutExpired:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.process.terminate()
        code = self.process.wait(60)
        if failure[0] is None and code != 0:
            raise RuntimeError(f"the server ended with {code}")


def check(condition, what):
    if not condition:
        raise AssertionError(what)
