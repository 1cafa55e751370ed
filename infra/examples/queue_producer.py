#!/usr/bin/env python3
"""Puts reminders on the queue with boto3, ten in a request, and sends again what SQS did not take. Environment variables:

QUEUE_URL           the stack's output of that name
AWS_DEFAULT_REGION  the queue's region (boto3 does not read AWS_REGION)
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, or another source of credentials that boto3 knows
AWS_ENDPOINT_URL    of the local stack only: its --aws address

With API and TOKEN it also waits for the outcomes, as no producer has to."""

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

import boto3

CLINIC = "clinic-123"
BATCH = 10  # messages in a request at most (SQS: SendMessageBatch)
MAX_TRIES = 5
MAX_POLLS = 60


def communication(key, email):
    return {
        # The producer's own name for the communication: put on the queue twice, it is sent once.
        "idempotencyKey": key,
        "category": "reminder",
        "channels": ["email"],
        "title": "Reminder",
        "body": "Tomorrow at 10:00.",
        "recipients": [{"email": email}],
        "metadata": {"clinicId": CLINIC},
    }


def put(sqs, queue, communications):
    """Puts them on the queue. What SQS refuses for now is tried again; the rest is returned with SQS's codes."""
    entries = [
        # The clinic's message group: SQS keeps the messages of one busy clinic from delaying the others'.
        {"Id": str(number), "MessageBody": json.dumps(one), "MessageGroupId": CLINIC}
        for number, one in enumerate(communications)
    ]
    for attempt in range(MAX_TRIES):
        failed = []
        for start in range(0, len(entries), BATCH):
            answer = sqs.send_message_batch(QueueUrl=queue, Entries=entries[start : start + BATCH])
            failed += answer.get("Failed", [])
        if not failed:
            return []
        refused = {each["Id"] for each in failed}
        entries = [entry for entry in entries if entry["Id"] in refused]
        time.sleep(2**attempt / 10)
    return failed


def status(key):
    query = urllib.parse.urlencode({"clinicId": CLINIC, "idempotencyKey": key})
    request = urllib.request.Request(
        f"{os.environ['API']}/api/v1/communications?{query}",
        headers={"Authorization": f"Bearer {os.environ['TOKEN']}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["deliveries"][0]["status"]
    except urllib.error.HTTPError as error:
        if error.code == 404:  # the worker has not received it yet
            return "queued"
        raise


def main():
    run = uuid.uuid4()
    keys = [f"example-producer-{run}-{number}" for number in range(12)]
    reminders = [communication(key, f"patient-{number}@example.com") for number, key in enumerate(keys)]
    missing = [name for name in ("QUEUE_URL", "AWS_DEFAULT_REGION") if name not in os.environ]
    if missing:
        sys.exit(f"set {' and '.join(missing)}: {__doc__}")
    failed = put(boto3.client("sqs"), os.environ["QUEUE_URL"], reminders)
    for each in failed:
        print(f"not on the queue: {each['Code']}", file=sys.stderr)
    if "API" in os.environ:
        for _ in range(MAX_POLLS):
            found = [status(key) for key in keys]
            if not {"queued", "sending"} & set(found):
                break
            time.sleep(1)
        print(f"{len(keys)} reminders: {found.count('sent')} sent")
        sys.exit(bool(failed) or found.count("sent") != len(keys))
    sys.exit(bool(failed))


main()
