"""The picker's web page: files that never change, and one stream of news for everybody who looks at them."""

from shunter.picker.shell.page.files import Files
from shunter.picker.shell.page.live import Live
from shunter.picker.shell.page.rebinding import refuse_strange_names

__all__ = ["Files", "Live", "refuse_strange_names"]
