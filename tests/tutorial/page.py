"""page.py PAGE KIND: the code blocks of a Markdown page whose fence says KIND (the words after the backquotes)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import pages

page, kind = sys.argv[1:]
found = [block for fence, block in pages.blocks(Path(page).read_text(encoding="utf-8")) if fence == kind]
if not found:
    sys.exit(f"{page} has no code block of the kind '{kind}'")
print("\n".join(found))
