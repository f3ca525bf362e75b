"""The xDS transport protocol without IO: what a control plane owes each Envoy, and when.

::

    kinds      the five types of resources
    state      everything that is served, immutable, named by its content
    encoding   resources as JSON become a state
    channel    what one client was sent, accepted and refused of one kind
    sotw       the two forms of the protocol: all of a kind at a time,
    delta      or differences by name
    stream     one client's stream: the order in which kinds may change without a request lost
    wire       requests and responses as bytes
    report     what the status pages tell
    members    endpoints and their load, as load assignments
    weights    load as weights that do not flicker
    files      the same resources as a directory that Envoy watches
"""

__all__: list[str] = []
