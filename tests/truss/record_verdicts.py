"""What the real `truss` package says of every config of the corpus, as JSON on stdout.

Run by an interpreter that has `truss` installed (`test_truss_record.py` makes one); nothing of hermetic is imported.
Each config goes the way of ``truss push`` as far as that goes without a server: load, cross-checks, the checks of the
TRT-LLM builder, unknown fields. Where it was refused is recorded, in what words is not.

$ python record_verdicts.py corpus > verdicts.json
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"


def verdict(config: Path) -> dict[str, object]:
    """``{"verdict": "accept"}``, or ``"refuse"`` with the fields that were named and the kind of error."""
    import pydantic
    from truss.trt_llm.config_checks import has_no_tags_trt_llm_builder, memory_updated_for_trt_llm_builder
    from truss.truss_handle.truss_handle import TrussHandle

    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(config, Path(folder, "config.yaml"))
        try:
            handle = TrussHandle(Path(folder))
            memory_updated_for_trt_llm_builder(handle)
            _message, refused = has_no_tags_trt_llm_builder(handle)
            handle.spec.config.validate_forbid_extra()
        except pydantic.ValidationError as error:
            return {"verdict": "refuse", "by": "ValidationError", "fields": fields(error)}
        except Exception as error:  # noqa: BLE001  # whatever stops a push is a refusal
            return {"verdict": "refuse", "by": type(error).__name__, "fields": []}
    return {"verdict": "refuse", "by": "tags", "fields": []} if refused else {"verdict": "accept"}


def fields(error: object) -> list[str]:
    """Dotted paths, without the tags that unions put into them."""
    found = set()
    for detail in error.errors(include_url=False, include_input=False, include_context=False):  # type: ignore[attr-defined]
        parts = [str(part) for part in detail["loc"]]
        found.add(".".join(part for part in parts if part not in {"v1", "v2", "http", "websocket", "grpc"}))
    return sorted(found)


def main() -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    corpus = Path(sys.argv[1])
    found = {path.name: verdict(path) for path in sorted(corpus.glob("*.yaml"))}
    # Whose errors are recorded as well: other versions of them may name other fields.
    beside = {name: importlib.metadata.version(name) for name in ("huggingface_hub", "pydantic", "pyyaml")}
    document = {"beside": beside, "truss": importlib.metadata.version("truss"), "verdicts": found}
    sys.stdout.write(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
