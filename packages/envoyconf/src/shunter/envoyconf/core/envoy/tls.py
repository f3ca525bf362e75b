"""TLS from Envoy to a picker: whom Envoy trusts there, and as whom it comes."""

from shunter.envoyconf.core.authority import is_ip
from shunter.envoyconf.core.intent import PickerTls
from shunter.envoyconf.core.protojson import Resource, extension

__all__ = ["picker_transport_socket"]


def picker_transport_socket(tls: PickerTls) -> Resource:
    """Return the transport socket of a picker cluster.

    ALPN h2 is for the health check, which fails for good without it though requests would pass; and a picker of ours hangs up.
    TLS 1.3 is allowed here, where Envoy's default for a client stops at 1.2.
    """
    context: Resource = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2"],
    }
    if tls.cert_file and tls.key_file:
        pair = {"certificate_chain": {"filename": tls.cert_file}, "private_key": {"filename": tls.key_file}}
        context["tls_certificates"] = [pair]
    if tls.ca_file:
        validation: Resource = {"trusted_ca": {"filename": tls.ca_file}}
        if tls.server_name:
            kind = "IP_ADDRESS" if is_ip(tls.server_name) else "DNS"
            validation["match_typed_subject_alt_names"] = [{"san_type": kind, "matcher": {"exact": tls.server_name}}]
        context["validation_context"] = validation
    fields: Resource = {"common_tls_context": context}
    if tls.server_name and not is_ip(tls.server_name):  # RFC 6066 section 3 allows names only
        fields["sni"] = tls.server_name
    return extension("envoy.transport_sockets.tls", "extensions.transport_sockets.tls.v3.UpstreamTlsContext", **fields)
