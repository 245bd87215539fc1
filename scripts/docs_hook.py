"""Adapts the pages, which are written for GitHub, to the site.

Python-Markdown wants what belongs to a list item indented by four spaces, and a blank line before
an item that follows several paragraphs. GitHub wants neither. `go test ./test/docs -run Site`
compares what the site shows with the pages.
"""

import glob
import posixpath
import re

from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url

FENCE = re.compile(r"^ *```")
ITEM = re.compile(r" *(?:[-*]|\d+\.) +(?=\S)")
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^)\s]+)\)")
WIDE_TABLE = re.compile(r"^\|( :?-+:? \|){5}", re.M)

# scripts/docs.sh fetches it. Without it, a diagram is shown as its text, so that no page loads a
# script from another server.
MERMAID = glob.glob(".tools/docs/mermaid-*.min.js")


def on_files(files, config):
    if MERMAID:
        files.append(File.generated(config, "assets/mermaid.min.js", abs_src_path=MERMAID[-1]))
    return files


def on_page_markdown(markdown, page, config, files):
    page.meta["hide"] = ["navigation", "toc"] if page.file.src_uri == "index.md" else ["toc"] if WIDE_TABLE.search(markdown) else []
    if not MERMAID:
        markdown = markdown.replace("```mermaid", "```text")
    return lists(links(markdown, page, config, files))


def on_post_page(output, page, config):
    if 'class="mermaid"' in output and MERMAID:
        script = get_relative_url("assets/mermaid.min.js", page.url)
        output = output.replace("</head>", f'<script src="{script}"></script></head>', 1)
    return output


def lists(markdown):
    out, items, fenced, blank = [], [], False, False  # items: the columns at which open items' text begins
    for line in markdown.split("\n"):
        if not line.strip():
            out.append("")
            blank = blank or not fenced
            continue
        mark = None if fenced else ITEM.match(line)
        while items and not fenced and len(line) - len(line.lstrip(" ")) < items[-1]:
            items.pop()
        if mark and blank and out[-1]:
            out.append("")
        out.append(" " * 4 * len(items) + line[items[-1] if items else 0 :])
        if mark:
            items.append(len(mark.group()))
            blank = False
        if FENCE.match(line):
            fenced = not fenced
    return "\n".join(out)


def links(markdown, page, config, files):
    """Points links that leave docs/ at the repository, and calls pages by their titles.

    Without the repository's address (REPOSITORY_URL), the text of a link out of docs/ remains.
    """

    def link(match):
        text, target = match.groups()
        if target.startswith("../"):
            if not config.repo_url:
                return text
            path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), target))
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path})"
        file = files.get_file_from_path(text)
        if file and target.startswith(text):
            title, _, _ = file.content_string.removeprefix("# ").partition("\n")
            return f"[{title}]({target})"
        return match.group()

    parts = re.split(r"(^ *```.*?^ *```$)", markdown, flags=re.M | re.S)
    return "".join(p if i % 2 else LINK.sub(link, p) for i, p in enumerate(parts))
