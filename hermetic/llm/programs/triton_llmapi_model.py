"""``model.py`` of the Triton model ``tensorrt_llm`` for the LLM API: the one that NVIDIA's image brings.

It lies in the image under ``/app/all_models`` and reads ``model.yaml`` beside this file.
"""

from __future__ import annotations

import importlib.util
import sys

_PLACE = "/app/all_models/llmapi/tensorrt_llm/1"

sys.path.append(_PLACE)  # its helpers
_spec = importlib.util.spec_from_file_location("image_model", f"{_PLACE}/model.py")
if _spec is None or _spec.loader is None:
    raise ImportError(f"the image has no {_PLACE}/model.py")
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
TritonPythonModel = _module.TritonPythonModel
