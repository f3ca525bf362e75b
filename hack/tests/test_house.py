"""The house rules that no linter knows."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(ROOT.glob("packages/*/src/**/*.py"))
TRACKED = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
FILES = [ROOT / name for name in TRACKED.stdout.splitlines() if (ROOT / name).is_file()]

# A reader should be able to hold a module in mind.
MAX_LINES = 500


def name(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(params=MODULES, ids=name)
def module(request):
    return request.param


def test_a_module_begins_with_one_sentence(module):
    docstring = ast.get_docstring(ast.parse(module.read_text()))
    assert docstring, "a module says in its first line what it is"
    assert docstring.splitlines()[0].rstrip().endswith((".", ":", "?")), "the first line is a whole sentence"


def test_a_module_lists_what_it_offers(module):
    tree = ast.parse(module.read_text())
    names = [
        [element.value for element in node.value.elts]
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and any(
            isinstance(t, ast.Name) and t.id == "__all__" for t in getattr(node, "targets", [getattr(node, "target", None)])
        )
    ]
    assert names, "__all__ is missing"
    defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    targets = [t for n in tree.body if isinstance(n, ast.Assign) for t in n.targets]
    targets += [each for t in targets if isinstance(t, ast.Tuple) for each in t.elts]
    defined |= {t.id for t in targets if isinstance(t, ast.Name)}
    defined |= {n.target.id for n in tree.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    defined |= {a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert set(names[0]) <= defined


def test_a_module_can_be_held_in_mind(module):
    assert len(module.read_text().splitlines()) <= MAX_LINES


def test_the_namespace_has_no_init():
    assert not list(ROOT.glob("packages/*/src/shunter/__init__.py")), "PEP 420: shunter/ is shared by eight packages"


def test_every_package_is_typed():
    for package in ROOT.glob("packages/*/src/shunter/*/"):
        if package.name != "__pycache__":
            assert (package / "py.typed").exists(), package


def test_requirements_are_pinned_by_hash_and_name_no_host():
    for path in ROOT.glob("requirements/*.txt"):
        text = path.read_text()
        assert "://" not in text, path
        assert not re.search(r"^--", text, re.MULTILINE), path
        for line in text.replace("\\\n", "").splitlines():
            if line and not line.startswith("#"):
                assert "==" in line, (path.name, line)
                assert "--hash=sha256:" in line, (path.name, line)


def test_no_file_names_this_machine():
    machine = re.compile(r"/(home/\w+|root|work|Users/\w+)/")
    for path in FILES:
        if path.suffix in {".py", ".md", ".toml", ".txt", ".yaml", ".sh", ""} and path != Path(__file__):
            assert not machine.search(path.read_text(errors="replace")), name(path)


def test_a_source_is_one_that_a_reader_can_look_up():
    """Notes of ours that are not in this repository are none."""
    for path in FILES:
        if path.suffix in {".py", ".md", ".yaml"} and path != Path(__file__):
            assert not re.search(r"GIE digest|digest §|epp-protocol", path.read_text(errors="replace")), name(path)
