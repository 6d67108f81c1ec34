"""A stand-in for a Hugging Face Hub: what the real client asks for, from files of one's own, with faults on demand.

::

    with Hub() as hub:
        tiny = hub.repository("acme/tiny")
        first = tiny.commit({"config.json": b"{}", "model.safetensors": Path("weights")})
        os.environ["HF_ENDPOINT"] = hub.endpoint

It answers on loopback, on ports of its own. It speaks what `huggingface_hub` 2 uses to read: repositories and
their files, revisions, downloads with ranges and the redirect of large files to another host, gated and private
repositories, tokens. It does not speak xet: without the headers that offer it, the client downloads over HTTP. It
takes no uploads.
"""

from hermetic.testing.hub.faults import Fault
from hermetic.testing.hub.repository import Blob, Repository
from hermetic.testing.hub.server import Hub, Served

__all__ = ["Blob", "Fault", "Hub", "Repository", "Served"]
