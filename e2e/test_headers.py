"""Picker and gateway agree on which headers no client may send, though neither may import the other."""

from shunter.envoyconf.core import names
from shunter.picker.core import answers


def names_a_host(header):
    return header.endswith(("-host-port", "-hosts-ports", "-url")) or "destination-endpoint" in header


def test_the_gateway_removes_every_header_by_which_a_client_could_name_a_host():
    assert {header for header in answers.CONTROL_HEADERS if names_a_host(header)} <= {*names.PICKER_HEADERS}


def test_the_gateway_removes_nothing_that_a_client_may_ask_the_picker_for():
    picked = {answers.DESTINATION, *answers.MODEL_HEADERS}
    assert {header for header in names.PICKER_HEADERS if header not in picked} <= answers.CONTROL_HEADERS
    assert all(names_a_host(header) for header in {*names.PICKER_HEADERS} - answers.MODEL_HEADERS)


def test_both_call_the_pick_by_the_same_names():
    assert (names.DESTINATION, names.SERVED, names.NAMESPACE) == (answers.DESTINATION, answers.SERVED, answers.METADATA)
    assert names.OVERFLOW == answers.OVERFLOW
    assert (names.MODEL, names.BASE_MODEL, names.OWN_NAMESPACE) == (answers.MODEL, answers.BASE_MODEL, answers.OWN_METADATA)
