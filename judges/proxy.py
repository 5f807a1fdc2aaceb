"""Which proxy stands between here and the judge, from the environment; none before a judge on this machine.

httpx reads the same variables, but refuses some of their usual forms with an exception (``[::1]`` in ``no_proxy``,
``socks5h`` without its package) and does so for a judge on loopback too, which no proxy could reach.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from configs.errors import UserError
from judges.lanes import Lanes


@dataclass(frozen=True, slots=True)
class Way:
    """How requests travel.

    Attributes:
        proxy: The proxy; None for a direct connection.
        shown: Its address without credentials, and the variable that names it; "" without one.
        plain: Whether the proxy answers in the server's place, as it does where the judge's address is plain HTTP.
    """

    proxy: httpx.Proxy | None = None
    shown: str = ""
    plain: bool = False


def find_way(base_url: str, environment: Mapping[str, str] | None = None) -> Way:
    """The way to an address.

    Args:
        base_url: Of the judge; http or https.
        environment: Variables; those of the process by default.

    Raises:
        UserError: A variable holds no address of a proxy; it is named.
    """
    environment = os.environ if environment is None else environment
    url = httpx.URL(base_url)
    host = url.host.rstrip(".").lower()
    if _is_here(host) or _is_exempt(host, url.port, _value(environment, "no_proxy")[1]):
        return Way()
    for stem in (f"{url.scheme}_proxy", "all_proxy"):
        name, value = _value(environment, stem)
        if value:
            return _way(name, value, url.scheme == "http")
    return Way()


def open_transport(way: Way, width: int) -> Lanes:
    """The connections of a client that travels this way, ``width`` at most.

    Raises:
        UserError: The proxy needs a package that is not installed, or the environment's certificates can't be read.
    """
    try:
        certificates, one = httpx.create_ssl_context(), httpx.Limits(max_connections=1, max_keepalive_connections=1)
        return Lanes([httpx.AsyncHTTPTransport(certificates, limits=one, proxy=way.proxy) for _ in range(width)])
    except ImportError:
        raise UserError(
            f"{way.shown}: a SOCKS proxy needs the package socksio, which is not installed; install httpx[socks], "
            "name an HTTP proxy, or put the judge's host into no_proxy"
        ) from None
    except OSError as error:  # ssl.SSLError is one
        names = " or ".join(f"${name}" for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name))
        raise UserError(
            f"{names or 'certificates'}: cannot be read ({error}); correct it, the judge is asked with these"
        ) from None


def _value(environment: Mapping[str, str], name: str) -> tuple[str, str]:
    """(name as it is spelled there, value); the small spelling wins, as in curl."""
    for spelled in (name, name.upper()):
        # CGI puts a request's Proxy header into HTTP_PROXY.
        if environment.get(spelled) and not (spelled == "HTTP_PROXY" and "REQUEST_METHOD" in environment):
            return spelled, environment[spelled].strip()
    return name, ""


def _way(name: str, value: str, plain: bool) -> Way:
    try:
        proxy = httpx.Proxy(value if "://" in value else f"http://{value}")
        if not proxy.url.host:
            raise ValueError("no host")
    except (httpx.InvalidURL, ValueError):
        shown = value.rsplit("@", 1)[-1]  # what stands before it may be a password
        raise UserError(
            f"${name}: '{shown[:80]}' is no address of a proxy; expected e.g. http://proxy:3128, or unset it"
        ) from None
    return Way(proxy, f"the proxy {proxy.url} of ${name}", plain and proxy.url.scheme in ("http", "https"))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.strip("[]").split("%", 1)[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_here(host: str) -> bool:
    address = _address(host)
    if address is not None:
        return address.is_loopback or address.is_unspecified
    return host == "localhost" or host.endswith(".localhost")


def _is_exempt(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether an entry of ``no_proxy`` names the host: a name and what ends in it, an address, a network, or ``*``."""
    address = _address(host)
    for entry in no_proxy.replace(" ", ",").split(","):
        name = entry.strip().lower().rpartition("://")[2].rstrip("/.")
        if name == "*":
            return True
        if port is not None and name.endswith(f":{port}") and _address(name) is None:
            name = name.removesuffix(f":{port}")
        name = name.strip("[]").removeprefix("*").lstrip(".")
        if not name:
            continue
        if address is None:
            if host == name or host.endswith(f".{name}"):
                return True
        else:
            try:
                network = ipaddress.ip_network(entry.strip().strip("[]") if "/" in entry else name, strict=False)
            except ValueError:
                continue
            if address in network:
                return True
    return False
