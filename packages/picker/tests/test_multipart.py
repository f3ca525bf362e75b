import email
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.multipart import MAX_PARTS, find_boundary, find_field


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data; charset=utf-8; Boundary="a b:c"', b"a b:c"),
        ("multipart/form-data;boundary=abc;charset=x", b"abc"),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ("multipart/form-data; boundary=" + "x" * 71, None),
        ("multipart/mixed; boundary=abc", None),
        ("application/json", None),
        ("", None),
    ],
)
def test_a_boundary_is_found(content_type, boundary):
    assert find_boundary(content_type) == boundary


def field(name, value, disposition='Content-Disposition: form-data; name="{}"'):
    return b"--b\r\n" + disposition.format(name).encode() + b"\r\n\r\n" + value + b"\r\n"


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (field("x", b"1") + field("model", b"m") + b"--b--", b"m"),
        (field("model", b"first") + field("model", b"second") + b"--b--", b"first"),
        (field("model", b"") + b"--b--", b""),
        (field("file", b"audio", 'Content-Disposition: form-data; name="{}"; filename="a; name=model"') + b"--b--", None),
        (field("model", b"m", "content-disposition:form-data;name={}") + b"--b--", b"m"),
        (field("model", b"m", 'Content-Type: text/plain\r\nContent-Disposition: form-data; name="{}"') + b"--b--", b"m"),
        (b"preamble\r\n" + field("model", b"m") + b"--b--", b"m"),
        (field("other_model", b"m") + b"--b--", None),
        (field("model", b"m", 'Content-Disposition: form-data; filename="name=model"; name="{}x"') + b"--b--", None),
        (field("model", b"m"), None),
        (b"--b\r\n\r\n\r\n--b--", None),
        (b"--b--", None),
        (b"", None),
        (b"x--b\r\n", None),
        (field("x", b"1") * MAX_PARTS + field("model", b"m") + b"--b--", None),
    ],
)
def test_a_field_is_found(body, value):
    place = find_field(body, b"b", "model")
    assert (place and body[slice(*place)]) == value


@given(st.binary() | st.lists(st.sampled_from([b"--b", b"\r\n", b"--", b'content-disposition: x; name="model"'])).map(b"".join))
def test_any_bytes_have_the_field_or_not(body):
    place = find_field(body, b"b", "model")
    assert place is None or 0 < place[0] <= place[1] <= len(body)


values = st.binary(max_size=50).filter(lambda value: b"--b" not in value and not value.endswith(b"\r"))


@given(st.lists(st.tuples(st.sampled_from(["a", "file", "model"]), values), max_size=5))
def test_the_standard_library_finds_the_same(fields):
    body = b"".join(field(name, value) for name, value in fields) + b"--b--\r\n"
    whole = b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + body
    parts = email.message_from_bytes(whole, policy=email.policy.HTTP).iter_parts() if fields else []
    names = [part.get_param("name", header="content-disposition") for part in parts]
    place = find_field(body, b"b", "model")
    assert (place is not None) == ("model" in names)
    assert place is None or body[slice(*place)] == next(value for name, value in fields if name == "model")
