"""The product as a caller has it: the local stack and its HTTP API."""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Product:
    def __init__(self, program, work):
        self.program, self.log = program, work / "stack.log"
        # The key of the developer tokens goes there.
        self.environment = {**os.environ, "XDG_CACHE_HOME": str(work)}
        self.process = self.api = self.token = None

    def start(self, wait_for):
        http, aws, smtp, inbox = free_ports(4)
        listeners = {"--http": http, "--aws": aws, "--smtp": smtp, "--inbox": inbox}
        options = [part for name, port in listeners.items() for part in (name, f"127.0.0.1:{port}")]
        with open(self.log, "w") as out:
            self.process = subprocess.Popen(
                [self.program, *options, "--no-demo"], stdout=out, stderr=out, env=self.environment)
        self.api = f"http://127.0.0.1:{http}/api/v1"
        wait_for(f"the local stack (see {self.log})", self.is_healthy)
        token = [self.program, "token", "--role", "SUPER_ADMIN", "--subject", "mail-servers"]
        self.token = subprocess.run(token, env=self.environment, check=True, capture_output=True, text=True).stdout.strip()

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(30)

    def is_healthy(self):
        try:
            return self.ask("GET", "/health")[0] == 200
        except OSError:
            return False

    def ask(self, method, path, body=None):
        """The status and the body of the answer."""
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=40) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            try:
                return error.code, json.loads(text)
            except ValueError:
                return error.code, text

    def save(self, clinic, credentials, sender):
        """Saves the settings of a clinic that has one server and nothing else."""
        email = {
            "primary": {"provider": "smtp", "credentials": credentials},
            "defaultFrom": sender,
            "fallbackStrategy": {"useGlobal": False, "retryAttempts": 1},
        }
        status, answer = self.ask("PUT", f"/clinics/{clinic}", {"settings": {"communicationSettings": {"email": email}}})
        if status not in (200, 201):
            raise RuntimeError(f"{clinic}: {status} {answer}")

    def post(self, clinic, message, strategy):
        """Posts a message; the answer's id."""
        communication = {
            "strategy": strategy,
            "channels": ["email"],
            "title": message.subject,
            "body": message.body,
            "recipients": [{"email": message.recipient}],
            "metadata": {"clinicId": clinic},
            **({"cc": message.copies} if message.copies else {}),
            **({"attachments": message.attachments} if message.attachments else {}),
        }
        begin = time.monotonic()
        while True:
            status, answer = self.ask("POST", "/communications", communication)
            # A limit of the platform, which is not what is looked at here; nothing was recorded.
            if status != 429 or time.monotonic() - begin > 60:
                break
            time.sleep(1)
        if "requestId" not in answer:
            raise RuntimeError(f"{clinic}: {status} {answer}")
        return answer["requestId"]

    def delivery(self, request_id):
        status, answer = self.ask("GET", f"/communications/{request_id}")
        if status != 200:
            raise RuntimeError(f"{request_id}: {status} {answer}")
        return answer["deliveries"][0]
