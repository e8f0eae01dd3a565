"""Text of a result on its way out: the one place where it is made safe for where it goes.

Terminal, Markdown, HTML, its scripts, LaTeX. Results may come from someone else. Whatever a name or a reason holds, it
is shown as these characters, on one line: no colour, link, picture, tag or command of it is live, and control
characters are written out (`\\x1b`).
"""

import html
import json
import re
from typing import Any

from mtdiff.errors import shown

LONGEST = 2000  # characters of one text; ours have 800 at most
TEX = {
    "\\": r"\textbackslash{}",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "≈": r"$\approx$",
    "±": r"$\pm$",
    "–": "--",
    "―": "---",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}
LAST_LATIN = 0x17F  # the characters up to here are known to LaTeX without further packages
PLAIN = str.maketrans({"↓": "v", "↑": "^", "≈": "~", "±": "+-", "–": "-", "―": "-", "×": "x"})


def escape_terminal(text: str, encoding: str = "utf-8") -> str:
    """Characters that steer no terminal and that `encoding` has. Rich's own markup is switched off by the console."""
    line = shown(text, LONGEST)
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        line = line.translate(PLAIN)
    return line.encode(encoding, "backslashreplace").decode(encoding)


def escape_markdown(text: str) -> str:
    """Plain text in GitHub's Markdown, in a cell of a table too. Keys in our messages stay code (`seed`)."""
    line = shown(text, LONGEST).replace("&", "&amp;").replace("<", "&lt;")
    line = re.sub(
        r"(`[\w.\[\]]+`)(?!`)|([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])|^[#+=>-])",
        lambda found: found[1] or f"\\{found[2]}",
        line,
    )
    return re.sub(r"(?i)(://|www)", lambda link: link[0][:-1] + f"&#{ord(link[0][-1])};", line)  # linked without marks


def escape_html(text: str) -> str:
    """Plain text in HTML, inside quoted attributes too."""
    return html.escape(shown(text, LONGEST))


def escape_script(value: Any) -> str:
    """JSON inside a `<script>`: no character of it ends the element or opens a comment, and it parses to `value`."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is. A letter that its fonts may lack is given by its number."""
    line = "".join(TEX.get(c, c if ord(c) <= LAST_LATIN else f"[U+{ord(c):04X}]") for c in shown(text, LONGEST))
    return re.sub(r"^[\[*]", r"{\g<0>}", line)  # else an argument of the line break before it
