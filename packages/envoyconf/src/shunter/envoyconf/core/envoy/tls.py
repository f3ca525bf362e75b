"""TLS from clients to Envoy and from Envoy to a picker: whom Envoy trusts there, and as whom it appears."""

from pathlib import PurePosixPath

from shunter.envoyconf.core.authority import is_ip
from shunter.envoyconf.core.intent import Listener, PickerTls
from shunter.envoyconf.core.protojson import Resource, extension
from shunter.envoyconf.errors import IntentError

__all__ = ["listener_transport_socket", "picker_transport_socket"]


def listener_transport_socket(listener: Listener) -> Resource:
    """Return the transport socket of a listener with TLS; HTTP/2 for clients that offer it, TLS 1.2 and 1.3.

    Measured on Envoy 1.36 and 1.40: files of a static bootstrap are read once, whatever is said of their directory. Delivered
    as a secret the same certificate is read again when something in its directory is renamed, as Kubernetes and careful
    programs replace files; connections that are open keep the one they were made with.
    """
    tls = listener.tls
    if tls is None or tls.cert_file is None or tls.key_file is None:
        raise IntentError(
            f"listeners: {listener.name} has no tls.certFile and tls.keyFile: an Envoy reads files; tls.secret is for "
            "gateways in Kubernetes"
        )
    context: Resource = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificates": [
            {
                "certificate_chain": {"filename": tls.cert_file},
                "private_key": {"filename": tls.key_file},
                "watched_directory": {"path": str(PurePosixPath(tls.cert_file).parent)},
            }
        ],
    }
    fields: Resource = {"common_tls_context": context}
    if tls.client_ca_file:
        watched = {"path": str(PurePosixPath(tls.client_ca_file).parent)}
        context["validation_context"] = {"trusted_ca": {"filename": tls.client_ca_file}, "watched_directory": watched}
        fields["require_client_certificate"] = True
    return extension("envoy.transport_sockets.tls", "extensions.transport_sockets.tls.v3.DownstreamTlsContext", **fields)


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
