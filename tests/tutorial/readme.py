"""`UnixSocketCredential`, as README.md shows it to its readers."""

import pathlib
import re

README = pathlib.Path(__file__).resolve().parents[2] / "README.md"
section = README.read_text(encoding="utf-8").split("\n### Python\n")[1].split("\n### ")[0]
(snippet,) = re.findall(r"^```python\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
exec(compile(snippet, README, "exec"))
