"""Rules for the admin interface."""

from collections.abc import Iterator
from ipaddress import ip_address

from shunter.envoyconf.core.lint.envoy.findings import found
from shunter.envoyconf.core.lint.rule import Finding, Rule, Subject
from shunter.envoyconf.core.versions import Feature

__all__ = ["RULES"]

# What a monitoring system outside needs.
HARMLESS = [{"exact": "/ready"}, {"exact": "/stats/prometheus"}]


def open_admin(subject: Subject) -> Iterator[Finding]:
    for envoy in subject.envoys:
        admin = envoy.resources.bootstrap.at("admin")
        address = admin.at("address", "socket_address", "address")
        if not address.text or _is_loopback(address.text) or admin.at("allow_paths"):
            continue
        paths = admin.at("allow_paths")
        has_paths = Feature.ADMIN_PATHS.in_version(subject.envoy_version)
        yield found(
            address,
            f"the admin interface listens on {address.text} and answers on every path: whoever reaches it reads keys out of "
            "/config_dump, and stops Envoy by /quitquitquit",
            "listen on 127.0.0.1"
            + (" or, if monitoring comes from elsewhere, name its paths in allow_paths" if has_paths else ""),
            (paths, HARMLESS) if has_paths else (address, "127.0.0.1"),
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


RULES = (
    Rule(
        "W26",
        "The admin interface is open to others",
        "It has no authentication. /config_dump shows inline keys, /quitquitquit stops Envoy, /logging and /runtime_modify "
        "change it. Seen on 1.37 to 1.40: with allow_paths all other paths are answered 403; 1.36 has no such field.",
        open_admin,
        "Envoy documentation, operations, administration interface",
    ),
)
