"""Words of the code as Markdown: a key with its type and default, a docstring as prose. For `site_pages`."""

import html
import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

from fcit_ray.cli.words import type_in_words


def literal(value: Any) -> str:
    """A value as a configuration has it."""
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def entry(name: str, schema: Mapping[str, Any], definitions: Mapping[str, Any], text: str, required: bool) -> str:
    """One key: its name, what it may be, its default, what it does. The name is an anchor."""
    default = "required" if required else f"default {literal(schema.get('default'))}"
    body = "\n".join(f"    {line}" for line in text.strip().splitlines())
    return (
        f"[](){{ #{name} }}`{name}` *{type_in_words(schema, definitions, '`{}`')}; {default}*\n\n:   {body.strip()}\n"
    )


def prose(docstring: str) -> str:
    """A module's docstring as Markdown: bullets become lists, and what looks like emphasis stays as it is written."""
    lines: list[str] = []
    for line in inspect.cleandoc(docstring).splitlines():
        bullet = line.startswith("* ")
        if bullet and lines and not lines[-1].startswith(("* ", "  ")):
            lines.append("")
        pieces = re.split(r"(`[^`]*`)", line[2:] if bullet else line)
        # Links stay links; everything else that Markdown or HTML would read is escaped.
        safe = "".join(p if p.startswith("`") else re.sub(r"([*_\[\]])", r"\\\1", html.escape(p)) for p in pieces)
        safe = re.sub(r"https?://[^\s,)]+[\w/]", lambda link: f"<{link[0]}>".replace("\\", ""), safe)
        indent = "    " if line.startswith("  ") and not bullet else ""
        lines.append(f"* {safe}" if bullet else indent + safe.strip())
    return "\n".join(lines)
