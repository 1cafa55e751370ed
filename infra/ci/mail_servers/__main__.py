"""Sends by the product through real mail servers and counts: every message that the product says was sent is in the
mailbox once, every one that it says was not is absent and refused for the right reason, and no message fails because of
another's refusal. infra/ci/mail-servers.sh runs it: python3 infra/ci/mail_servers PROGRAM DIRECTORY [NAME]"""

import re
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from product import Product
from scenarios import restart, scenarios
from servers import Servers, wait_for

POLL = 0.5  # seconds


class Run:
    def __init__(self, program, work):
        self.servers, self.product = Servers(work), Product(program, work)

    def try_out(self, scenario):
        """Posts the messages of a scenario and waits for their ends; what is known of each then, and the seconds it took."""
        credentials = scenario.credentials(self.servers.certificates)
        self.product.save(scenario.clinic, credentials, scenario.sender)
        begin = time.monotonic()
        for message in scenario.messages:
            message.request_id = self.product.post(scenario.clinic, message, scenario.strategy)
        if scenario.corrected_password:
            self.wait_for_attempts(scenario)
            corrected = {**credentials, "password": scenario.corrected_password}
            self.product.save(scenario.clinic, corrected, scenario.sender)
        if scenario.restart_after:
            wait_for("the first messages", lambda: self.delivered(scenario) >= scenario.restart_after)
            self.servers.postfix.stop()
            time.sleep(2)
            self.servers.postfix.start()
        waiting, deliveries = list(scenario.messages), {}
        while waiting and time.monotonic() - begin < scenario.seconds:
            time.sleep(POLL)
            for message in waiting:
                deliveries[message.tag] = self.product.delivery(message.request_id)
            waiting = [one for one in waiting if deliveries[one.tag]["status"] in ("queued", "sending")]
        return deliveries, time.monotonic() - begin

    def wait_for_attempts(self, scenario):
        """Until each was tried, or waits because one before it was refused."""
        posted = [message.request_id for message in scenario.messages]

        def is_seen(request_id):
            delivery = self.product.delivery(request_id)
            return bool(delivery["attempts"] or delivery.get("waiting"))

        wait_for("an attempt or a wait of each", lambda: all(is_seen(one) for one in posted), timeout=60)

    def delivered(self, scenario):
        tags = {message.tag for message in scenario.messages}
        return sum(1 for tag, _ in self.copies() if tag in tags)

    def copies(self):
        """How often each message is in the mailbox for each of its recipients."""
        found = Counter()
        for message in self.servers.postfix.messages():
            tag = re.search(rb"\[(message-[0-9]+)\]", message)
            recipient = re.search(rb"^Delivered-To: (.*?)\r?$", message, re.MULTILINE)
            found[tag.group(1).decode(), recipient.group(1).decode()] += 1
        return found

    def refused_connections(self, scenario):
        """What the servers logged, which do not say whose connection it was: by address, and by login."""
        if scenario.server == "dovecot":
            lines = self.servers.dovecot.log.read_text().splitlines()
            return sum(1 for line in lines if "Maximum number of connections" in line and f"<{scenario.user}@" in line)
        address = scenario.credentials(self.servers.certificates)["host"]
        service = f"for service {address}:{465 if scenario.tls == 'implicit' else 587}"
        lines = self.servers.postfix.log.read_text().splitlines()
        return sum(1 for line in lines if "limit exceeded" in line and service in line)


def complaints(scenario, deliveries, copies, refused):
    """Everything that is not as it has to be."""
    for message in scenario.messages:
        delivery = deliveries[message.tag]
        status, attempts = delivery["status"], delivery["attempts"]
        last = attempts[-1] if attempts else {}
        said = f"{message.tag} to {message.recipient}: {status} {delivery.get('reason', {}).get('code', '')}".rstrip()
        said += "".join(f", {one['outcome']} {one.get('kind', '')} {one.get('code', '')}" for one in attempts[-3:])

        missing = {copy["copy"] for one in attempts for copy in one.get("refusedCopies", [])}
        if missing and not message.may_lack_copies:
            yield f"{said}: copies were refused: {sorted(missing)}"
        for place, recipient in enumerate([message.recipient, *message.copies]):
            count = copies[message.tag, recipient]
            is_missing = place > 0 and f"cc/{place - 1}" in missing
            right = {"sent": [0] if is_missing else [1], "unknown": [0, 1]}.get(status, [0])
            if count not in right:
                yield f"{said}: {count} times in the mailbox of {recipient}"
        if message.expected == "sent":
            # A server that is stopped in the middle may leave that open; then there is one copy at most.
            if status != "sent" and not (scenario.restart_after and status == "unknown"):
                yield f"{said}: it had to be sent"
        elif status != "failed" or last.get("kind") != message.expected:
            yield f"{said}: it had to be refused as {message.expected}"
    if scenario.refused_connections is not None and refused > scenario.refused_connections * len(scenario.messages):
        yield f"{refused} refused connections for {len(scenario.messages)} messages"


def judge(run, tried):
    """Prints what came of scenarios; whether everything was right."""
    copies, right = run.copies(), True
    for scenario, (deliveries, seconds) in tried:
        refused = run.refused_connections(scenario)
        found = list(complaints(scenario, deliveries, copies, refused))
        statuses = Counter(delivery["status"] for delivery in deliveries.values())
        counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
        print(f"{'FAILED' if found else 'ok'}: {scenario.name}: {counts} in {seconds:.0f} s, {refused} connections refused",
              flush=True)
        for complaint in found:
            right = False
            print(f"    {complaint}", flush=True)
    return right


def main():
    program, work = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    wanted = sys.argv[3] if len(sys.argv) > 3 else ""
    run = Run(program, work)
    try:
        run.servers.start()
        run.product.start(wait_for)
        right = True
        for group in [scenarios(), restart()]:
            group = [scenario for scenario in group if wanted in scenario.name]
            with ThreadPoolExecutor(max(len(group), 1)) as pool:
                tried = list(zip(group, pool.map(run.try_out, group), strict=True))
            right = judge(run, tried) and right
        total = sum(run.copies().values())
    finally:
        run.product.stop()
        run.servers.stop()
    if not right:
        sys.exit("the mail servers and the product do not agree")
    print(f"everything is where the product says, {total} copies counted")


main()
