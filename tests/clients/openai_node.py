#!/usr/bin/env python3
"""OpenAI's client for Node against `quern serve`: openai_node.py PROGRAM"""

import os
import shutil
import subprocess
import sys

import serving

modules = serving.clients_folder() / "node/node_modules"
if not shutil.which("node") or not modules.exists():
    serving.skip("no Node, or no packages of tests/clients/package.json: run tools/setup_clients")

with serving.Server(sys.argv[1]) as server:
    # Node looks for packages beside the script, which lies elsewhere.
    script = serving.SOURCE / "tests/clients/openai_node.mjs"
    environment = dict(os.environ, QUERN_URL=server.url, QUERN_NODE_MODULES=str(modules))
    subprocess.run(["node", str(script)], env=environment, check=True)
