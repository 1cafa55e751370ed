"""Copies what was restored into the table that the stack uses: restore.py RESTORED TABLE [PK]...

A restore by AWS makes a new table, and a stack goes on with its own. Without PK every item is copied, with PK those of one
partition: a clinic's id for its settings and their versions, a request's id for its deliveries. An item that the table has too
is replaced. Stopped anywhere, the same command does the rest. Rights: dynamodb:Scan or Query on the first table,
dynamodb:BatchWriteItem on the second. Needs boto3. OPERATIONS.md, "Restoring"."""

import sys
import time

import boto3

# Items of one BatchWriteItem (DynamoDB API reference).
BATCH = 25


def items(client, table, keys):
    if not keys:
        for page in client.get_paginator("scan").paginate(TableName=table):
            yield from page["Items"]
    for key in keys:
        pages = client.get_paginator("query").paginate(
            TableName=table, KeyConditionExpression="pk = :pk", ExpressionAttributeValues={":pk": {"S": key}}
        )
        for page in pages:
            yield from page["Items"]


def write(client, table, batch):
    left = {table: [{"PutRequest": {"Item": item}} for item in batch]}
    wait = 0.1
    while left:
        left = client.batch_write_item(RequestItems=left)["UnprocessedItems"]
        if left:
            time.sleep(wait)
            wait = min(wait * 2, 10)


def main():
    restored, table, *keys = sys.argv[1:]
    client = boto3.client("dynamodb")
    batch, copied = [], 0
    for item in items(client, restored, keys):
        batch.append(item)
        if len(batch) == BATCH:
            write(client, table, batch)
            copied += len(batch)
            batch = []
    if batch:
        write(client, table, batch)
        copied += len(batch)
    print(f"{copied} items copied")


main()
