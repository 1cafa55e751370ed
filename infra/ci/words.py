#!/usr/bin/env python3
"""Fails on words and phrases that are not the field's.

words-allowed.txt lists the files that are still to be rewritten. It may only shrink: a listed file without such a word fails
too. `words.py --prune` deletes the lines of those files."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = Path(__file__).with_name("words-allowed.txt")

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
}
# Log messages that operators' queries name. They change with a release, not in passing.
LOG_MESSAGES = re.compile(
    "delivery handed back|a dead letter could not be set aside, and comes again|can not be worked on(?: at the moment)?"
    "|the stored settings can not be read|a provider entry can not be used|the settings store can not be reached"
)
# Not ours, or not prose; and this list.
SKIPPED = re.compile(
    r"(^|/)(Cargo\.lock|package-lock\.json|LICENSE[^/]*|words(-allowed)?\.(py|txt))$|^tests/fixtures/|\.svg$|^\.git"
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
        for match in re.finditer(pattern, LOG_MESSAGES.sub("", line))
    ]


def main():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = [path for path in listed.splitlines() if not SKIPPED.search(path) and (ROOT / path).is_file()]
    found = {path: each for path in files if (each := findings(path))}
    allowed = ALLOWED.read_text(encoding="utf-8").split()
    if "--prune" in sys.argv[1:]:
        allowed = [path for path in allowed if path in found]
        ALLOWED.write_text("".join(f"{path}\n" for path in allowed), encoding="utf-8")
    failed = False
    for path in sorted(found.keys() - set(allowed)):
        failed = True
        for number, text, better in found[path]:
            print(f"words: {path}:{number}: {text!r}: {better}", file=sys.stderr)
    for path in allowed:
        if path not in found:
            failed = True
            print(f"words: {path} is clean: run infra/ci/words.py --prune", file=sys.stderr)
    if not failed:
        print(f"words: {len(files)} files, of which {len(allowed)} are still to be rewritten")
    sys.exit(failed)


main()
