"""The page for newcomers to Kubernetes, followed word by word in a cluster."""

import os
import re
import subprocess

import pytest
from hack.kube import images

from shunter.envoyconf.testing_kube import find_tool

pytestmark = pytest.mark.skipif("SHUNTER_EVERY_CLUSTER" not in os.environ, reason="needs its time: make test-kube")

PAGE = images.ROOT / "docs" / "getting-started-kubernetes.md"
WITHIN_S = 540


def test_its_commands_do_what_it_says(stage, tmp_path):
    (tmp_path / "kubectl").symlink_to(find_tool("kubectl"))
    (tmp_path / "helm").symlink_to(find_tool("helm"))
    commands = "".join(re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE))
    script = f"set -eu\n{commands}\nkill $(jobs -p)\n"
    environment = os.environ | {
        "KUBECONFIG": str(stage.kubeconfig),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        ["bash", "-c", script], cwd=images.ROOT, env=environment, capture_output=True, text=True, check=False, timeout=WITHIN_S
    )
    assert not done.returncode, done.stdout + done.stderr
    print(done.stdout)
    assert len(re.findall(r"^llama-picker-\S+ +2/2 +Running", done.stdout, re.MULTILINE)) == 2
    assert '"object":"text_completion"' in done.stdout
    assert "equally good" in done.stdout
    assert re.search(r"^inferenceobjective\S*/urgent\b", done.stdout, re.MULTILINE)
    assert 'release "llama" uninstalled' in done.stdout
