"""Sends through a stack that was deployed into ministack: emulator_send.py STACK. A clinic's settings are saved, one message
is sent while the caller waits and one by the queue, through the clinic's tenant of the platform's SES.

The functions are invoked by their alias with the events of tests/events: the emulator makes no routes of the template's."""

import json
import pathlib
import sys
import time
import uuid

import boto3

EVENTS = pathlib.Path(__file__).parents[2] / "tests" / "events"
CLINIC = "clinic-456"
SENDER = "desk@clinic.example"
SETTINGS = {
    "email": {
        "primary": {
            "provider": "aws_ses",
            "enabled": True,
            "credentials": {"region": "us-east-1", "tenantName": CLINIC, "fromEmail": SENDER},
        },
        "defaultFrom": SENDER,
    }
}


class Stack:
    def __init__(self, name):
        stack = boto3.client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
        self.outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        resources = boto3.client("cloudformation").describe_stack_resources(StackName=name)["StackResources"]
        self.physical = {resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in resources}
        self.functions = boto3.client("lambda")

    def call(self, function, event, body):
        event = json.loads((EVENTS / f"{event}.json").read_text(encoding="utf-8"))
        if body is None:
            event["requestContext"]["http"]["method"] = "GET"
            event.pop("body")
        else:
            event["body"] = json.dumps(body)
            # Another message in every run.
            event["headers"]["idempotency-key"] = str(uuid.uuid4())
        answer = self.functions.invoke(
            FunctionName=self.physical[function], Qualifier="live", Payload=json.dumps(event).encode()
        )
        payload = json.loads(answer["Payload"].read())
        body = json.loads(payload["body"])
        print(f"{function}: {payload['statusCode']}, {body.get('status') or [d['status'] for d in body.get('deliveries', [])]}")
        return payload["statusCode"], body

    def poll(self):
        """Sets the event source mappings again: the emulator keeps parameters that are numbers as texts."""
        for mapping in self.functions.list_event_source_mappings()["EventSourceMappings"]:
            self.functions.update_event_source_mapping(
                UUID=mapping["UUID"], BatchSize=10, MaximumBatchingWindowInSeconds=0, ScalingConfig={"MaximumConcurrency": 2}
            )

    def recorded(self, request_id):
        items = boto3.client("dynamodb").query(
            TableName=self.outputs["DeliveriesTableName"],
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": request_id}},
        )["Items"]
        return sorted(item["status"]["S"] for item in items if "status" in item)


def main():
    stack = Stack(sys.argv[1])
    stack.poll()
    mail = boto3.client("sesv2")
    if not any(found["IdentityName"] == "clinic.example" for found in mail.list_email_identities()["EmailIdentities"]):
        mail.create_email_identity(EmailIdentity="clinic.example")
    status, _ = stack.call("ConfigFunction", "config-put", {"settings": {"communicationSettings": SETTINGS}})
    assert status in (200, 201), status
    message = json.loads(json.loads((EVENTS / "send-post-immediate.json").read_text(encoding="utf-8"))["body"])
    message |= {"metadata": {"clinicId": CLINIC}}
    message.pop("idempotencyKey", None)
    status, sent = stack.call("SendFunction", "send-post-immediate", message)
    assert (status, sent["deliveries"][0]["status"]) == (200, "sent"), sent
    status, queued = stack.call("SendFunction", "send-post-queued", message | {"strategy": "queued", "body": "By the queue."})
    assert status == 202, queued
    for _ in range(60):
        if (found := stack.recorded(queued["requestId"])) == ["sent"]:
            break
        time.sleep(1)
    print(f"WorkerFunction: {found}")
    assert found == ["sent"], found


if __name__ == "__main__":
    main()
