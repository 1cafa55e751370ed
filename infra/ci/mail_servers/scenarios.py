"""What is tried at the servers, and what has to come of it."""

import base64
import itertools
from dataclasses import dataclass, field

from servers import DOMAIN, DOVECOT, PASSWORD, SUBMISSION

NUMBERS = itertools.count(1)


@dataclass
class Message:
    """One message, and what has to become of it: `sent`, or the kind of the refusal."""

    expected: str = "sent"
    recipient: str = ""
    subject: str = "Appointment"
    body: str = "See you on Monday at 10:00."
    copies: list = field(default_factory=list)
    attachments: list = field(default_factory=list)
    # The server takes fewer recipients: the message goes out once all the same, and says which copies did not.
    may_lack_copies: bool = False
    request_id: str = ""

    def __post_init__(self):
        number = next(NUMBERS)
        self.tag = f"message-{number:04}"
        self.recipient = self.recipient or f"patient{number}@{DOMAIN}"
        self.subject = f"{self.subject} [{self.tag}]"


@dataclass
class Scenario:
    """Messages of one clinic to one server."""

    name: str
    server: str
    messages: list
    tls: str = "starttls"
    user: str = "desk"
    password: str = PASSWORD
    sender: str = ""
    authority: str = "ca"
    strategy: str = "queued"
    # What is saved when everything was tried once; the messages have to be sent then.
    corrected_password: str = ""
    # Of this one server, so that messages follow one another on a connection.
    connections: int = 5
    # Refused connections for each message, at most.
    refused_connections: float | None = None
    # Stops and starts Postfix when that many are delivered.
    restart_after: int = 0
    seconds: int = 240

    @property
    def clinic(self):
        return "".join(c if c.isalnum() else "-" for c in self.name)[:60].strip("-")

    def credentials(self, certificates):
        credentials = {
            "host": DOVECOT if self.server == "dovecot" else SUBMISSION[self.server][0],
            "port": 465 if self.tls == "implicit" else 587,
            "secure": self.tls == "implicit",
            "user": f"{self.user}@{DOMAIN}",
            "password": self.password,
            "maxConnections": self.connections,
        }
        return {**credentials, "caPem": certificates.pem[self.authority]} if self.authority else credentials


def messages(count, **fields):
    return [Message(**fields) for _ in range(count)]


def users():
    """A login of its own for each scenario, so that no limit of one is another's."""
    return (f"user{number}" for number in range(40))


def scenarios():
    user = users()

    def scenario(name, server, posted, **fields):
        login = fields.pop("user", None) or next(user)
        fields.setdefault("sender", f"{login}@{DOMAIN}")
        return Scenario(name, server, posted, user=login, **fields)

    yield from login_and_tls(scenario)
    yield from limits(scenario)
    yield from refusals(scenario)


def login_and_tls(scenario):
    for tls in ["starttls", "implicit"]:
        for server, mechanisms in [
            ("plain", "PLAIN or LOGIN"), ("login", "LOGIN alone"), ("no-plain", "LOGIN after PLAIN was answered 501"),
            ("dovecot", "Dovecot"),
        ]:
            yield scenario(f"{tls}, {mechanisms}", server, messages(4), tls=tls)
        for server in ["plain", "dovecot"]:
            yield scenario(f"{tls}, {server}, wrong password", server, messages(1, expected="unauthenticated"), tls=tls,
                           password="not-the-password", strategy="immediate")
        yield scenario(f"{tls}, a certificate that is its own authority", "own-authority", messages(4), tls=tls,
                       authority="authority")
        yield scenario(f"{tls}, a certificate that is no authority", "no-authority", messages(4), tls=tls,
                       authority="no-authority")
        yield scenario(f"{tls}, a certificate of nobody known", "plain", messages(1, expected="unauthenticated"), tls=tls,
                       authority="", strategy="immediate")
        yield scenario(f"{tls}, another server's certificate", "plain", messages(1, expected="unauthenticated"), tls=tls,
                       authority="no-authority", strategy="immediate")
    yield scenario("a wrong password that is corrected", "plain", messages(4), password="not-the-password",
                   corrected_password=PASSWORD)


def limits(scenario):
    yield scenario("two connections at a time", "two-connections", messages(200), refused_connections=0.1)
    yield scenario("five connections in five seconds", "connection-rate", messages(40))
    yield scenario("three connections of a Dovecot login", "dovecot", messages(200), refused_connections=0.1)
    copies = [f"copy{number}@{DOMAIN}" for number in range(4)]
    yield scenario("three recipients in a transaction", "three-recipients",
                   [*messages(2), *messages(2, copies=copies, may_lack_copies=True), *messages(2)])
    content = base64.b64encode(b"a" * 50_000).decode()
    large = [{"filename": "a.bin", "contentType": "application/octet-stream", "content": content}]
    yield scenario("messages of 20 kB", "small",
                   [*messages(2), *messages(2, expected="invalid_message", attachments=large), *messages(2)])


def refusals(scenario):
    """Each with innocent messages before, between and after, on as few connections as can be."""
    for connections in [1, 5]:
        on = f"{connections} connection{'s' if connections > 1 else ''}"

        def mixed(name, server, *refused, connections=connections):
            posted = [message for one in refused for message in [*messages(2), one, *messages(2)]]
            return scenario(f"{name}, {on}", server, posted, connections=connections)

        unknown = [Message(expected="invalid_recipient", recipient=f"unknown{connections}{n}@{DOMAIN}") for n in range(3)]
        yield mixed("unknown recipients", "plain", *unknown)
        subjects = messages(2, expected="policy_refused", subject="forbidden")
        bodies = messages(2, expected="policy_refused", body="This is forbidden content.")
        yield mixed("header and body checks", "content", *subjects, *bodies)
        refused = [Message(expected="policy_refused", recipient=f"refused{connections}{n}@{DOMAIN}") for n in range(3)]
        yield mixed("550 at the end of DATA", "end-of-data", *refused)
        busy = [Message(recipient=f"busy{connections}{n}@{DOMAIN}") for n in range(3)]
        yield mixed("452 at the end of DATA, once", "end-of-data", *busy)
    yield scenario("greylisting", "greylist", messages(6))
    yield scenario("a sender that is another login's", "owners", messages(2, expected="sender_not_allowed"),
                   sender=f"billing@{DOMAIN}", strategy="immediate")
    yield scenario("a sender that is the login's", "owners", messages(4))


def restart():
    """Alone, because it is every scenario's server."""
    yield Scenario("Postfix is stopped and started", "plain", messages(60), sender=f"desk@{DOMAIN}", restart_after=10,
                   connections=2)
