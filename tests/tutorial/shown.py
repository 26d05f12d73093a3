"""`UnixSocketCredential`, as docs/sdks.md shows it to its readers."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "lib"))
import pages

PAGE = TESTS.parent / "docs/sdks.md"
blocks = pages.blocks(pages.section(PAGE.read_text(encoding="utf-8"), "## Python"))
(snippet,) = [block for language, block in blocks if language == "python"]
exec(compile(snippet, PAGE, "exec"))
