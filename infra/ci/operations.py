"""Runs the shell blocks of OPERATIONS.md and RUNBOOK.md against the local stack, one after the other, as they are written: operations.py
PROGRAMS, a directory with clinic-comms-local and comms-operator. Needs `aws` (PyPI, awscli).

A word in capitals that the document tells to replace is replaced by what the local stack has. A block that cannot run here says
why, in a comment before it: `<!-- not run: REASON -->`. Those are listed. Exits with 1 if a block fails."""

import json
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

DOCUMENTS = [pathlib.Path(__file__).parents[1] / "docs" / name for name in ("OPERATIONS.md", "RUNBOOK.md")]
KEY = "runbook-1"
START_SECONDS = 30
BLOCK_SECONDS = 120


class Block:
    def __init__(self, place, text, reason):
        self.place, self.text, self.reason = place, text, reason


def blocks(document):
    """Every shell block, with the reason of the comment before it."""
    found, reason, text, indent = [], None, None, ""
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        bare = line.strip()
        if text is not None:
            if bare == "```":
                found.append(Block(f"{document.name}:{number - len(text)}", "\n".join(text), reason))
                text = reason = None
            else:
                text.append(line.removeprefix(indent))
        elif bare == "```sh":
            text, indent = [], line[: line.index("`")]
        elif comment := re.fullmatch(r"<!-- not run: (.+) -->", bare):
            reason = comment[1]
        elif bare:
            reason = None
    return found


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class LocalStack:
    def __init__(self, programs, directory):
        self.local = programs / "clinic-comms-local"
        self.http, self.aws, smtp, inbox = (f"127.0.0.1:{free_port()}" for _ in range(4))
        self.log = directory / "stack.log"
        self.process = subprocess.Popen(
            [self.local, "--http", self.http, "--aws", self.aws, "--smtp", smtp, "--inbox", inbox],
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
        )
        end = time.monotonic() + START_SECONDS
        while "Try it" not in self.said():
            if self.process.poll() is not None or time.monotonic() > end:
                sys.exit(f"the local stack did not start:\n{self.said()}")
            time.sleep(0.05)
        self.dead = f"http://{self.aws}/123456789012/clinic-comms-dlq"
        self.queue = f"http://{self.aws}/123456789012/clinic-comms"

    def said(self):
        return self.log.read_text(encoding="utf-8", errors="replace")

    def key(self):
        return re.search(r"key\s+(arn:aws:kms:\S+)", self.said())[1]

    def token(self):
        token = [self.local, "token", "--role", "SUPER_ADMIN"]
        return subprocess.run(token, capture_output=True, text=True, check=True).stdout.strip()


def wrappers(directory, programs):
    """`aws`, whose version 1 does not look at AWS_ENDPOINT_URL, and `comms-operator`, which ends with 1 if something is left: that
    is right of a list and of a dry run, and of nothing else here."""
    aws = shutil.which("aws") or sys.exit("there is no `aws` here: pip install awscli")
    operator = programs / "comms-operator"
    texts = {
        "aws": f'exec {shlex.quote(aws)} --endpoint-url "$AWS_ENDPOINT_URL" "$@"',
        "comms-operator": f"""code=0
{shlex.quote(str(operator))} "$@" || code=$?
case " $* " in
*" list "* | *" --dry-run "*) [ "$code" -le 1 ] ;;
*) exit "$code" ;;
esac""",
    }
    bin_ = directory / "bin"
    bin_.mkdir()
    for name, text in texts.items():
        (bin_ / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (bin_ / name).chmod(0o755)
    return bin_


def prepare(stack, directory, environment):
    """What the document takes for given: another key, clinics to import, an exported log, a dead letter."""
    demo = urllib.request.Request(
        f"http://{stack.http}/api/v1/clinics/clinic-123", headers={"authorization": f"Bearer {stack.token()}"}
    )
    with urllib.request.urlopen(demo, timeout=10) as answer:
        settings = json.load(answer)["settings"]["communicationSettings"]
    # Secrets are never shown: another one takes their place.
    text = json.dumps({"clinicId": "clinic-456", "settings": {"communicationSettings": without_what_is_shown(settings)}})
    (directory / "clinics.jsonl").write_text(text + "\n", encoding="utf-8")
    audit = [line.split("] ", 1)[1] for line in stack.said().splitlines() if '"message":"audit"' in line]
    (directory / "audit.jsonl").write_text("\n".join(audit) + "\n", encoding="utf-8")
    # By path: a program's name is looked for in this process's own environment.
    aws = shutil.which("aws", path=environment["PATH"])
    send = [aws, "sqs", "send-message", "--queue-url", stack.queue, "--message-body", "{"]
    subprocess.run(send, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=BLOCK_SECONDS)
    make = [aws, "kms", "create-key", "--query", "KeyMetadata.Arn", "--output", "text"]
    return subprocess.run(make, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def send(stack):
    """A communication that the runbook asks about: its id."""
    body = {
        "title": "Reminder",
        "body": "Tomorrow at nine.",
        "channels": ["email"],
        "recipients": [{"email": "patient@example.com"}],
        "metadata": {"clinicId": "clinic-123"},
    }
    request = urllib.request.Request(
        f"http://{stack.http}/api/v1/communications",
        data=json.dumps(body).encode(),
        headers={
            "authorization": f"Bearer {stack.token()}",
            "content-type": "application/json",
            "idempotency-key": f'"{KEY}"',
        },
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["requestId"]


def without_what_is_shown(value):
    """Settings as they may be saved, from those that GET shows."""
    if isinstance(value, dict):
        return {
            name: "replaced-secret" if name == "password" else without_what_is_shown(inner)
            for name, inner in value.items()
            if name not in ("hasPassword", "effectiveCeilings", "ceilings") and not name.endswith("Fingerprint")
        }
    return [without_what_is_shown(inner) for inner in value] if isinstance(value, list) else value


def replaced(text, words):
    """The block with what is to be put in, and a region of the local stack."""
    for name, value in words.items():
        text = re.sub(rf"(?<![\w$-]){re.escape(name)}(?![\w=])", lambda _: value, text)
    text = text.replace("eu-central-1", "us-east-1")
    for name in ("DEAD", "QUEUE", "URGENT", "COMMS_TOKEN", "SETTINGS_TABLE", "DELIVERIES_TABLE"):
        text = re.sub(rf"\b(?:export )?{name}=…", ":", text)
    return text


def main():
    programs = pathlib.Path(sys.argv[1]).resolve()
    found = [block for document in DOCUMENTS for block in blocks(document)]
    failed = ran = 0
    with tempfile.TemporaryDirectory() as temporary:
        directory = pathlib.Path(temporary)
        stack = LocalStack(programs, directory)
        try:
            environment = os.environ | {
                "PATH": f"{wrappers(directory, programs)}:{os.environ['PATH']}",
                "AWS_ENDPOINT_URL": f"http://{stack.aws}",
                "AWS_REGION": "us-east-1",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "local",
                "AWS_SECRET_ACCESS_KEY": "local",
                "AWS_EC2_METADATA_DISABLED": "true",
                "COMMS_TOKEN": stack.token(),
                "DEAD": stack.dead,
                "QUEUE": stack.queue,
                "URGENT": f"{stack.queue}-urgent",
                "SETTINGS_TABLE": "clinic-comms-settings",
                "DELIVERIES_TABLE": "clinic-comms-deliveries",
            }
            words = {
                "http://127.0.0.1:4566": f"http://{stack.aws}",
                "NEW_KEY_ARN": prepare(stack, directory, environment),
                "KEY_ARN": stack.key(),
                "TABLE": "clinic-comms-settings",
                "API_URL": f"http://{stack.http}",
                "ID": "clinic-123",
                "S": "clinic-comms-settings",
                "D": "clinic-comms-deliveries",
                "REQUEST_ID": send(stack),
                "IDEMPOTENCY_KEY": KEY,
            }
            for block in found:
                if block.reason:
                    print(f"{block.place}: not run: {block.reason}")
                    continue
                ended = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", replaced(block.text, words)],
                    cwd=directory,
                    env=environment,
                    input="patient@example.com\n",
                    capture_output=True,
                    text=True,
                    timeout=BLOCK_SECONDS,
                )
                ran += 1
                first = block.text.strip().splitlines()[0]
                if ended.returncode:
                    failed += 1
                    print(f"{block.place}: FAILED with {ended.returncode}: {first}\n{ended.stdout}{ended.stderr}")
                else:
                    print(f"{block.place}: ok: {first}")
        finally:
            stack.process.terminate()
            stack.process.wait()
    print(f"operations: {ran} blocks ran, {failed} failed, {len(found) - ran} cannot run here")
    sys.exit(bool(failed) or not ran)


if __name__ == "__main__":
    main()
