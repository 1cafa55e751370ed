"""Rehearses a restore in a stack that was deployed into ministack and sent: emulator_restore.py STACK. A clinic's items are lost,
come back from a backup by restore.py, and are good for the next message."""

import json
import pathlib
import subprocess
import sys

import boto3

from emulator_send import CLINIC, Stack, EVENTS

RESTORE = pathlib.Path(__file__).parents[1] / "operator" / "restore.py"


def main():
    name = sys.argv[1]
    stack, dynamodb = Stack(name), boto3.client("dynamodb")
    table = stack.outputs["SettingsTableName"]
    backup = dynamodb.create_backup(TableName=table, BackupName="rehearsal")["BackupDetails"]["BackupArn"]
    keys = dynamodb.query(
        TableName=table,
        KeyConditionExpression="pk = :pk",
        ExpressionAttributeValues={":pk": {"S": CLINIC}},
        ProjectionExpression="pk, sk",
    )["Items"]
    for key in keys:
        dynamodb.delete_item(TableName=table, Key=key)
    print(f"{len(keys)} items of {CLINIC} are lost")
    status, _ = stack.call("ConfigFunction", "config-put", None)
    # Processes that saw later settings refuse to go back; others find none.
    assert status in (404, 500), status
    restored = f"{table}-restored"
    dynamodb.restore_table_from_backup(TargetTableName=restored, BackupArn=backup)
    dynamodb.get_waiter("table_exists").wait(TableName=restored)
    subprocess.run([sys.executable, RESTORE, restored, table, CLINIC], check=True)
    # New processes, as a deployment starts them: those that saw the loss would go on with it for a minute.
    for function in ("SendFunction", "ConfigFunction"):
        arn = stack.physical[function]
        stack.functions.update_function_configuration(FunctionName=arn, Description="restored")
        version = stack.functions.publish_version(FunctionName=arn)["Version"]
        stack.functions.update_alias(FunctionName=arn, Name="live", FunctionVersion=version)
    status, _ = stack.call("ConfigFunction", "config-put", None)
    assert status == 200, status
    message = json.loads(json.loads((EVENTS / "send-post-immediate.json").read_text(encoding="utf-8"))["body"])
    message |= {"metadata": {"clinicId": CLINIC}, "body": "After the restore."}
    message.pop("idempotencyKey", None)
    status, sent = stack.call("SendFunction", "send-post-immediate", message)
    assert (status, sent["deliveries"][0]["status"]) == (200, "sent"), sent
    dynamodb.delete_table(TableName=restored)


if __name__ == "__main__":
    main()
