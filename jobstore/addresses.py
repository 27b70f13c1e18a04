"""Where webhooks may go: a user names the address, and it must not lead into the operator's own networks."""

import asyncio
import re
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

from difffit_core.errors import SpecError

MAX_URL = 2000  # characters
PLAIN = re.compile(r"[\x21-\x7e]+")
NAT64 = IPv6Network("64:ff9b::/96")  # its last 32 bits are an IPv4 address
COMPATIBLE = IPv6Network("::/96")  # as are those of this one, which nobody should use any more


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """True for the public internet; False for private, loopback, link-local and reserved addresses, however wrapped."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address in NAT64 or address in COMPATIBLE:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None and not is_public(inner):
            return False
    return address.is_global and not address.is_multicast


def check_url(url: str, allow_private: bool) -> None:
    """Raises SpecError where the text is no URL that webhooks may go to. A name is looked up only when something is sent."""
    try:
        parts: SplitResult = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    plain = len(url) <= MAX_URL and PLAIN.fullmatch(url)
    if not host or not plain or parts.scheme not in {"http", "https"} or parts.username is not None:
        raise SpecError(
            "`url` must be an http or https URL with a host and without a password.", code="invalid_url", param="url"
        )
    try:
        address = ip_address(host)
    except ValueError:
        refused = host == "localhost" or host.endswith(".localhost")
    else:
        refused = not is_public(address)
    if refused and not allow_private:
        raise not_allowed(host)


async def resolve(host: str, port: int, allow_private: bool) -> str:
    """An address of the host, to be connected to as it is; raises SpecError (`address_not_allowed`), OSError.

    Every address that the name has must be public: a name with one of each kind is an attempt to get in.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not allow_private and not all(is_public(ip_address(address.partition("%")[0])) for address in addresses):
        raise not_allowed(host)
    return addresses[0]


def not_allowed(host: str) -> SpecError:
    return SpecError(
        f"Webhooks do not go to {host!r}: it is, or leads to, an address that is not public. The operator may allow it by "
        "DIFFFIT_WEBHOOK_PRIVATE_ADDRESSES.",
        code="address_not_allowed",
        param="url",
    )
