"""Reads messages that the MIME builder made with Python's `email`, which shares no code with it, and compares them.

Each line of the standard input is a JSON object of `cargo run --package comms-adapters --example mime`: what a caller posted,
and the message in base64.
"""

import base64
import email
import email.policy
import json
import re
import sys
from collections.abc import Iterator
from email.header import decode_header, make_header
from email.utils import getaddresses, unquote

# RFC 5322 section 2.1.1: 998 always, 78 where the line has a place to break. RFC 2047 section 2: 76 with an encoded word.
MAX_LINE, FOLDED_LINE, ENCODED_LINE = 998, 78, 76
ENCODED_WORD = re.compile(rb"=\?[^?\s]+\?[QqBb]\?[^?\s]*\?=")


def lines_of(message: bytes) -> list[bytes]:
    """The lines of the message; no carriage return and no line feed stands alone."""
    lines = message.split(b"\r\n")
    assert not any(b"\r" in line or b"\n" in line for line in lines), "a line end that is not CRLF"
    assert lines[-1] == b"", "the last line is not ended"
    return lines


def header_lines(lines: list[bytes]) -> Iterator[bytes]:
    """The lines of the header, and of those of the parts."""
    is_header = True
    for line in lines:
        if line.startswith(b"--=_") and not line.endswith(b"--"):
            is_header = True
        elif not line:
            is_header = False
        elif is_header:
            yield line


def check_lines(message: bytes) -> None:
    lines = lines_of(message)
    assert max(map(len, lines)) <= MAX_LINE, "a line longer than 998"
    for line in header_lines(lines):
        # An address, an id or a media type has no place to break, and some readers break a quoted name where it is folded.
        is_whole = len(line.split()) == 1 or line.startswith(b' filename="')
        assert len(line) <= FOLDED_LINE or is_whole, f"a line of {len(line)} that could be folded"
        if ENCODED_WORD.search(line):
            assert len(line) <= ENCODED_LINE, f"a line of {len(line)} with an encoded word"
            assert all(len(word) <= 75 for word in ENCODED_WORD.findall(line)), "an encoded word longer than 75"


def charset(content_type: str, content: bytes) -> str | None:
    """Which one a text says: none where it is ASCII, or in an unknown one."""
    if "charset" in content_type:
        return "utf-8"
    try:
        return None if content.isascii() else (content.decode(), "utf-8")[1]
    except UnicodeDecodeError:
        return None


def same(what: str, found: object, posted: object) -> None:
    assert found == posted, f"{what}: posted {posted!r}, read {found!r}"


def mailboxes(field: str) -> list[tuple[str, str]]:
    """The names and addresses of a field. `email.policy.default` puts a space between adjacent encoded words of a name
    (CPython 3.11, against RFC 2047 section 6.2); `email.header` does not."""
    unfolded = field.replace("\r\n", "").replace("\n", "")
    return [(str(make_header(decode_header(name))), address) for name, address in getaddresses([unfolded])]


def check(case: dict) -> None:
    raw = base64.b64decode(case["mail"])
    check_lines(raw)
    message = email.message_from_bytes(raw, policy=email.policy.default)
    same("subject", str(message["subject"]), case["title"])
    as_written = email.message_from_bytes(raw, policy=email.policy.compat32)
    same("to", mailboxes(as_written["to"]), [(case["name"], case["to"])])
    same("from", mailboxes(as_written["from"]), [(case["senderName"], case["from"])])
    same("reply-to", mailboxes(as_written["reply-to"]), [("", case["replyTo"])])
    same("cc", mailboxes(as_written.get("cc", "")), [("", copy) for copy in case["cc"]])
    same("Auto-Submitted", message["auto-submitted"], "auto-generated")
    allowed = {
        "from", "to", "subject", "message-id", "date", "cc", "reply-to", "auto-submitted", "feedback-id",
        "mime-version", "content-type", "content-transfer-encoding",
    }
    names = [name.lower() for name in message.keys()]
    assert set(names) <= allowed and len(set(names)) == len(names), f"unexpected fields: {names}"
    same("defects", [part.defects for part in message.walk() if part.defects], [])

    text = message.get_body(("plain",))
    assert text is not None, "no text part"
    # Of blanks alone, it is made from the HTML.
    if case["body"] is not None and case["body"].strip():
        same("text", text.get_content().rstrip("\n"), case["body"].rstrip("\n"))
    html = message.get_body(("html",))
    assert html is not None, "no HTML part"
    same("HTML", html.get_content().rstrip("\n"), case["html"].rstrip("\n"))
    files = [part for part in message.walk() if part.get_filename() is not None]
    # `get_filename` takes quotes and angle brackets off what it has read, and spaces.
    posted = [unquote(file["filename"]).strip() for file in case["files"]]
    same("file names", [part.get_filename() for part in files], posted)
    for part, file in zip(files, case["files"]):
        posted = base64.b64decode(file["content"])
        if part.get_content_maintype() == "message":
            same("message", part.get_payload(0).as_bytes().replace(b"\r\n", b"\n").rstrip(), posted.replace(b"\r\n", b"\n").rstrip())
        else:
            same("file", part.get_payload(decode=True), posted)
        if part.get_content_maintype() == "text":
            same("charset", part.get_content_charset(), charset(file["contentType"], posted))
        same("method", part.get_param("method"), file["method"])
        if file["contentId"] is not None:
            same("Content-ID", part["content-id"], f"<{file['contentId']}>")
            same("disposition", part.get_content_disposition(), "inline")


def main() -> None:
    failed, read = 0, 0
    for line in sys.stdin:
        case = json.loads(line)
        read += 1
        try:
            check(case)
        except AssertionError as error:
            failed += 1
            if failed <= 20:
                print(f"message {read}: {error}", file=sys.stderr)
    if failed or not read:
        sys.exit(f"{failed} of {read} messages are not read as they were posted")
    print(f"{read} messages are read as they were posted")


if __name__ == "__main__":
    main()
