"""Addresses are read in one way, and whatever is none is refused by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.conformance.core.addresses import check_address, check_endpoint, split_address, with_port
from shunter.conformance.errors import UsageError


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [("127.0.0.1:80", "127.0.0.1", 80), ("[::1]:0", "::1", 0), ("a.llm:9002", "a.llm", 9002)],
)
def test_an_address_has_a_host_and_a_port(address, host, port):
    assert split_address(check_address(address, "--picker")) == (host, port)
    assert split_address(with_port(address, 7)) == (host, 7)


@pytest.mark.parametrize(
    "address",
    ["", "a:99999", "127.0.0.1", "127.0.0.1:", "::1:80", "a:b", "http://a:1", "me@a:1", "a:1/v1", " a:1", "[::1:80"],
)
def test_what_is_no_address_is_refused_by_name(address):
    with pytest.raises(UsageError, match=r"--picker .*: want HOST:PORT"):
        check_address(address, "--picker")


@pytest.mark.parametrize(("address", "endpoint"), [("127.0.0.1:80", "127.0.0.1:80"), ("[0:0::1]:80", "[::1]:80")])
def test_an_endpoint_is_written_as_pickers_write_it(address, endpoint):
    assert check_endpoint(address, "--servers") == endpoint


def test_a_name_is_no_endpoint():
    with pytest.raises(UsageError, match="--servers 'localhost:80': want IP:PORT"):
        check_endpoint("localhost:80", "--servers")


@given(st.text(max_size=20))
def test_whatever_is_read_has_both_parts(text):
    try:
        host, port = split_address(text)
    except ValueError:
        return
    assert host
    assert 0 <= port <= 65535
