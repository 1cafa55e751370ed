"""One lane of sam-local.sh, in namespaces of its own: starts dockerd, and for every LANES-th event the local stack,
gives the event to its function by `sam local invoke`, and compares the answer with tests/events/answers.json."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

EVENTS = Path("tests/events")
BRIDGE = "172.17.0.1"
START_TIMEOUT = 60  # seconds, for what takes two


def contains(whole, part):
    """Whether everything of `part` is in `whole`: members by name, items of lists by place."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(name in whole and contains(whole[name], value) for name, value in part.items())
    if isinstance(whole, list) and isinstance(part, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    return whole == part


def wait_for(what, is_there):
    begin = time.monotonic()
    while not is_there():
        if time.monotonic() - begin > START_TIMEOUT:
            sys.exit(f"{what}: not there after {START_TIMEOUT} s")
        time.sleep(0.05)


class Docker:
    """A daemon with everything of its own."""

    def __init__(self, work, root):
        work.mkdir()
        socket = f"unix://{work}/docker.sock"
        self.environment = {**os.environ, "DOCKER_HOST": socket}
        self.log = open(work / "log", "w")
        # Containers talk to the bridge's own address alone, which takes neither forwarding nor masquerading.
        self.daemon = subprocess.Popen(
            ["dockerd", "--host", socket, "--data-root", work / "data", "--exec-root", work / "exec",
             "--pidfile", work / "pid", "--iptables=false", "--ip-forward=false", "--ip-masq=false"],
            stdout=self.log, stderr=self.log)
        wait_for(f"dockerd (see {work}/log)", lambda: self.run("version", check=False).returncode == 0)
        self.run("import", "--change", 'ENTRYPOINT ["/var/rapid/aws-lambda-rie"]', root,
                 f"public.ecr.aws/lambda/provided:al2023-{platform()}")

    def run(self, *arguments, check=True):
        return subprocess.run(["docker", *arguments], env=self.environment, check=check, capture_output=True)


def platform():
    """The machine as Lambda's base images call it."""
    return "arm64" if os.uname().machine == "aarch64" else os.uname().machine


class Stack:
    """The local stack, where containers reach it."""

    def __init__(self, programs, log):
        self.log = log
        with open(log, "w") as out:
            self.process = subprocess.Popen(
                [programs / "clinic-comms-local", "--aws", f"{BRIDGE}:4566", "--smtp", f"{BRIDGE}:2525"],
                stdout=out, stderr=out, env={**os.environ, "XDG_CACHE_HOME": str(log.parent)})
        # The demo has saved its clinic and sent its message then.
        wait_for(f"a message of the demo in {log}", lambda: " sent by " in log.read_text())
        self.mails_before = self.mails()

    def mails(self):
        with urllib.request.urlopen("http://127.0.0.1:8025/api/messages") as answer:
            return len(json.load(answer))

    def stop(self):
        self.process.terminate()
        self.process.wait()


def invoke(docker, template, architecture, function, event):
    """The function's answer, and what was said besides."""
    environment = {
        **docker.environment,
        # Keys for the emulators, and nothing of STS, which sam would ask whose account it is.
        "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1", "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:9", "AWS_EC2_METADATA_DISABLED": "true",
        "SAM_CLI_TELEMETRY": "0",
    }
    run = subprocess.run(
        ["sam", "local", "invoke", function, "--template", template, "--event", EVENTS / f"{event}.json",
         "--env-vars", EVENTS / "env.json", "--add-host", "host.docker.internal:host-gateway",
         "--parameter-overrides", f"Architecture={architecture}", "--skip-pull-image"],
        env=environment, capture_output=True, text=True)
    try:
        answer = json.loads(run.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        answer = None
    if isinstance(answer, dict) and answer.get("body"):
        answer["body"] = json.loads(answer["body"])
    return answer, run.stdout + run.stderr


def main():
    work, programs = Path(sys.argv[1]), Path(sys.argv[2])
    architecture, lane, lanes = sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    own = work / f"lane-{lane}"
    own.mkdir()
    docker = Docker(own / "docker", work / "root.tar")

    failed = False
    answers = json.loads((EVENTS / "answers.json").read_text())
    for number, (event, expected) in enumerate(answers.items()):
        if number % lanes != lane:
            continue
        begin = time.monotonic()
        stack = Stack(programs, own / f"{event}.log")
        answer, said = invoke(docker, work / "build" / "template.yaml", architecture, expected["function"], event)
        # What is queued is delivered by the stack meanwhile; what the function itself sent is there already.
        mails = stack.mails() - stack.mails_before if "mails" in expected else None
        stack.stop()
        right = contains(answer, expected["answer"]) and mails == expected.get("mails")
        verdict = "ok" if right else "FAILED"
        print(f"{expected['function']} {event}: {verdict}, {time.monotonic() - begin:.1f} s\n  {json.dumps(answer)[:300]}", flush=True)
        if not right:
            failed = True
            print(f"  expected {expected}\n  got {answer} and {mails} mails\n{said}\n{stack.log.read_text()}",
                  file=sys.stderr, flush=True)
    sys.exit(failed)


main()
