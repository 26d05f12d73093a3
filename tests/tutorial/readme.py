"""`UnixSocketCredential`, as docs/sdks.md shows it to its readers."""

import pathlib
import re

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs/sdks.md"
section = PAGE.read_text(encoding="utf-8").split("\n## Python\n")[1].split("\n## ")[0]
(snippet,) = re.findall(r"^```python\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
exec(compile(snippet, PAGE, "exec"))
