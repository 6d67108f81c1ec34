"""A flake of somebody who uses this one: the documented functions, and a recipe whose stages try the sandbox."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from hermetic.nix.export import document, text

__all__ = ["write"]

CONSUMER = """\
{
  inputs.hermetic.url = "path:%s";
  outputs = { self, hermetic }:
    let made = hermetic.lib.x86_64-linux; in {
      packages.x86_64-linux = made.fromRecipe { export = ./trial.nix.json; root = ./.; } // {
        bench = made.mkEngine { name = "tiny"; hfModel = ./model; maxBatchSize = 4; };
        gpu = made.mkEngine { name = "tiny"; hfModel = ./model; gpu = %s; };
        hub = made.mkHfModel { hfModel = "Qwen/Qwen3-32B"; };
        named = made.mkEngine { name = "named"; hfModel = "Qwen/Qwen3-32B"; quantization = "NVFP4"; };
        experts = made.mkEngine {
          name = "tiny"; hfModel = ./model; quantization = "W8A16"; tensorParallelSize = 2; moeExpertParallelSize = 2;
          moePlugin = "float16";
        };
        undealt = made.mkEngine {
          name = "tiny"; hfModel = ./model; moeTensorParallelSize = 2; moeExpertParallelSize = 2;
        };
        fp8experts = made.mkEngine { name = "tiny"; hfModel = ./model; quantization = "FP8"; moePlugin = "auto"; };
        repository = made.mkTritonRepo {
          engine = ./model; maxBatchSize = 2; enableChunkedContext = false; batchSchedulerPolicy = "max_utilization";
          kvCacheFreeGpuMemFraction = 0.85; parameters.cancellation_check_period_ms = "50";
        };
        tokenizer = made.mkTritonServerRuntime { name = "named"; tokenizerModel = "Qwen/Qwen3-32B"; };
        unpinned = made.mkHfModel { hfModel = "somebody/a-model"; };
        server = made.mkTritonServerRuntime { name = "tiny"; manifest = ./manifest; worldSize = 2; };
        relaxed = made.relaxed.mkEngine { name = "tiny"; hfModel = ./model; gpu = %s; };
      };
    };
}
"""
GPU = '{ product = "NVIDIA H200"; memory_gib = 140; sm = "9.0"; count = 1; }'
TRIAL = """\
from hermetic import Harvest, LogLine, PythonEnv, Script, Source

env = PythonEnv("lock.txt")
harvest = Harvest(artifacts=("engine",), folders=("tmp/work",), complete=LogLine("all written", per_rank=False))
hanging = Script("hanging.py", environment=env, harvest=harvest, inputs={"data": Source("data.txt")})
half = Script("half.py", environment=env, harvest=harvest.model_copy(update={"timeout": 3}))
network = Script("network.py", environment=env)
sees = Script("sees.py", environment=env, parameters={"a": 1}, inputs={"data": Source("data.txt")})
names = Script("names.py", environment=env, inputs={"data": Source("data.txt")})
leaves = Script("leaves.py", environment=env)
long = Script("hanging.py", environment=env, timeout=2)
default = sees
"""
PROGRAMS = {
    "hanging.py": """\
import os, pathlib, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
work = pathlib.Path("work")
work.mkdir()
(work / "engine").write_bytes(b"whole" * 1000)
print("all written", flush=True)
signal.pause()
""",
    "half.py": """\
import pathlib, signal
pathlib.Path("work").mkdir()
pathlib.Path("work/engine").write_bytes(b"half")
signal.pause()
""",
    "network.py": """\
import socket
socket.create_connection(("192.0.2.1", 80), timeout=5)
""",
    "sees.py": """\
import json, os, pathlib, pwd, socket, sys
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
seen = {
    "variables": {name: text for name, text in os.environ.items() if name not in ("LD_LIBRARY_PATH", "SHLVL", "PWD")},
    "stage": json.loads(pathlib.Path("/build/stage.json").read_text()),
    "data": pathlib.Path("/build/in/data").read_text(),
    "where": os.getcwd(), "host": socket.gethostname(), "ids": [os.getuid(), os.getgid()],
    "build": sorted(os.listdir("/build")), "program": sorted(os.listdir("/build/program")),
    "executable": sys.executable, "argv": sys.argv, "umask": os.umask(0),
}
pathlib.Path("/build/out/seen.json").write_text(json.dumps(seen, sort_keys=True))
""",
    "leaves.py": """\
import pathlib, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
pathlib.Path("out").touch()
pathlib.Path("/build/out/done").touch()
""",
    "names.py": "import os\nopen('/build/out/place', 'w').write('at ' + os.path.realpath('/build/in/data'))\n",
}


def write(folder: Path, flake: Path, model: Path) -> None:
    """Fill `folder`; `flake` is the checkout that it uses, `model` a checkpoint."""
    for name, content in {**PROGRAMS, "trial.py": TRIAL, "lock.txt": "", "data.txt": "some data\n"}.items():
        (folder / name).write_text(content)
    shutil.copytree(model, folder / "model")
    head = json.dumps({"t": {"dtype": "U8", "shape": [1000], "data_offsets": [0, 1000]}}).encode()
    weights = len(head).to_bytes(8, "little") + head + bytes(1000)  # or the stand-in's engine would weigh too little
    (folder / "model/model.safetensors").write_bytes(weights)
    (folder / "trial.nix.json").write_text(text(document(str(folder / "trial.py"), {})))
    (folder / "flake.nix").write_text(CONSUMER % (flake, GPU, GPU))
