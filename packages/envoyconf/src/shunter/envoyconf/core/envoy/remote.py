"""The target xds: what an Envoy is started with whose configuration comes from `shunter envoyconf serve`."""

from shunter.envoyconf.core.authority import is_ip, split_authority
from shunter.envoyconf.core.envoy.cluster import BY_NAME
from shunter.envoyconf.core.envoy.dynamic import divide
from shunter.envoyconf.core.envoy.tls import picker_transport_socket
from shunter.envoyconf.core.intent import ControlPlane, Intent
from shunter.envoyconf.core.output import Artefact, Output, Settings
from shunter.envoyconf.core.protojson import Resource, duration, socket_address, typed
from shunter.envoyconf.core.xds.kinds import Kind

__all__ = ["CONTROL_PLANE", "from_control_plane", "make_xds", "remote_bootstrap"]

# The cluster of the control plane.
CONTROL_PLANE = "control-plane"

# A control plane that was restarted is asked again at once, later ever more seldom; Envoy's default begins with 0.5 s and goes
# to half a minute, in which pods come and go.
FIRST_RETRY_S = 0.1
LAST_RETRY_S = 2

# A connection that is dead without anybody having said so: noticed, and another control plane asked, within 15 s.
KEEPALIVE: Resource = {"interval": "10s", "timeout": "5s"}

AGGREGATED: Resource = {"ads": {}, "resource_api_version": "V3"}


def make_xds(intent: Intent, settings: Settings) -> Output:
    """Return the bootstrap; all else is served."""
    return Output((Artefact("envoy", (remote_bootstrap(intent, settings),)),))


def from_control_plane(_: Kind, __: str) -> Resource:
    """Return where a resource comes from: all come by one stream, so that their order can be kept."""
    return AGGREGATED


def remote_bootstrap(intent: Intent, settings: Settings) -> Resource:
    """Return what an Envoy is started with. Its --service-node names it in the control plane's pages.

    By the delta form it is sent what has changed only, and says when it comes back what it has.
    """
    plane = intent.control_plane
    rest = divide(intent, settings, from_control_plane).rest
    stream = {
        "envoy_grpc": {
            "cluster_name": CONTROL_PLANE,
            "retry_policy": {
                "retry_back_off": {"base_interval": duration(FIRST_RETRY_S), "max_interval": duration(LAST_RETRY_S)}
            },
        }
    }
    static: Resource = rest.pop("static_resources", {})
    return {
        **rest,
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [stream],
                "set_node_on_first_message_only": True,
            },
            "cds_config": AGGREGATED,
            "lds_config": AGGREGATED,
        },
        "static_resources": {
            **static,
            "clusters": [_cluster(plane, intent.limits.connect_timeout_seconds), *static.get("clusters", ())],
        },
    }


def _cluster(plane: ControlPlane, connect_timeout_s: float) -> Resource:
    places = [split_authority(authority) for authority in plane.addresses]
    endpoints = [{"endpoint": {"address": socket_address(host, port)}} for host, port in places]
    options = "extensions.upstreams.http.v3.HttpProtocolOptions"
    http2: Resource = {"http2_protocol_options": {"connection_keepalive": KEEPALIVE}}
    return {
        "name": CONTROL_PLANE,
        **({"type": "STATIC"} if all(is_ip(host) for host, _ in places) else BY_NAME),
        "connect_timeout": duration(connect_timeout_s),
        "load_assignment": {"cluster_name": CONTROL_PLANE, "endpoints": [{"lb_endpoints": endpoints}]},
        "typed_extension_protocol_options": {f"envoy.{options}": typed(options, explicit_http_config=http2)},
        **({"transport_socket": picker_transport_socket(plane.tls)} if plane.tls else {}),
    }
