"""Domain errors as gRPC statuses with google.rpc details (AIP-193)."""

from collections.abc import Sequence
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from memoryd.errors import MemorydError
from memoryd_proto.errors import DOMAIN, ERRORS, Reason

DETAILS_KEY = "grpc-status-details-bin"


async def abort(
    context: "grpc.aio.ServicerContext[Any, Any]",
    error: MemorydError,
    request_id: str,
    trailers: Sequence[tuple[str, str]],
) -> NoReturn:
    """Ends the call with the error's code, text, reason, facts and retry delay.

    Of an internal error the log knows more, so its facts name what to look for there.
    """
    code = ERRORS[error.reason].code
    internal = error.reason is Reason.INTERNAL
    facts = {**error.facts, "request_id": request_id} if internal else error.facts
    info = error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=facts)
    details = [_packed(info)]
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(error.retry_after * 1000))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    number: int = code.value[0]
    status = status_pb2.Status(code=number, message=error.message, details=details)
    await context.abort(code, error.message, (*trailers, (DETAILS_KEY, status.SerializeToString())))


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
