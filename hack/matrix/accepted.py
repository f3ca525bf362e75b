"""Whether each Envoy takes what is generated for it: the golden intents, by ``envoy --mode validate``."""

from pathlib import Path

from hack.matrix.rows import Record

from shunter.envoyconf import EnvoyRefusedError, IntentError, Profile, bootstrap, load_intent, render
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.versions import parse_version
from shunter.envoyconf.shell import envoy

__all__ = ["suite"]

GOLDEN = Path(__file__).parents[2] / "packages" / "envoyconf" / "tests" / "golden"


def suite(record: Record, versions: tuple[str, ...]) -> None:
    """Take down every intent on every version."""
    for path in sorted(GOLDEN.glob("*.intent.yaml")):
        intent, name = load_intent(path.read_text()), path.name.removesuffix(".intent.yaml")
        for version in versions:
            ok, detail = True, "accepted"
            try:
                text = render(bootstrap(intent, Settings(envoy_version=parse_version(version))))
                envoy.validate(text, envoy.find(version))
            except IntentError as error:
                detail = f"refused: {error}"
            except EnvoyRefusedError as error:
                ok, detail = False, str(error)
            check = f"envoy --mode validate, intent {name}"
            record(
                target="envoy-static",
                envoy_version=version,
                profile=(intent.profile or Profile.LEAN).value,
                check=check,
                ok=ok,
                detail=detail,
            )
