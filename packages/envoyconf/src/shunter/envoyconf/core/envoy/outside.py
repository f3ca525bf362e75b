"""Clusters of servers outside of the installation: found by name, spoken to in TLS, and not believed without a certificate."""

from shunter.envoyconf.core.authority import is_ip
from shunter.envoyconf.core.protojson import Resource, duration, extension, socket_address

__all__ = ["outside_cluster"]

# Where Debian, and therefore Envoy's own images, keep the CAs that everybody trusts. Envoy itself knows none: a context
# without any verifies nothing.
SYSTEM_CAS = "/etc/ssl/certs/ca-certificates.crt"

# Names of big services change their addresses with every answer; this keeps Envoy to one at a time and its connections.
RESOLVED: Resource = {"type": "LOGICAL_DNS", "dns_lookup_family": "V4_PREFERRED"}


def outside_cluster(
    name: str, host: str, port: int, connect_timeout_s: float, *, tls: bool, ca_file: str | None = None
) -> Resource:
    """Return the cluster of one server; with ``tls``, one whose certificate is for ``host``, by the CAs of ``ca_file``."""
    cluster: Resource = {
        "name": name,
        **({"type": "STATIC"} if is_ip(host) else RESOLVED),
        "connect_timeout": duration(connect_timeout_s),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(host, port)}}]}],
        },
    }
    return cluster | {"transport_socket": _verified(host, ca_file or SYSTEM_CAS)} if tls else cluster


def _verified(host: str, ca_file: str) -> Resource:
    kind, name = ("IP_ADDRESS", {}) if is_ip(host) else ("DNS", {"sni": host})  # RFC 6066 section 3: SNI is for names only
    return extension(
        "envoy.transport_sockets.tls",
        "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        **name,
        common_tls_context={
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
            "validation_context": {
                "trusted_ca": {"filename": ca_file},
                "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": host}}],
            },
        },
    )
