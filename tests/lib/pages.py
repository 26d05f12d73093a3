"""The documents' code blocks."""

import re


def blocks(text):
    """The language and the text of each code block of a Markdown page. The language is all that follows the fence."""
    return re.findall(r"^```([^\n]+)\n(.*?)^```$", text, re.M | re.S)


def section(text, heading):
    """What is below a heading, up to the next one of its level."""
    level = heading.split(" ")[0]
    return text.split(f"\n{heading}\n")[1].split(f"\n{level} ")[0]
