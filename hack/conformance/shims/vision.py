"""Declare two operators of torchvision to torch: its library from the package index is for GPUs, and may not load without one.

Without them its import fails, and SGLang imports it. Where the library does load, it has declared them itself.
`python vision.py SITE-PACKAGES` puts this at the head of its module.
"""

import sys
from pathlib import Path

MARK = "# Declared here, for there is no GPU:"
DECLARED = f"""import torch
{MARK}
_declared = torch.library.Library("torchvision", "FRAGMENT")
for _operator in ("nms", "qnms"):
    try:
        _declared.define(_operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        pass
"""

module = Path(sys.argv[1]) / "torchvision" / "_meta_registrations.py"
text = module.read_text()
if MARK not in text:
    module.write_text(text.replace("import torch\n", DECLARED, 1))
