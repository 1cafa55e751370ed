#!/usr/bin/env python3
"""Posts a communication with Python's standard library and waits for its outcome. API is the API's address, TOKEN a token with
the role SERVICE or CLINIC_ADMIN."""

import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid

MAX_TRIES = 5
MAX_POLLS = 60


def call(method, path, body=None, headers=None):
    """The answer's JSON. Repeats what the service says may be repeated: 429 and 503, after `Retry-After` seconds."""
    for attempt in range(MAX_TRIES):
        request = urllib.request.Request(
            os.environ["API"] + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {os.environ['TOKEN']}",
                "Content-Type": "application/json",
                **(headers or {}),
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            problem = json.load(error)
            if error.code not in (429, 503) or attempt + 1 == MAX_TRIES:
                # A problem (RFC 9457): a code for programs, a sentence for people, a JSON pointer for each wrong field. The
                # gateway's own answers, such as 401, have only a message.
                detail = problem.get("detail", problem.get("message"))
                sys.exit(f"{error.code} {problem.get('code', '')}: {detail} {problem.get('errors', '')}")
            time.sleep(int(error.headers.get("Retry-After", 1)))
        except urllib.error.URLError as error:
            sys.exit(f"{os.environ['API']} cannot be reached: {error.reason}")


def main():
    communication = {
        "category": "appointment",
        "channels": ["email"],
        "title": "Appointment confirmed",
        "body": "See you on Monday at 10:00.",
        "recipients": [{"email": "patient@example.com", "name": "A. Patient"}],
        "metadata": {"clinicId": "clinic-123"},
    }
    # The same key for every try: what was accepted once is not sent twice.
    key = {"Idempotency-Key": f"example-python-{uuid.uuid4()}"}
    accepted = call("POST", "/api/v1/communications", communication, key)
    for _ in range(MAX_POLLS):
        delivery = call("GET", f"/api/v1/communications/{accepted['requestId']}")["deliveries"][0]
        if delivery["status"] not in ("queued", "sending"):
            break
        time.sleep(1)
    reason = delivery.get("reason")
    print(f"{accepted['requestId']}: {delivery['status']}" + (f" ({reason['code']}: {reason['detail']})" if reason else ""))
    sys.exit(delivery["status"] != "sent")


main()
