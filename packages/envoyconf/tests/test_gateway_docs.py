"""The pages about gateways show what is generated.

A block under ``<!-- generated: TARGET EXAMPLE KIND[/NAME] … -->`` is these objects, one under
``<!-- warned: TARGET EXAMPLE -->`` the warnings.

After a change that is meant: ``SHUNTER_UPDATE_GOLDEN=1 pytest packages/envoyconf -k docs``, then read the diff.
"""

import os
import re
from pathlib import Path

import pytest

from shunter.envoyconf import load_intent, render
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.render import HEADER
from shunter.envoyconf.core.targets import Target

PAGES = Path(__file__).parents[3] / "docs" / "gateway"
EXAMPLES = Path(__file__).parent / "kubernetes"
BLOCK = re.compile(r"(?<=<!-- )(generated|warned): (\S+) (\S+)([^\n]*) -->\n```(\w*)\n(.*?)```", re.DOTALL)


def shown(match):
    """Return what a block should be."""
    what, target, example, kinds, language, _ = match.groups()
    output = generate(load_intent((EXAMPLES / f"{example}.intent.yaml").read_text()), Target(target))
    if what == "warned":
        text = "".join(f"Warning: {warning}\n" for warning in output.warnings)
    else:
        chosen = [
            each for each in output.documents if {each["kind"], f"{each['kind']}/{each['metadata']['name']}"} & {*kinds.split()}
        ]
        text = "---\n".join(render(each).removeprefix(HEADER) for each in chosen)
    assert text, f"{match[0].splitlines()[0]} shows nothing"
    return f"{what}: {target} {example}{kinds} -->\n```{language}\n{text}```"


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.name)
def test_the_docs_show_what_is_generated(page):
    text = page.read_text()
    right = BLOCK.sub(shown, text)
    if os.environ.get("SHUNTER_UPDATE_GOLDEN") and right != text:
        page.write_text(right)
    assert page.read_text() == right
