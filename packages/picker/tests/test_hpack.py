"""HPACK against the hpack library, the examples of the RFC, and whatever may not be."""

import hpack as oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.transport import huffman
from shunter.picker.transport.frames import Code, ConnectionFault
from shunter.picker.transport.hpack import ENTRY_BYTES, TABLE_BYTES, Decoder, encode

ANYTHING = 1 << 20
octets = st.binary(max_size=40)
texts = octets.map(lambda data: data.decode("latin-1"))
names = st.sampled_from([":path", ":method", "content-type", "x-request-id", "cookie"]) | texts.filter(bool)
fields = st.lists(st.tuples(names, texts), max_size=12)
blocks = st.lists(st.tuples(fields, st.booleans(), st.none() | st.sampled_from([0, 40, 200, TABLE_BYTES])), max_size=8)


def raw(pairs):
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]


@given(blocks)
def test_reads_what_the_library_writes_block_after_block(sequence):
    encoder, decoder = oracle.Encoder(), Decoder(ANYTHING)
    for pairs, coded, table_bytes in sequence:
        if table_bytes is not None:
            encoder.header_table_size = table_bytes
        assert decoder.decode(encoder.encode(raw(pairs), huffman=coded)) == pairs


@given(fields)
def test_the_library_reads_what_we_write_at_any_time(pairs):
    decoder = oracle.Decoder()
    for _ in range(2):
        assert [tuple(pair) for pair in decoder.decode(encode(pairs), raw=True)] == raw(pairs)


@given(st.binary(max_size=60))
def test_any_bytes_are_fields_or_a_compression_error_as_the_library_has_it(block):
    theirs = oracle.Decoder()
    theirs.max_header_list_size = ANYTHING
    try:
        expected = [tuple(pair) for pair in theirs.decode(block, raw=True)]
    except oracle.HPACKError:
        expected = None
    try:
        got, fault = raw(Decoder(ANYTHING).decode(block)), None
    except ConnectionFault as raised:
        got, fault = None, raised
    if fault is None:
        assert got == expected
    else:
        assert fault.code is Code.COMPRESSION_ERROR
        assert expected is None or "too long" in str(fault)  # the library takes numbers of any length


@given(st.binary(max_size=300))
def test_the_huffman_code_is_the_librarys(data):
    encoder = oracle.huffman.HuffmanEncoder(
        oracle.huffman_constants.REQUEST_CODES, oracle.huffman_constants.REQUEST_CODES_LENGTH
    )
    assert huffman.decode(encoder.encode(data)) == data


def test_every_symbol_has_its_code():
    encoder = oracle.huffman.HuffmanEncoder(
        oracle.huffman_constants.REQUEST_CODES, oracle.huffman_constants.REQUEST_CODES_LENGTH
    )
    everything = bytes(range(256))
    assert huffman.decode(encoder.encode(everything)) == everything


def test_the_requests_of_appendix_c_4():
    decoder = Decoder(ANYTHING)
    first = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")]
    assert decoder.decode(bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")) == first
    assert decoder.decode(bytes.fromhex("828684be5886a8eb10649cbf")) == [*first, ("cache-control", "no-cache")]
    third = [(":method", "GET"), (":scheme", "https"), (":path", "/index.html"), first[3], ("custom-key", "custom-value")]
    assert decoder.decode(bytes.fromhex("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf")) == third


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        (b"\x80", "index 0"),
        (b"\xbe", "no field has index 62"),
        (b"\x3f\xff\xff\xff\xff\xff\x01", "too long"),
        (b"\x3f\xe2\x1f", "a table of 4097 bytes"),
        (b"\x82\x20", "after a field"),
        (b"\x40\x05ab", "cut off"),
        (b"\x40", "cut off"),
        (b"\x00\x81\x00\x00", "padding"),  # zeros
        (b"\x00\x82\x1f\xff\x00", "padding"),  # 11 bits of one
        (b"\x00\x84\xff\xff\xff\xff\x00", "EOS"),
    ],
)
def test_what_may_not_be_is_a_compression_error(block, complaint):
    with pytest.raises(ConnectionFault, match=complaint) as caught:
        Decoder(ANYTHING).decode(block)
    assert caught.value.code is Code.COMPRESSION_ERROR


def test_a_few_bytes_that_mean_many_are_too_much():
    decoder = Decoder(64 * 1024)
    decoder.decode(oracle.Encoder().encode([(b"a", b"x" * 4000)], huffman=False))
    with pytest.raises(ConnectionFault) as caught:
        decoder.decode(b"\xbe" * 1000)
    assert caught.value.code is Code.ENHANCE_YOUR_CALM


def test_the_generation_tells_whether_a_block_may_be_remembered():
    decoder = Decoder(ANYTHING)
    before = decoder.generation
    decoder.decode(encode([(":method", "POST"), ("x-trace", "1")]))
    assert decoder.generation == before
    decoder.decode(b"\x40\x01a\x01b")  # with incremental indexing
    indexed = decoder.generation
    assert indexed != before
    decoder.decode(b"\xbe")
    assert decoder.generation == indexed
    decoder.decode(b"\x20")
    assert decoder.generation != indexed


def test_the_table_never_holds_more_than_it_may():
    decoder = Decoder(ANYTHING)
    for at in range(500):
        decoder.decode(b"\x40\x03%03d\x0avalue-0123" % at)
    assert sum(len(name) + len(value) + ENTRY_BYTES for name, value in decoder._table) <= TABLE_BYTES
