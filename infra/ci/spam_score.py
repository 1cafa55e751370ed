"""Asks SpamAssassin and rspamd what they hold against the content of messages: see spam-score.sh.

    spam_score.py RSPAMD_URL SPAMASSASSIN_DIRECTORY MAIL_DIRECTORY
"""

import email
import json
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request

MAX_SCORE = 0.5
START_TIMEOUT = 60

# The messages are written so that only how they are put together is judged. What a clinic says can cost points as well: rspamd
# gives 1 to a sender's name with "Dr." in it and 1.25 to "Praxis Müller" beside an English subject, in any encoding;
# SpamAssassin gives 1.7 to an image in HTML of less than 400 bytes of words.
#
# About the way of a message, which has none here: no relay, no DNS, no signature, no authentication. A rule that takes points
# off is left out too, so that it hides none of the others.
NOT_CONTENT = {
    # SpamAssassin
    "NO_RECEIVED", "NO_RELAYS", "ALL_TRUSTED", "UNPARSEABLE_RELAY", "TVD_SPACE_RATIO_MINFP",
    # rspamd
    "RCVD_COUNT_ZERO", "RCVD_NO_TLS_LAST", "ARC_NA", "DMARC_NA", "R_SPF_NA", "R_DKIM_NA", "AUTH_NA", "AUTH_NA_OR_FAIL",
    "HFILTER_HOSTNAME_UNKNOWN", "R_BAD_CTE_7BIT_IN_TRANSIT", "FROM_NEQ_ENVFROM", "MISSING_ENVELOPE",
}  # fmt: skip


def spamassassin(directory: str, message: bytes) -> dict[str, float]:
    """The rules that fit, with their points. -L: no rule that asks the network."""
    command = ["spamassassin", "--local", f"--siteconfigpath={directory}", f"--prefspath={directory}/user_prefs"]
    checked = subprocess.run(command, input=message, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, timeout=120)
    rules = email.message_from_bytes(checked.stdout)["X-Spam-Rules"]
    if rules is None:
        raise SystemExit("SpamAssassin has not looked at the message")
    named = "".join(rules.split())
    return {} if named in ("", "none") else {rule: float(points) for rule, points in (part.split("=") for part in named.split(","))}


def rspamd(url: str, message: bytes) -> dict[str, float]:
    """The same of rspamd; the envelope is the one of the header, and the client logged in."""
    headers = {"From": "appointments@clinic.example", "Rcpt": "patient@example.com", "User": "clinic"}
    request = urllib.request.Request(f"{url}/checkv2", data=message, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        symbols = json.load(answer)["symbols"]
    return {name: symbol["score"] for name, symbol in symbols.items()}


def wait_for(url: str) -> None:
    end = time.monotonic() + START_TIMEOUT
    while True:
        try:
            with urllib.request.urlopen(f"{url}/ping", timeout=5):
                return
        except OSError as error:
            if time.monotonic() > end:
                raise SystemExit(f"rspamd does not answer: {error}") from error
            time.sleep(0.2)


def main() -> None:
    url, directory, mail = sys.argv[1:]
    wait_for(url)
    messages = sorted(pathlib.Path(mail).glob("*.eml"))
    if not messages:
        raise SystemExit("there are no messages")
    failed = 0
    for path in messages:
        message = path.read_bytes()
        for name, rules in (("spamassassin", spamassassin(directory, message)), ("rspamd", rspamd(url, message))):
            against = {rule: points for rule, points in rules.items() if points > 0 and rule not in NOT_CONTENT}
            score = sum(against.values())
            verdict = "ok" if score <= MAX_SCORE else f"more than {MAX_SCORE}"
            shown = " ".join(f"{rule}={points:g}" for rule, points in sorted(against.items()))
            print(f"{path.name:32} {name:12} {score:5.2f} {verdict} {shown}")
            failed += score > MAX_SCORE
    if failed:
        raise SystemExit(f"{failed} scores are above {MAX_SCORE}")
    print(f"{len(messages)} messages: no score of either is above {MAX_SCORE}")


if __name__ == "__main__":
    main()
