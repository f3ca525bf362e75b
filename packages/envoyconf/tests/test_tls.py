"""TLS to the picker: what each field becomes, accepted by the real Envoy."""

import pytest
import trustme

from shunter.envoyconf import Intent, Picker, PickerTls, Pool, bootstrap, render
from shunter.envoyconf.shell import envoy


@pytest.fixture
def files(tmp_path):
    """Return caFile, certFile and keyFile as an intent has them."""
    ca = trustme.CA()
    issued = ca.issue_cert("gateway.example")
    for name, blob in (("ca", ca.cert_pem), ("cert", issued.cert_chain_pems[0]), ("key", issued.private_key_pem)):
        blob.write_to_path(tmp_path / name)
    return {f"{name}_file": str(tmp_path / name) for name in ("ca", "cert", "key")}


def resource(**fields):
    picker = Picker(addresses=("10.0.0.2:9002",), tls=PickerTls(**fields))
    return bootstrap(Intent(pools=(Pool(name="a", endpoints=("10.0.0.1:8000",), picker=picker),)))


def context(**fields):
    socket = resource(**fields)["static_resources"]["clusters"][1]["transport_socket"]
    assert socket["name"] == "envoy.transport_sockets.tls"
    return socket["typed_config"]


def test_http_2_is_asked_for_whatever_else_is_said():
    assert context()["common_tls_context"]["alpn_protocols"] == ["h2"]


def test_without_a_ca_nothing_is_verified():
    assert "validation_context" not in context(server_name="picker.example")["common_tls_context"]


@pytest.mark.parametrize(
    ("name", "kind", "sni"),
    [("picker.example", "DNS", "picker.example"), ("10.0.0.2", "IP_ADDRESS", None), ("fd00::2", "IP_ADDRESS", None)],
)
def test_with_a_ca_the_name_is_verified_and_a_name_is_asked_for(name, kind, sni):
    made = context(ca_file="ca.crt", server_name=name)
    (matcher,) = made["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]
    assert matcher == {"san_type": kind, "matcher": {"exact": name}}
    assert made.get("sni") == sni


@pytest.mark.envoy
@pytest.mark.parametrize("name", [None, "picker.example", "10.0.0.2"])
@pytest.mark.parametrize("used", [[], ["ca_file"], ["cert_file", "key_file"], ["ca_file", "cert_file", "key_file"]])
def test_envoy_accepts_it(used, name, files, envoy_binary):
    envoy.validate(render(resource(**{field: files[field] for field in used}, server_name=name)), envoy_binary)


@pytest.mark.envoy
def test_envoy_names_a_file_that_is_missing(envoy_binary):
    with pytest.raises(envoy.EnvoyRefusedError, match=r"Invalid path: /absent/ca\.crt"):
        envoy.validate(render(resource(ca_file="/absent/ca.crt")), envoy_binary)
