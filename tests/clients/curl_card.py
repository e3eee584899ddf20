#!/usr/bin/env python3
"""The curl line of a published card, word for word: curl_card.py PROGRAM"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import serving
from serving import check


def card_command():
    assets = Path(os.environ.get("QUERN_ASSETS") or serving.SOURCE.parent / "shared")
    for card in sorted(assets.glob("cards/*.txt")):
        text = card.read_text()
        if "curl http://localhost:8000/v1/chat/completions" in text:
            begin = text.index("curl http://localhost:8000")
            # A shell joins lines that end in a backslash; shlex does not.
            return text[begin:text.index("}'", begin) + 2].replace("\\\n", " ")
    return None


def main():
    command = card_command()
    if not command or not shutil.which("curl"):
        serving.skip("no cards in $QUERN_ASSETS or ../shared, or no curl")
    with serving.Server(sys.argv[1], name=".") as server:
        words = shlex.split(command.replace("http://localhost:8000", server.url))
        said = subprocess.run(["curl", "-sS", *words[1:]], check=True, capture_output=True, text=True).stdout
        answer = json.loads(said)
        check(answer["model"] == "." and answer["choices"][0]["finish_reason"] in ("stop", "length"), answer)


main()
