"""Real Postfix, Dovecot and postgrey in the foreground, with configuration and spool directories of their own, on addresses
of the loopback network. Nothing of /etc/postfix or /etc/dovecot is used."""

import os
import pwd
import shutil
import signal
import socket
import socketserver
import subprocess
import textwrap
import threading
import time
from pathlib import Path

DOMAIN = "mail.test"
PASSWORD = "app-password-0001"
USERS = ["desk", "billing", *(f"user{number}" for number in range(40))]
TIMEOUT = 30  # seconds, for what takes one or two

# One address for each server that a clinic can have. What is not in `options` is as PLAIN.
SUBMISSION = {
    "plain": ("127.0.1.1", {}),
    "login": ("127.0.1.2", {"smtpd_sasl_mechanism_filter": "login"}),
    # PLAIN is offered and answered 501: the command is changed on its way into smtpd.
    "no-plain": ("127.0.1.3", {"smtpd_command_filter": "regexp:$config_directory/no-plain"}),
    "two-connections": ("127.0.1.4", {"smtpd_client_connection_count_limit": "2"}),
    "connection-rate": ("127.0.1.5", {"smtpd_client_connection_rate_limit": "5"}),
    "three-recipients": ("127.0.1.6", {"smtpd_recipient_limit": "3"}),
    "small": ("127.0.1.7", {"message_size_limit": "20000"}),
    "owners": ("127.0.1.8", {"smtpd_sender_restrictions": "reject_sender_login_mismatch"}),
    "content": ("127.0.1.9", {"cleanup_service_name": "checks"}),
    "greylist": ("127.0.1.10", {"smtpd_recipient_restrictions": "check_policy_service,inet:127.0.1.40:10023,permit"}),
    "end-of-data": ("127.0.1.11", {"smtpd_end_of_data_restrictions": "check_policy_service,inet:127.0.1.40:10024"}),
    # As `openssl req -x509` makes them, and as some panels do.
    "own-authority": ("127.0.1.12", {"smtpd_tls_chain_files": "$config_directory/authority.pem"}),
    "no-authority": ("127.0.1.13", {"smtpd_tls_chain_files": "$config_directory/no-authority.pem"}),
}
DOVECOT = "127.0.1.20"
DOVECOT_CONNECTIONS = 3
RELAY = "127.0.1.30"
POLICY = "127.0.1.40"


def wait_for(what, is_there, timeout=TIMEOUT):
    begin = time.monotonic()
    while not is_there():
        if time.monotonic() - begin > timeout:
            raise TimeoutError(f"{what}: not there after {timeout} s")
        time.sleep(0.05)


def listens(address, port):
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options)


class Certificates:
    """A certificate authority with one certificate for all addresses, and certificates that no authority has signed."""

    def __init__(self, directory):
        addresses = [address for address, _ in SUBMISSION.values()] + [DOVECOT]
        names = ",".join(f"IP:{address}" for address in addresses)
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        run("openssl", "req", "-x509", *key, "-subj", "/CN=Test CA", "-keyout", "ca.key", "-out", "ca.pem", cwd=directory)
        run("openssl", "req", *key[:-2], "-subj", f"/CN={DOMAIN}", "-keyout", "server.key", "-out", "server.csr", cwd=directory)
        (directory / "extensions").write_text(f"subjectAltName={names}\nbasicConstraints=CA:FALSE\n")
        run("openssl", "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days",
            "2", "-extfile", "extensions", "-out", "server.crt", cwd=directory)
        (directory / "server.pem").write_text(self.text(directory, "server.key", "server.crt"))
        self.pem = {"ca": self.text(directory, "ca.pem")}
        for name, is_authority in [("authority", "TRUE"), ("no-authority", "FALSE")]:
            run("openssl", "req", "-x509", *key, "-subj", f"/CN={DOMAIN}", "-addext", f"subjectAltName={names}", "-addext",
                f"basicConstraints=critical,CA:{is_authority}", "-keyout", "self.key", "-out", "self.crt", cwd=directory)
            (directory / f"{name}.pem").write_text(self.text(directory, "self.key", "self.crt"))
            self.pem[name] = self.text(directory, "self.crt")

    @staticmethod
    def text(directory, *names):
        return "".join((directory / name).read_text() for name in names)


class Policy(socketserver.ThreadingTCPServer):
    """What Postfix asks at the end of DATA (SMTPD_POLICY_README): refuses what the recipient's name says."""

    allow_reuse_address = daemon_threads = True

    def __init__(self):
        self.seen = {}
        super().__init__((POLICY, 10024), PolicyHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def action(self, recipient):
        count = self.seen[recipient] = self.seen.get(recipient, 0) + 1
        if recipient.startswith("refused"):
            return "550 5.7.1 Message refused by policy"
        if recipient.startswith("busy") and count == 1:
            return "452 4.3.1 Insufficient system storage"
        return "DUNNO"


class PolicyHandler(socketserver.StreamRequestHandler):
    def handle(self):
        attributes = {}
        for line in self.rfile:
            name, equals, value = line.decode().rstrip("\n").partition("=")
            if equals:
                attributes[name] = value
                continue
            action = self.server.action(attributes.get("recipient", ""))
            self.wfile.write(f"action={action}\n\n".encode())
            attributes = {}


class Dovecot:
    """Passwords for Postfix, and a submission server of its own that gives everything to Postfix."""

    def __init__(self, work, certificates):
        self.directory = work / "dovecot"
        self.directory.mkdir(mode=0o755)
        self.log = self.directory / "log"
        users = "".join(f"{user}@{DOMAIN}:{{PLAIN}}{PASSWORD}::::/nonexistent::\n" for user in USERS)
        (self.directory / "users").write_text(users)
        (self.directory / "users").chmod(0o644)
        uid = pwd.getpwnam("nobody")
        (self.directory / "dovecot.conf").write_text(textwrap.dedent(f"""\
            base_dir = {self.directory}/run
            state_dir = {self.directory}/state
            log_path = {self.log}
            auth_verbose = yes
            protocols = submission
            listen = {DOVECOT}
            auth_mechanisms = plain login
            # It would answer a wrong password after seconds.
            auth_failure_delay = 0
            first_valid_uid = 1
            mail_location = maildir:{work}/dovecot/home/%n
            hostname = {DOMAIN}
            ssl = required
            ssl_cert = <{certificates}/server.crt
            ssl_key = <{certificates}/server.key
            submission_relay_host = {RELAY}
            submission_relay_port = 10025
            submission_relay_trusted = yes
            passdb {{
              driver = passwd-file
              args = username_format=%u {self.directory}/users
            }}
            userdb {{
              driver = static
              args = uid={uid.pw_uid} gid={uid.pw_gid} home={self.directory}/home/%n
            }}
            protocol submission {{
              mail_max_userip_connections = {DOVECOT_CONNECTIONS}
            }}
            service submission-login {{
              inet_listener submission {{
                port = 587
              }}
              inet_listener submissions {{
                port = 465
                ssl = yes
              }}
            }}
            service auth {{
              unix_listener {work}/postfix/spool/private/auth {{
                mode = 0666
              }}
            }}
            service anvil {{
              unix_listener anvil-auth-penalty {{
                mode = 0
              }}
            }}
            """))
        home = self.directory / "home"
        home.mkdir()
        os.chown(home, uid.pw_uid, uid.pw_gid)
        self.process = None

    def start(self):
        self.process = subprocess.Popen(["dovecot", "-F", "-c", self.directory / "dovecot.conf"])
        wait_for("dovecot", lambda: listens(DOVECOT, 587) and listens(DOVECOT, 465))

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(TIMEOUT)


class Postfix:
    """All of SUBMISSION by one Postfix: an smtpd for STARTTLS and one for TLS from the start at each address."""

    def __init__(self, work, certificates):
        self.directory, self.spool, self.data = (work / "postfix" / name for name in ["etc", "spool", "data"])
        for directory in [self.directory, self.spool, self.spool / "private"]:
            directory.mkdir(parents=True, mode=0o755)
        self.data.mkdir(mode=0o700)
        shutil.chown(self.data, "postfix")
        shutil.chown(self.spool / "private", "postfix")
        self.log = work / "postfix" / "log"
        self.mailbox = work / "mailbox"
        self.mailbox.mkdir(mode=0o700)
        nobody = pwd.getpwnam("nobody")
        os.chown(self.mailbox, nobody.pw_uid, nobody.pw_gid)
        for name in ["server.pem", "authority.pem", "no-authority.pem"]:
            shutil.copy(certificates / name, self.directory / name)
        (self.directory / "no-plain").write_text("/^AUTH PLAIN.*/ AUTH\n")
        (self.directory / "mailboxes").write_text(
            "if !/^unknown/\n/^[^@]+@mail\\.test$/ inbox/\nendif\n")
        owners = "".join(f"/^{user}@mail\\.test$/ {user}@{DOMAIN}\n" for user in USERS)
        (self.directory / "owners").write_text(owners)
        (self.directory / "header-checks").write_text("/^Subject:.*forbidden/ REJECT 5.7.1 This subject is refused\n")
        (self.directory / "body-checks").write_text("/forbidden content/ REJECT 5.7.1 This content is refused\n")
        (self.directory / "main.cf").write_text(textwrap.dedent(f"""\
            compatibility_level = 3.6
            queue_directory = {self.spool}
            data_directory = {self.data}
            maillog_file = {self.log}
            maillog_file_prefixes = {work}
            myhostname = {DOMAIN}
            mydestination =
            mynetworks =
            inet_protocols = ipv4
            alias_maps =
            local_recipient_maps =
            smtpd_client_event_limit_exceptions =
            # The unit of smtpd_client_connection_rate_limit.
            anvil_rate_time_unit = 5s
            default_transport = error:this server sends nothing on
            virtual_mailbox_domains = {DOMAIN}
            virtual_mailbox_base = {self.mailbox}
            virtual_mailbox_maps = regexp:$config_directory/mailboxes
            virtual_uid_maps = static:{nobody.pw_uid}
            virtual_gid_maps = static:{nobody.pw_gid}
            virtual_minimum_uid = 1
            virtual_mailbox_limit = 0
            virtual_transport = virtual
            smtpd_tls_chain_files = $config_directory/server.pem
            smtpd_tls_auth_only = yes
            smtpd_sasl_type = dovecot
            smtpd_sasl_path = private/auth
            smtpd_sasl_local_domain = $myhostname
            smtpd_sender_login_maps = regexp:$config_directory/owners
            smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject
            smtpd_helo_required = yes
            smtpd_error_sleep_time = 0
            smtpd_hard_error_limit = 100
            message_size_limit = 50000000
            """))
        services = []
        for address, options in SUBMISSION.values():
            given = "".join(f"\n  -o {name}={value}" for name, value in options.items())
            common = f"\n  -o smtpd_sasl_auth_enable=yes{given}"
            services.append(f"{address}:587 inet n - n - - smtpd\n  -o smtpd_tls_security_level=encrypt{common}")
            services.append(f"{address}:465 inet n - n - - smtpd\n  -o smtpd_tls_wrappermode=yes{common}")
        services.append(f"{RELAY}:10025 inet n - n - - smtpd\n  -o mynetworks=127.0.0.0/8")
        (self.directory / "master.cf").write_text("\n".join(services) + textwrap.dedent("""
            cleanup unix n - n - 0 cleanup
            checks unix n - n - 0 cleanup
              -o header_checks=regexp:$config_directory/header-checks
              -o body_checks=regexp:$config_directory/body-checks
            qmgr unix n - n 300 1 qmgr
            tlsmgr unix - - n 1000? 1 tlsmgr
            rewrite unix - - n - - trivial-rewrite
            bounce unix - - n - 0 bounce
            defer unix - - n - 0 bounce
            trace unix - - n - 0 bounce
            verify unix - - n - 1 verify
            proxymap unix - - n - - proxymap
            error unix - - n - - error
            retry unix - - n - - error
            discard unix - - n - - discard
            virtual unix - n n - - virtual
            anvil unix - - n - 1 anvil
            scache unix - - n - 1 scache
            postlog unix-dgram n - n - 1 postlogd
            """))
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            ["postfix", "-c", self.directory, "start-fg"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(f"postfix (see {self.log})", lambda: all(
            listens(address, port) for address, _ in SUBMISSION.values() for port in [587, 465]))

    def stop(self):
        if self.process:
            subprocess.run(["postfix", "-c", self.directory, "stop"], capture_output=True, check=False)
            self.process.wait(TIMEOUT)
            self.process = None

    def messages(self):
        """Every message that was delivered. Postfix delivers what it has accepted at once."""
        wait_for("an empty queue", lambda: not any(
            file for name in ["incoming", "active", "maildrop"] for file in (self.spool / name).rglob("*") if file.is_file()))
        return [file.read_bytes() for file in (self.mailbox / "inbox").glob("new/*")]


class Postgrey:
    def __init__(self, work):
        self.directory = work / "postgrey"
        self.directory.mkdir()
        shutil.chown(self.directory, "postgrey", "postgrey")
        self.process = None

    def start(self):
        empty = self.directory / "whitelist"
        empty.write_text("")
        self.process = subprocess.Popen(
            ["postgrey", f"--inet={POLICY}:10023", "--delay=5", f"--dbdir={self.directory}", f"--whitelist-clients={empty}",
             f"--whitelist-recipients={empty}", "--auto-whitelist-clients=0", "--user=postgrey", "--group=postgrey"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("postgrey", lambda: listens(POLICY, 10023))

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(TIMEOUT)


class Servers:
    def __init__(self, work):
        certificates = work / "certificates"
        certificates.mkdir()
        self.certificates = Certificates(certificates)
        self.policy = Policy()
        self.postfix = Postfix(work, certificates)
        self.dovecot = Dovecot(work, certificates)
        self.postgrey = Postgrey(work)

    def start(self):
        for server in [self.dovecot, self.postgrey, self.postfix]:
            server.start()

    def stop(self):
        for server in [self.postfix, self.postgrey, self.dovecot]:
            server.stop()
