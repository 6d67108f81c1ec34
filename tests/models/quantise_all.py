"""Every format, cache and export in one process, which loads torch once. Run in the environment of ``models-cpu.txt``:
``python quantise_all.py PROGRAMS JOBS``, JOBS a JSON list of stage files. A line of JSON for each: name and refusal.
"""

import json
import sys
from pathlib import Path

sys.path.append(sys.argv[1])

import modelopt_quantise
from stage_file import Refused, StageFile

for job in json.loads(Path(sys.argv[2]).read_text()):
    inputs = {role: Path(path) for role, path in job["inputs"].items()}
    said = ""
    try:
        modelopt_quantise.build(StageFile(job["name"], job["parameters"], inputs, Path(job["out"])))
    except Refused as refusal:
        said = str(refusal)
    print(json.dumps({"name": job["name"], "refused": said}), flush=True)  # noqa: T201
