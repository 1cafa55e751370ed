"""What a backend team does with the Python client that openapi-generator makes of infra/openapi.yaml, against the local
stack: infra/ci/clients.sh runs it."""

import http.server
import os
import threading
import time
from datetime import datetime, timezone

import clinic_comms as comms

CLINIC = "clinic-python"
TIMEOUT = 30  # seconds, for what takes less than one


def api(host=os.environ["API"], token=os.environ["TOKEN"]):
    client = comms.ApiClient(comms.Configuration(host=host, access_token=token))
    return comms.CommunicationsApi(client), comms.SettingsApi(client), comms.OperationsApi(client)


COMMUNICATIONS, SETTINGS, OPERATIONS = api()


def smtp(password=os.environ["SMTP_PASSWORD"]):
    return comms.EmailEntry(
        comms.SmtpEntry(
            id="inbox",
            provider="smtp",
            credentials=comms.SmtpCredentials(
                host="127.0.0.1", port=int(os.environ["SMTP_PORT"]), secure=False, user=os.environ["SMTP_USER"],
                password=comms.Secret(password), max_connections=4)))


def ses(**account):
    credentials = comms.SesCredentials(region="eu-central-1", from_email="desk@clinic.example", **account)
    return comms.EmailEntry(comms.SesEntry(provider="aws_ses", enabled=False, credentials=credentials))


SES_BY_KEY = ses(access_key_id="AKIAIOSFODNN7EXAMPLE", secret_access_key=comms.Secret("example-secret-key-0001"))
SES_BY_ROLE = ses(role_arn="arn:aws:iam::210987654321:role/clinic-ses/mail", external_id=f"{CLINIC}:7f9c2ba4")
SES_BY_TENANT = ses(tenant_name=CLINIC)
SENDGRID = comms.EmailEntry(
    comms.SendgridEntry(
        provider="sendgrid",
        rate_limit=comms.EntryRateLimit(max_per_second=10),
        credentials=comms.SendgridCredentials(
            api_key=comms.Secret("SG.example-key-0001"), from_email="hello@clinic.example", sandbox=True)))
POSTMARK = comms.EmailEntry(
    comms.PostmarkEntry(
        provider="postmark",
        credentials=comms.PostmarkCredentials(
            server_token=comms.Secret("example-server-token-0001"), from_email="hello@clinic.example",
            message_stream="outbound")))
ZEPTOMAIL = comms.EmailEntry(
    comms.ZeptomailEntry(
        provider="zeptomail",
        credentials=comms.ZeptomailCredentials(
            send_mail_token=comms.Secret("example-send-mail-token-0001"), from_email="hello@clinic.example", region="in")))
META = comms.WhatsappEntry(
    comms.MetaEntry(
        provider="meta_business",
        credentials=comms.MetaCredentials(
            api_key=comms.Secret("EAAexample-token-0001"), phone_number_id="123456789",
            api_url="https://graph.facebook.com/v23.0")))


def twilio(**login):
    return comms.WhatsappEntry(
        comms.TwilioEntry(
            provider="twilio",
            credentials=comms.TwilioCredentials(
                account_sid="AC0123456789abcdef0123456789abcdef", from_number="+14155238886",
                templates={"reminder": "HX0123456789abcdef0123456789abcdef"}, **login)))


TWILIO_BY_TOKEN = twilio(auth_token=comms.Secret("example-token-0001"))
TWILIO_BY_KEY = twilio(api_key_sid="SK0123456789abcdef0123456789abcdef", api_key_secret=comms.Secret("example-secret-0001"))


def document(**channels):
    return comms.SettingsDocument(
        settings=comms.Settings(communication_settings=comms.CommunicationSettings(**channels)))


def email(primary, *fallback, **fields):
    return comms.EmailSettings(
        primary=primary, fallback=list(fallback), default_from="desk@clinic.example",
        fallback_strategy=comms.FallbackStrategy(use_global=False, retry_attempts=0), **fields)


def check_round_trip(clinic, saved):
    """Everything that was saved is read back, secrets as markers, and saving that again changes nothing."""
    view = SETTINGS.put_clinic(clinic, saved)
    channels = view.settings.communication_settings
    for channel in ["email", "whatsapp"]:
        wanted, found = getattr(saved.settings.communication_settings, channel), getattr(channels, channel)
        if wanted is None:
            continue
        pairs = zip([wanted.primary, *wanted.fallback], [found.primary, *found.fallback], strict=True)
        for wanted_entry, entry in pairs:
            wanted_entry, entry = wanted_entry.actual_instance, entry.actual_instance
            assert type(entry) is type(wanted_entry), entry
            read = entry.credentials.to_dict()
            for name, value in wanted_entry.credentials.to_dict().items():
                is_secret = isinstance(read[name], dict) and "configured" in read[name]
                assert read[name]["configured"] is True if is_secret else read[name] == value, (name, read)
    again = comms.SettingsDocument.from_dict(SETTINGS.get_clinic(clinic).to_dict())
    assert SETTINGS.put_clinic(clinic, again).version == view.version
    return view


def check_settings():
    chain = [SES_BY_KEY, SES_BY_ROLE, SES_BY_TENANT, SENDGRID]
    limit = comms.RateLimit(max_per_day=5000)
    view = check_round_trip(
        CLINIC,
        document(email=email(smtp(), *chain, rate_limit=limit, on_ambiguous="hold"),
                 whatsapp=comms.WhatsappSettings(primary=META, fallback=[TWILIO_BY_TOKEN])))
    assert view.settings.communication_settings.email.rate_limit.max_per_day == 5000
    # Each provider as the first of a clinic of its own, too.
    for number, entry in enumerate([*chain[:1], SENDGRID, POSTMARK, ZEPTOMAIL]):
        check_round_trip(f"{CLINIC}-email-{number}", document(email=email(entry)))
    for number, entry in enumerate([META, TWILIO_BY_TOKEN, TWILIO_BY_KEY]):
        settings = comms.WhatsappSettings(primary=entry, fallback=[])
        check_round_trip(f"{CLINIC}-whatsapp-{number}", document(whatsapp=settings))

    # By constructors: from_dict puts null in for what is not there, and null removes.
    change = comms.CommunicationSettingsChange(email=comms.ChannelPatch(on_ambiguous="failover"))
    patch = comms.SettingsPatch(settings=comms.SettingsChange(communication_settings=change))
    patched = SETTINGS.patch_clinic(CLINIC, patch, if_match=f'"{view.version}"')
    assert patched.settings.communication_settings.email.on_ambiguous == "failover"
    assert SETTINGS.list_versions(CLINIC, limit=1).versions[0].changed == ["/email/onAmbiguous"]
    assert SETTINGS.restore_version(CLINIC, view.version).version == patched.version + 1
    report = SETTINGS.test_email(CLINIC, comms.TestEmail(entry="inbox", verify_only=True))
    assert report.ok and report.results[0].stages[-1].outcome in ["passed", "skipped"], report
    health = SETTINGS.get_provider_health(CLINIC)
    assert [entry.provider for entry in health.providers][0] == "smtp"


def communication(clinic, *recipients, **fields):
    return comms.Communication(
        title="Appointment confirmed", body="See you on Monday at 10:00.", channels=[comms.Channel.EMAIL],
        recipients=[comms.Recipient.from_dict(recipient) for recipient in recipients],
        metadata=comms.Metadata.from_dict({"clinicId": clinic, "appointmentId": "appt-456"}), **fields)


PAT = {"email": "pat@example.com", "name": "Pat Example"}


def check_sending():
    bill = comms.Attachment(filename="bill.pdf", content_type="application/pdf", content="JVBERi0xLjcK")
    queued = communication(
        CLINIC, PAT, priority="high", attachments=[bill], expires_at=datetime(2099, 12, 1, 10, tzinfo=timezone.utc))
    answer = COMMUNICATIONS.post_communication(queued, idempotency_key="python-1")
    assert answer.status == comms.CommunicationOutcome.QUEUED, answer
    again = COMMUNICATIONS.post_communication_with_http_info(queued, idempotency_key="python-1")
    assert again.data.request_id == answer.request_id
    assert again.headers["idempotency-replayed"] == "true", again.headers
    begin = time.monotonic()
    while (status := COMMUNICATIONS.get_communication(answer.request_id)).deliveries[0].status in ["queued", "sending"]:
        assert time.monotonic() - begin < TIMEOUT, status
        time.sleep(0.05)
    assert status.clinic_id == CLINIC and status.deliveries[0].status == "sent", status
    assert status.deliveries[0].attempts[0].outcome == "accepted"
    found = COMMUNICATIONS.find_communication(idempotency_key="python-1", clinic_id=CLINIC)
    assert found.request_id == answer.request_id and found.replayed == 1, found

    def now(*recipients, clinic=CLINIC):
        return COMMUNICATIONS.post_communication_with_http_info(
            communication(clinic, *recipients, strategy="immediate"))

    sent = now(PAT)
    assert (sent.status_code, sent.data.status) == (200, "sent"), sent
    partly = now(PAT, {"phoneNumber": "+15550100"})
    assert (partly.status_code, partly.data.status) == (207, "partial"), partly
    # The answer to a message that nobody took is of the same type.
    SETTINGS.put_clinic(f"{CLINIC}-refused", document(email=email(smtp("not-the-password"))))
    failed = now(PAT, clinic=f"{CLINIC}-refused")
    assert (failed.status_code, failed.data.status) == (207, "failed"), failed
    delivery = failed.data.deliveries[0]
    assert delivery.reason.code == "ALL_PROVIDERS_FAILED", delivery
    assert delivery.attempts[0].kind == comms.ErrorKind.UNAUTHENTICATED, delivery
    for params in [["Monday", "10:00"], comms.TemplateParts(body=["Monday"], buttons=["appt-456"])]:
        template = comms.Communication(
            channels=["whatsapp"], recipients=[comms.Recipient(phone_number="+15550100")], template_id="reminder",
            language="en_US", template_params=comms.TemplateParams(params),
            metadata=comms.Metadata(clinic_id=f"{CLINIC}-nobody"))
        assert COMMUNICATIONS.post_communication(template).status == "queued"


def refused(call):
    try:
        call()
    except comms.ApiException as error:
        return error
    raise AssertionError("it was not refused")


def check_errors():
    error = refused(lambda: COMMUNICATIONS.post_communication(
        communication(CLINIC, PAT, cc=["pat@example.com"])))
    assert (error.status, error.data.code) == (422, "invalid_request"), error
    assert [field.pointer for field in error.data.errors] == ["/cc/0"], error
    assert refused(lambda: COMMUNICATIONS.get_communication("0" * 32)).data.code == "not_found"
    communications, _, _ = api(token="not-a-token")
    error = refused(lambda: communications.get_communication("0" * 32))
    assert (error.status, error.data.message) == (401, "Unauthorized"), error


class Gateway(http.server.BaseHTTPRequestHandler):
    """API Gateway, which throttles everybody."""

    def do_POST(self):
        body = b'{"message":"Too Many Requests"}'
        self.send_response(429)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def check_gateway():
    """What API Gateway answers by itself, in place of one of our problems, can be read as well."""
    with http.server.HTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        communications, _, _ = api(host=f"http://127.0.0.1:{server.server_port}")
        error = refused(lambda: communications.post_communication(communication(CLINIC, PAT)))
        server.shutdown()
    assert (error.status, error.data.actual_instance.message) == (429, "Too Many Requests"), error


if __name__ == "__main__":
    assert OPERATIONS.get_health().status == "ok"
    check_settings()
    check_sending()
    check_errors()
    check_gateway()
    stats = SETTINGS.get_stats(CLINIC)
    assert stats.totals["email"].sent == 3, stats
    SETTINGS.delete_clinic(CLINIC)
    assert refused(lambda: SETTINGS.get_clinic(CLINIC)).data.code == "not_found"
    print("the Python client works: every provider saved and read, messages posted and followed, errors typed")
