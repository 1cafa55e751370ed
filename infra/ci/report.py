"""The report of a check: its findings on standard error, or one line on standard output."""

import sys


def finish(check, findings, summary):
    """Prints the findings, or the summary if there are none, and exits: 1 with findings, else 0."""
    for finding in findings:
        print(f"{check}: {finding}", file=sys.stderr)
    if not findings:
        print(f"{check}: {summary}")
    sys.exit(bool(findings))
