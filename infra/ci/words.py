#!/usr/bin/env python3
"""Fails on words and phrases that are not the field's."""

import re
import subprocess
from pathlib import Path

import report

ROOT = Path(__file__).resolve().parents[2]

# What is written, and what to write.
BANNED = {
    r"\bcan not\b": "cannot",
    r"\bhand(?:s|ed|ing)?[ _](?:it |them )?back\b|\bHandBack\b": "returned to the queue, Requeue",
    r"\b(?:come|comes|came|coming) again\b": "is redelivered",
    r"\bset(?:s|ting)?[ _]aside\b": "moved to the dead-letter queue, dead_letter",
    r"\bput(?:s|ting)?[ _]off\b": "deferred",
    r"\bPatience\b": "OnExhausted",
    r"\bNotOurs\b": "NotClaimed",
    r"\b(?:struct|enum) Lane\b": "QueueKind",
    r"\bMOST_|\bLONGEST_": "MAX_",
    r"\breceivers\b": "recipients",
    r"\blet_wait\b": "change_visibility",
    r"\bfn tell_\w+|\.tell_\w+\(": "record_",
    r"\bbrought\(": "with_receive_count(",
    r"\bnobody knows\b": "unknown",
    r"\btakes? no such\b": "rejects",
    r'"Too often"': "Too many requests",
    r"\bwhat can never be\b": "name what is refused",
    r"\bis said for every message\b": "is logged and counted",
    r"\bThe same, brought\b": "say what it does",
    r"\bwaits for nobody\b": "never blocks",
    r"\bfor ever\b": "without end",
    r"\bthe \w+ that there are\b": "name which",
}
# Not ours, or not prose; and this file.
SKIPPED = re.compile(
    r"(^|/)(Cargo\.lock|package-lock\.json|LICENSE[^/]*|words\.py)$|^tests/fixtures/|\.svg$|^\.git"
)


def findings(path):
    try:
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []
    return [
        (number, match[0], better)
        for number, line in enumerate(lines, 1)
        for pattern, better in BANNED.items()
        for match in re.finditer(pattern, line)
    ]


def main():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = [path for path in listed.splitlines() if not SKIPPED.search(path) and (ROOT / path).is_file()]
    found = [
        f"{path}:{number}: {text!r}: {better}" for path in files for number, text, better in findings(path)
    ]
    report.finish("words", found, f"{len(files)} files have none that is banned")


main()
