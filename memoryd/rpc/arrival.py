"""A call before it is known whose it is: its metadata, its id, and how it ends."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

REQUEST_ID_KEY = "x-request-id"
MAX_REQUEST_ID = 128
_OK = "OK"


@dataclass
class Arrival:
    """request_id: the caller's, or drawn here where it sent none that can be used.

    headers: what goes along when the call is passed on. tenant: "" until the credentials are
    known. outcome: "OK", or the reason with which the call ended.
    """

    path: str
    metadata: Mapping[str, str]
    request_id: str
    headers: dict[str, str] = field(default_factory=dict)
    tenant: str = ""
    outcome: str = _OK
    began: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(cls, context: "grpc.aio.ServicerContext[Any, Any]", path: str) -> "Arrival":
        """Reads the metadata, and has the answer carry the request id in its trailers."""
        metadata = {
            key: value if isinstance(value, str) else value.decode("latin-1")
            for key, value in context.invocation_metadata() or ()
        }
        request_id = metadata.get(REQUEST_ID_KEY, "")
        if not (0 < len(request_id) <= MAX_REQUEST_ID and request_id.isprintable()):
            request_id = uuid.uuid4().hex
        arrival = cls(path, metadata, request_id, {REQUEST_ID_KEY: request_id})
        context.set_trailing_metadata(arrival.trailers)
        return arrival

    @property
    def rpc(self) -> str:
        """The method's bare name."""
        return self.path.rpartition("/")[2]

    @property
    def trailers(self) -> tuple[tuple[str, str], ...]:
        return ((REQUEST_ID_KEY, self.request_id),)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began
