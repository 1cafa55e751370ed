#!/usr/bin/env python3
"""Fails if a page of infra/docs/adr is not in its index with its title, a status and a date, or a row has no page."""

import re
from pathlib import Path

import report

DIRECTORY = Path(__file__).resolve().parents[1] / "docs" / "adr"
ROW = re.compile(r"\| \[(\d+)\]\(([^)]+)\) \| (.+) \| (accepted|superseded by \[\d+\]\([^)]+\)) \| (\d{4}-\d\d-\d\d) \|")


def main():
    wrong = []
    rows = {}
    for line in (DIRECTORY / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| ["):
            if row := ROW.fullmatch(line):
                rows[row[2]] = f"# {row[1]}. {row[3]}"
            else:
                wrong.append(f"this row is not number, title, status and date: {line}")
    pages = sorted(path.name for path in DIRECTORY.glob("0*.md"))
    for name in pages:
        title = (DIRECTORY / name).read_text(encoding="utf-8").splitlines()[0]
        if rows.get(name) != title:
            wrong.append(f"{name} has the title {title!r}, and the index {rows.get(name)!r}")
        number = int(re.match(r"# (\d+)", title)[1])
        if not name.startswith(f"{number:04}-"):
            wrong.append(f"{name} has another number than its title {title!r}")
    wrong += [f"the index has {name}, which does not exist" for name in rows.keys() - set(pages)]
    numbers = [name[:4] for name in pages]
    wrong += [f"two pages have the number {number}" for number in sorted({n for n in numbers if numbers.count(n) > 1})]
    report.finish("adr", wrong, f"{len(pages)} pages are in the index")


main()
