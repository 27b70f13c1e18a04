"""Where webhooks may go: a user names the address, and it must not lead into the operator's own networks."""

import asyncio
import re
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from difffit_core.errors import SpecError

MAX_URL = 2000  # characters
PLAIN = re.compile(r"[\x21-\x7e]+")
# The blocks of IANA's registries of special-purpose addresses and of multicast (iana-ipv4-special-registry and
# iana-ipv6-special-registry, as of 2025-10-09) that lead to no host of the public internet. They stand here because the tables
# of the interpreter are as old as it is. Services in them that are reachable (anycast of AS112, AMT, PCP) take no webhooks.
SPECIAL_IPV4 = (
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # shared by a provider's customers
    "127.0.0.0/8",  # loopback
    "169.254.0.0/16",  # link-local, where clouds keep their metadata
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # protocol assignments
    "192.0.2.0/24",  # documentation
    "192.31.196.0/24",  # AS112
    "192.52.193.0/24",  # AMT
    "192.88.99.0/24",  # relays of 6to4, deprecated
    "192.168.0.0/16",  # private
    "192.175.48.0/24",  # AS112
    "198.18.0.0/15",  # benchmarking
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
)
GLOBAL_UNICAST = IPv6Network("2000::/3")  # all that IANA gives out to hosts; 64:ff9b:1::/48, 5f00::/16, fc00::/7 … lie outside
SPECIAL_IPV6 = (
    "2001::/23",  # protocol assignments: Teredo, benchmarking, AMT, AS112, ORCHID, drones
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4: an IPv4 address behind a relay
    "2620:4f:8000::/48",  # AS112
    "3fff::/20",  # documentation
)
SPECIAL = [ip_network(block) for block in (*SPECIAL_IPV4, *SPECIAL_IPV6)]
WRAPPED = (
    IPv6Network("::ffff:0:0/96"),
    IPv6Network("64:ff9b::/96"),
)  # an IPv4 address, mapped or behind NAT64, in the last 32 bits


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """True for the public internet; False for private, loopback, link-local and reserved addresses, however wrapped."""
    if isinstance(address, IPv6Address):
        if any(address in block for block in WRAPPED):
            return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
        if address not in GLOBAL_UNICAST:
            return False
    return not any(address in block for block in SPECIAL)


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
