"""Which addresses webhooks may go to."""

import asyncio
from ipaddress import ip_address, ip_network

import pytest

from difffit_core.errors import SpecError
from jobstore.webhooks.addresses import check_url, is_public, resolve

PRIVATE = [
    *("10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("255.255.255.255", "192.0.2.1", "::", "::1", "fe80::1", "fc00::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::7f00:1", "2001:0:1::80ff:fffe"),
]
PUBLIC = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
# First and last address of each block, and those before and after where they are public.
NOT_REACHABLE = """
0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24
192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 255.255.255.255/32
::/128 ::1/128 ::/96 ::ffff:0:0/104 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001::/32 2001:2::/48 2001:10::/28
2001:20::/28 2001:db8::/32 2002::/16 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8
"""
NEIGHBOURS = """
1.0.0.0 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255 169.255.0.0
172.15.255.255 172.32.0.0 192.0.1.0 192.0.3.0 192.88.98.255 192.88.100.0 192.167.255.255 192.169.0.0 198.17.255.255
198.20.0.0 198.51.99.255 198.51.101.0 203.0.112.255 203.0.114.0 223.255.255.255
2000:ffff:ffff::1 2001:200::1 2001:db7:ffff::1 2001:db9::1 2003::1 2a00:1450:4001::1 3ffe:ffff::1 3fff:1000::1
"""


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_seen_however_they_are_wrapped(address: str) -> None:
    assert not is_public(ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(SpecError) as refused:
        check_url(f"https://{host}:8443/hook", allow_private=False)
    assert (refused.value.code, refused.value.param) == ("address_not_allowed", "url")
    check_url(f"https://{host}:8443/hook", allow_private=True)


@pytest.mark.parametrize("block", NOT_REACHABLE.split())
def test_no_address_of_a_special_block_is_public(block: str) -> None:
    """Whatever the interpreter's own tables say."""
    network = ip_network(block)
    assert not is_public(network[0])
    assert not is_public(network[-1])


@pytest.mark.parametrize("address", [*PUBLIC, *NEIGHBOURS.split()])
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        *(
            "ftp://example.com/",
            "file:///etc/passwd",
            "https://",
            "example.com/hook",
            "https://u:p@example.com/",
            "https://a:b/",
        ),
        *(
            "https://exa\nmple.com/",
            "https://example.com/\x00",
            "https://é.com/",
            "https://example.com/" + "x" * 2000,
            "https://[::1",
        ),
    ],
)
def test_other_texts_are_no_urls(url: str) -> None:
    with pytest.raises(SpecError) as refused:
        check_url(url, allow_private=True)
    assert refused.value.code == "invalid_url"


@pytest.mark.parametrize("host", ["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "localhost"])
def test_what_a_name_leads_to_is_checked_and_not_how_it_looks(host: str) -> None:
    with pytest.raises(SpecError) as refused:
        asyncio.run(resolve(host, 80, allow_private=False))
    assert refused.value.code == "address_not_allowed"
    assert ip_address(asyncio.run(resolve(host, 80, allow_private=True))).is_loopback


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    class Names(asyncio.SelectorEventLoop):
        async def getaddrinfo(self, *_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:  # type: ignore[override]  # less than it allows
            return [(2, 1, 6, "", ("93.184.216.34", 80)), (2, 1, 6, "", ("10.0.0.1", 80))]

    with asyncio.Runner(loop_factory=Names) as runner, pytest.raises(SpecError):
        runner.run(resolve("rebinding.example.com", 80, allow_private=False))
