"""`UnixSocketCredential`, as README.md shows it to its readers."""

import pathlib
import re

README = pathlib.Path(__file__).resolve().parents[2] / "README.md"
(snippet,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
exec(compile(snippet, README, "exec"))
