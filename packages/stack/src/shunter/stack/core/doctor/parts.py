"""Checks of the parts themselves: picker, scraper, the snapshot between them, certificates, Envoy's configuration."""

from shunter.stack.core.doctor.check import Check, Finding, fail, ok, skipped, some, warn
from shunter.stack.core.doctor.facts import UNIX, Facts

__all__ = ["PART_CHECKS"]

# The scraper publishes at least once a second; a picker goes by its own account alone after three.
STALE_S = 3.0
# Time enough to renew a certificate by hand.
SOON_S = 7 * 86_400.0
# Beyond it tokens and certificates of one machine are not yet, or no longer, valid on the other.
SKEW_S = 60.0
NO_PICKER = "no picker was looked at"
NO_SCRAPER = "no scraper was looked at"


def _processes(facts: Facts) -> Finding:
    if facts.dead is None:
        return skipped("no stack of this machine was looked at")
    if facts.dead:
        return fail(
            f"not running: {', '.join(facts.dead)}", "read its file in logs/ of the stack's directory, and restart the stack"
        )
    return ok("every process of the stack runs")


def _picker_answers(facts: Facts) -> Finding:
    if not facts.pickers:
        return skipped(NO_PICKER)
    silent = [f"{each.where}: {each.trouble}" for each in facts.pickers if each.trouble]
    if silent:
        return fail(
            some(silent), "look whether it runs, and whether its admin port (9090) is served where you asked: --admin-host"
        )
    return ok(f"{len(facts.pickers)} of {len(facts.pickers)} answer")


def _picker_ready(facts: Facts) -> Finding:
    answering = [each for each in facts.pickers if not each.trouble]
    if not answering:
        return skipped(NO_PICKER)
    hindered = [f"{each.where}: {', '.join(each.hindrances)}" for each in answering if each.hindrances]
    if hindered:
        return fail(some(hindered), "gateways get no answer from it, and do what failureMode says: remove what hinders it")
    return ok(f"{len(answering)} ready")


def _snapshot(facts: Facts) -> Finding:
    answering = [each for each in facts.pickers if not each.trouble]
    if not answering:
        return skipped(NO_PICKER)
    if unread := [f"{each.where}: {each.snapshot_trouble}" for each in answering if each.snapshot_trouble]:
        return fail(some(unread), "run the same release of scraper and picker, with the same --snapshot")
    ages = {each.where: each.snapshot_age_s for each in answering}
    if stale := [
        f"{where}: {'none yet' if age_s is None else f'{age_s:.0f} s old'}"
        for where, age_s in ages.items()
        if age_s is None or age_s > STALE_S
    ]:
        return fail(some(stale), "look whether the scraper runs, and writes to the directory that the picker reads: --snapshot")
    return ok(f"at most {max(age_s or 0.0 for age_s in ages.values()):.1f} s old")


def _endpoints(facts: Facts) -> Finding:
    answering = [each for each in facts.pickers if not each.trouble]
    if not answering:
        return skipped(NO_PICKER)
    if empty := [each.where for each in answering if not each.endpoints]:
        return fail(f"no endpoints at {', '.join(empty)}", "every request gets 503: see selectors and objects")
    bad = {where: health for each in answering for where, health in each.endpoints.items() if health != "fresh"}
    count = len({where for each in answering for where in each.endpoints})
    if bad:
        judge = fail if len(bad) == count else warn
        words = [f"{where} is {health}" for where, health in sorted(bad.items())]
        return judge(some(words), "`shunter scraper probe ADDRESS` says what is wrong with its metrics")
    return ok(f"{count} with metrics that are fresh")


def _plugins(facts: Facts) -> Finding:
    answering = [each for each in facts.pickers if not each.trouble]
    if not answering:
        return skipped(NO_PICKER)
    wrong = sorted({f"{name}: {words}" for each in answering for name, words in each.complaints.items()})
    if wrong:
        return warn(some(wrong), "choose a profile that shows what the plugin needs (full), or leave the plugin out")
    return ok("no plugin complains")


def _scraper_answers(facts: Facts) -> Finding:
    if not facts.scrapers:
        return skipped(NO_SCRAPER)
    if silent := [f"{each.where}: {each.trouble}" for each in facts.scrapers if each.trouble]:
        return fail(some(silent), "look whether it runs, and whether it was given --admin-port (9091) and --admin-host")
    return ok(f"{len(facts.scrapers)} of {len(facts.scrapers)} answer")


def _scraper_reads(facts: Facts) -> Finding:
    clusters = {each.where: each.cluster for each in facts.scrapers if each.cluster}
    if not clusters:
        return skipped(NO_SCRAPER)
    if hindered := [f"{each.where}: {', '.join(each.hindrances)}" for each in facts.scrapers if each.hindrances]:
        return fail(some(hindered), "no snapshot has been published: remove what hinders it")
    troubled = sorted({f"{one.place}: {one.trouble}" for each in clusters.values() for one in each.following if one.trouble})
    if troubled:
        return warn(some(troubled), "what is known of it stays in force; `shunter scraper rbac` prints the rights it needs")
    return ok("everything that is followed is read")


def _objects(facts: Facts) -> Finding:
    clusters = [each.cluster for each in facts.scrapers if each.cluster]
    if not clusters:
        return skipped(NO_SCRAPER)
    wrong = sorted(
        {f"{one.resource} {one.namespace}/{one.name}: {one.message}" for each in clusters for one in each.complaints}
    )
    if wrong:
        return warn(some(wrong), "correct the field that is named; `kubectl describe` shows the same with --write-status")
    return ok("nothing is wrong with any object")


def _versions(facts: Facts) -> Finding:
    versions = {each.where: each.version for each in facts.pickers if each.version}
    versions |= {each.where: each.cluster.version for each in facts.scrapers if each.cluster}
    if not versions:
        return skipped("nobody told a version")
    schemas = {each.where: each.cluster.schema for each in facts.scrapers if each.cluster}
    if alien := [f"{where} writes snapshots of schema {schema}" for where, schema in schemas.items() if schema != facts.schema]:
        return fail(f"{some(alien)}; this release reads {facts.schema}", "run the same release everywhere")
    others = [f"{where} is {version}" for where, version in versions.items() if version != facts.version]
    if others:
        return warn(f"{some(others)}; this is {facts.version}", "finish the upgrade, or examine with the release that runs")
    return ok(f"everything is {facts.version}")


def _tls(facts: Facts) -> Finding:
    expiries = {each.where: each.certificates_expire_s for each in facts.pickers if each.certificates_expire_s is not None}
    expiries |= {each.where: each.expires_s for each in facts.tls if each.expires_s is not None}
    sockets = [each.where for each in facts.tls if each.plain and each.where.startswith(UNIX) and not each.wanted]
    plain = [f"{each.where} speaks no TLS" for each in facts.tls if each.plain and each.where not in sockets]
    troubled = [f"{each.where}: {each.trouble}" for each in facts.tls if each.trouble and not each.plain]
    unnamed = [
        f"{each.where} is for {', '.join(each.names) or 'nobody'}, not for {each.wanted}"
        for each in facts.tls
        if each.names and each.wanted and not any(_is_for(name, each.wanted) for name in each.names)
    ]
    if troubled or plain:
        remedy = "look whether it speaks TLS there, with a valid certificate: --tls-cert-file"
        if any(words.startswith(UNIX) for words in troubled):
            remedy += "; --socket-mode says who may ask at a socket"
        return fail(some([*troubled, *plain, *unnamed]), remedy)
    if unnamed:
        return fail(some(unnamed), "give the picker a certificate with the name that gateways ask for: --tls-cert-file")
    if sockets and not expiries:
        return ok(f"no TLS at {some(sockets)}: a socket in the file system needs none")
    if not expiries:
        return skipped("no certificate was seen: no picker told one, and --ext-proc names no address")
    left_s = {where: expires_s - facts.now_s for where, expires_s in expiries.items()}
    if over := [where for where, seconds in left_s.items() if seconds <= 0]:
        return fail(f"expired: {', '.join(over)}", "renew it; the picker reads the files again when they change")
    where, first_s = min(left_s.items(), key=lambda item: item[1])
    if first_s < SOON_S:
        return warn(
            f"{where}: expires in {first_s / 86_400:.1f} days", "renew it; the picker reads the files again when they change"
        )
    return ok(f"valid for {first_s / 86_400:.0f} days at least")


def _is_for(name: str, wanted: str) -> bool:
    """Whether a name of a certificate, which may begin with ``*.``, is that of a host (RFC 6125 §6.4.3)."""
    return name == wanted or (name.startswith("*.") and name[1:] == f".{wanted.partition('.')[2]}")


def _envoy(facts: Facts) -> Finding:
    if not facts.envoys:
        return skipped("no Envoy was looked at: --envoy HOST:PORT names its admin pages")
    if silent := [f"{each.where}: {each.trouble}" for each in facts.envoys if each.trouble]:
        return fail(some(silent), "give the address of Envoy's admin pages, such as 127.0.0.1:9901")
    if errors := [words for each in facts.envoys for words in each.errors]:
        return fail(some(errors), "`shunter envoyconf lint` of its configuration says why, and what to write instead")
    if warnings := [words for each in facts.envoys for words in each.warnings]:
        return warn(some(warnings), "`shunter envoyconf lint` of its configuration says why, and what to write instead")
    return ok("the linter finds nothing in its configuration")


def _reached(facts: Facts) -> Finding:
    if not (seen := [each for each in facts.envoys if not each.trouble]):
        return skipped("no Envoy was looked at: --envoy HOST:PORT names its admin pages")
    if unreached := [words for each in seen for words in each.unreached]:
        return fail(
            some(unreached),
            "start a picker there; at a socket Envoy has to be of its user, or of its group with --socket-mode 0660 "
            "(Permission_denied in Envoy's log); requests go without its picks, or fail",
        )
    return ok("no connection to a picker has failed without another that succeeded")


def _clock(facts: Facts) -> Finding:
    skews = {each.where: each.cluster.now_s - facts.now_s for each in facts.scrapers if each.cluster}
    if facts.kube and facts.kube.skew_s is not None:
        skews[facts.kube.server] = facts.kube.skew_s
    if not skews:
        return skipped("nobody told the time")
    if wrong := [f"{where} is {skew_s:+.0f} s from here" for where, skew_s in skews.items() if abs(skew_s) > SKEW_S]:
        return warn(some(wrong), "let the machines keep the time (NTP): tokens and certificates are valid by it")
    return ok(f"at most {max(map(abs, skews.values())):.0f} s apart")


PART_CHECKS = (
    Check("processes", "Does every process of the stack run?", _processes),
    Check("scraper", "Does the scraper answer?", _scraper_answers),
    Check("reads", "Does the scraper read all that it follows?", _scraper_reads),
    Check("objects", "Is every object such as can be used?", _objects),
    Check("picker", "Does the picker answer?", _picker_answers),
    Check("ready", "Is the picker ready for requests?", _picker_ready),
    Check("snapshot", "Does the picker know how the cluster is now?", _snapshot),
    Check("endpoints", "Are there endpoints, and do their metrics come?", _endpoints),
    Check("profile", "Does the gateway show the plugins what they need?", _plugins),
    Check("versions", "Is everything of one release?", _versions),
    Check("tls", "Is the certificate valid, for long enough and for the right name?", _tls),
    Check("envoy", "Is Envoy configured such that requests survive?", _envoy),
    Check("reached", "Does Envoy reach the pickers that it asks?", _reached),
    Check("clock", "Do the clocks agree?", _clock),
)
