"""page.py PAGE KIND: the code blocks of a Markdown page whose fence says KIND (the words after the backquotes)."""

import re
import sys

page, kind = sys.argv[1:]
with open(page, encoding="utf-8") as text:
    blocks = re.findall(r"^```([^\n]*)\n(.*?)^```$", text.read(), flags=re.MULTILINE | re.DOTALL)
found = [block for fence, block in blocks if fence == kind]
if not found:
    sys.exit(f"{page} has no code block of the kind '{kind}'")
print("\n".join(found))
