"""What a schema cannot express, for the requests that schemathesis generates.

Loaded by TestGeneratedRequests. ISSUER is the configured issuer. SIGNER is the
address of a server that signs one message per request.
"""

import os
import time
from urllib.request import urlopen

import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode

ISSUER, SIGNER = os.environ["ISSUER"], os.environ["SIGNER"]

schemathesis.openapi.format("jwt", st.just("e30.e30.e30"))  # before_call replaces it


def sign(path):
    with urlopen(SIGNER + path) as response:
        return response.read().decode()


@schemathesis.serializer("application/secevent+jwt")
def text(context, value):
    return value if isinstance(value, bytes) else str(value).encode()


def own(subject):
    """Give the configured issuer to a subject identifier and those in it."""
    if isinstance(subject, dict):
        if "iss" in subject:
            subject["iss"] = ISSUER
        for member in subject.values():
            own(member)
    elif isinstance(subject, list):
        for member in subject:
            own(member)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Sign messages, name what is configured, and move times to where they may lie."""
    if case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE:
        return
    path, body = case.path, case.body
    if path == "/v1/revocations":
        for one in body if isinstance(body, list) else [body]:
            if not isinstance(one, dict):
                continue
            if one.get("iss") is not None:
                one["iss"] = ISSUER
            if "." in (one.get("token") or ""):
                one["token"] = sign("/oauth2/revoke")
                one["not_before"] = None  # the token is issued now
            if one.get("claim") is not None:
                one["claim"] = "tenant=acme"  # one of revocation.claims
            if one.get("not_before") is not None:
                one["not_before"] = int(time.time()) - 60  # at most a day ahead
            if one.get("expires_at") is not None:
                one["expires_at"] = int(time.time()) + 3600
                one["not_before"] = None  # it would have to be earlier
    elif path == "/oauth2/global-token-revocation":
        own(body)
    elif isinstance(body, dict):
        for name in ("token", "logout_token"):
            if name in body:
                body[name] = sign(path)
        body.pop("client_secret", None)  # the Authorization header has another credential
    elif isinstance(body, (str, bytes)):
        case.body = sign(path)
