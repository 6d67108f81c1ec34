"""What hermetic imports is there."""

import pathlib

import blake3
import click
import filelock
import httpx2
import huggingface_hub
import packaging
import pydantic
import rfc8785
import rich
import yaml

modules = (blake3, click, filelock, httpx2, huggingface_hub, packaging, pydantic, rfc8785, rich, yaml)
pathlib.Path("/build/out/modules").write_text("".join(f"{module.__name__}\n" for module in modules))
