"""The one exception handler: any error → an answer in the form that the path's callers read."""

import re

import msgspec
from litestar import Response

from service.web import dropin_errors
from service.web.problems import MEDIA_TYPE, NO_STORE, AnyRequest, headers_of, problem_of, told_of
from service.web.record import record_of

_DROP_IN = re.compile(r"/+binance(?:/|\Z)")
"""Slashes as the framework counts them."""


def answer(request: AnyRequest, exc: Exception) -> Response[bytes]:
    """For ours, the framework's, and what nobody foresaw."""
    told = told_of(exc)
    record = record_of(request.scope)
    record.problem = told.problem
    headers = NO_STORE | headers_of(told, request.app.state.gateway.exchange.clock.now())
    if _DROP_IN.match(request.scope["path"]):
        return dropin_errors.answer(told, headers)
    body = msgspec.json.encode(problem_of(told, record.request_id))
    return Response(body, status_code=told.status, media_type=MEDIA_TYPE, headers=headers)
