// What a web front end does with the typescript-fetch client that openapi-generator makes of infra/openapi.yaml, against
// the local stack: infra/ci/clients.sh runs it.

import { strict as assert } from "node:assert";
import {
  Channel,
  CommunicationFromJSON,
  CommunicationOutcome,
  CommunicationsApi,
  Configuration,
  OperationsApi,
  ProblemFromJSON,
  ResponseError,
  SettingsApi,
  SettingsDocumentFromJSON,
  SettingsViewToJSON,
} from "./typescript-fetch";
import type {
  Communication,
  CommunicationSettings,
  EmailEntry,
  EmailSettings,
  MetaEntry,
  Recipient,
  SettingsDocument,
  SettingsView,
  TwilioCredentials,
  TwilioEntry,
} from "./typescript-fetch";

const CLINIC = "clinic-typescript";
const environment = (name: string) => process.env[name] ?? assert.fail(name);
const configuration = new Configuration({ basePath: environment("API"), accessToken: environment("TOKEN") });
const communications = new CommunicationsApi(configuration);
const settings = new SettingsApi(configuration);

const smtp = (password: string): EmailEntry => ({
  id: "inbox",
  provider: "smtp",
  credentials: {
    host: "127.0.0.1",
    port: Number(environment("SMTP_PORT")),
    secure: false,
    user: environment("SMTP_USER"),
    password,
  },
});
const fromEmail = "desk@clinic.example";
const region = "eu-central-1";
const emails: EmailEntry[] = [
  {
    provider: "aws_ses",
    credentials: { region, fromEmail, accessKeyId: "AKIAIOSFODNN7EXAMPLE", secretAccessKey: "example-secret-key-0001" },
  },
  {
    provider: "aws_ses",
    credentials: { region, fromEmail, roleArn: "arn:aws:iam::210987654321:role/mail", externalId: `${CLINIC}:1` },
  },
  { provider: "aws_ses", credentials: { region, fromEmail, tenantName: CLINIC } },
  { provider: "sendgrid", rateLimit: { maxPerSecond: 10 }, credentials: { apiKey: "SG.example-key-0001", fromEmail } },
];
const postmark: EmailEntry = {
  provider: "postmark",
  credentials: { serverToken: "example-server-token-0001", fromEmail, messageStream: "outbound" },
};
const zeptomail: EmailEntry = {
  provider: "zeptomail",
  credentials: { sendMailToken: "example-send-mail-token-0001", fromEmail, region: "in" },
};
const meta: MetaEntry = {
  provider: "meta_business",
  credentials: { apiKey: "EAAexample-token-0001", phoneNumberId: "123456789" },
};
const twilio = (login: Partial<TwilioCredentials>): TwilioEntry => ({
  provider: "twilio",
  enabled: false,
  credentials: {
    accountSid: "AC0123456789abcdef0123456789abcdef",
    fromNumber: "+14155238886",
    templates: { reminder: "HX0123456789abcdef0123456789abcdef" },
    ...login,
  },
});
const twilios = [
  twilio({ authToken: "example-token-0001" }),
  twilio({ apiKeySid: "SK0123456789abcdef0123456789abcdef", apiKeySecret: "example-secret-0001" }),
];

const documentOf = (communicationSettings: CommunicationSettings): SettingsDocument => ({
  settings: { communicationSettings },
});
const email = (primary: EmailEntry, ...fallback: EmailEntry[]): EmailSettings => ({
  primary,
  fallback,
  defaultFrom: fromEmail,
  fallbackStrategy: { useGlobal: false, retryAttempts: 0 },
});

type Entry = { provider: string; credentials: object };
const entriesOf = ({ email, whatsapp }: CommunicationSettings): Entry[] =>
  [email, whatsapp].flatMap((channel) => (channel ? [channel.primary, ...(channel.fallback ?? [])] : []));

// Everything that was saved is read back, secrets as markers, and saving that again changes nothing.
async function checkRoundTrip(clinicId: string, saved: SettingsDocument): Promise<SettingsView> {
  const view = await settings.putClinic({ clinicId, settingsDocument: saved });
  const wanted = entriesOf(saved.settings.communicationSettings);
  const found = entriesOf(view.settings.communicationSettings);
  assert.equal(found.length, wanted.length);
  wanted.forEach((entry, at) => {
    assert.equal(found[at].provider, entry.provider);
    const read = new Map(Object.entries(found[at].credentials));
    for (const [name, value] of Object.entries(entry.credentials)) {
      if (read.get(name)?.configured === undefined) {
        assert.deepEqual(read.get(name), value, name);
      } else {
        assert.equal(read.get(name).configured, true, name);
      }
    }
  });
  const again = SettingsDocumentFromJSON(SettingsViewToJSON(await settings.getClinic({ clinicId })));
  assert.equal((await settings.putClinic({ clinicId, settingsDocument: again })).version, view.version);
  return view;
}

async function checkSettings() {
  const whatsapp = { primary: meta, fallback: twilios.slice(0, 1) };
  const view = await checkRoundTrip(CLINIC, documentOf({ email: email(smtp(environment("SMTP_PASSWORD")), ...emails), whatsapp }));
  for (const [at, primary] of [emails[0], emails[3], postmark, zeptomail].entries()) {
    await checkRoundTrip(`${CLINIC}-email-${at}`, documentOf({ email: email(primary) }));
  }
  for (const [at, primary] of [meta, ...twilios].entries()) {
    await checkRoundTrip(`${CLINIC}-whatsapp-${at}`, documentOf({ whatsapp: { primary } }));
  }
  const patched = await settings.patchClinic({
    clinicId: CLINIC,
    ifMatch: `"${view.version}"`,
    settingsPatch: { settings: { communicationSettings: { email: { onAmbiguous: "hold" } } } },
  });
  assert.equal(patched.settings.communicationSettings.email?.onAmbiguous, "hold");
  const entry = view.settings.communicationSettings.email?.primary;
  // The provider tells which credentials these are.
  assert.ok(entry?.provider === "smtp" && entry.credentials.host === "127.0.0.1");
}

const communication = (clinicId: string, recipients: Recipient[], more: Partial<Communication> = {}): Communication => ({
  title: "Appointment confirmed",
  body: "See you on Monday at 10:00.",
  channels: [Channel.Email],
  recipients,
  metadata: { clinicId, appointmentId: "appt-456" },
  ...more,
});
const pat: Recipient = { email: "pat@example.com", name: "Pat Example" };

async function checkSending() {
  const queued = communication(CLINIC, [pat], {
    expiresAt: new Date("2099-12-01T10:00:00Z"),
    attachments: [{ filename: "bill.pdf", contentType: "application/pdf", content: "JVBERi0xLjcK" }],
  });
  const answer = await communications.postCommunication({ communication: queued, idempotencyKey: "typescript-1" });
  assert.equal(answer.status, CommunicationOutcome.Queued);
  const begin = Date.now();
  let status = await communications.getCommunication({ requestId: answer.requestId });
  while (["queued", "sending"].includes(status.deliveries[0].status)) {
    assert.ok(Date.now() - begin < 30_000, JSON.stringify(status));
    await new Promise((done) => setTimeout(done, 50));
    status = await communications.getCommunication({ requestId: answer.requestId });
  }
  assert.equal(status.clinicId, CLINIC);
  assert.equal(status.deliveries[0].status, "sent", JSON.stringify(status));

  await settings.putClinic({
    clinicId: `${CLINIC}-refused`,
    settingsDocument: documentOf({ email: email(smtp("not-the-password")) }),
  });
  const cases: [string, Recipient[], CommunicationOutcome, number][] = [
    [CLINIC, [pat], "sent", 200],
    [CLINIC, [pat, { phoneNumber: "+15550100" }], "partial", 207],
    [`${CLINIC}-refused`, [pat], "failed", 207],
  ];
  for (const [clinic, recipients, outcome, code] of cases) {
    const posted = communication(clinic, recipients, { strategy: "immediate" });
    const answer = await communications.postCommunicationRaw({ communication: posted });
    const result = await answer.value();
    assert.equal(result.status, outcome, JSON.stringify(result));
    assert.equal(answer.raw.status, code);
    if (outcome === "failed") {
      assert.equal(result.deliveries[0].attempts[0].kind, "unauthenticated");
      assert.equal(result.deliveries[0].reason?.code, "ALL_PROVIDERS_FAILED");
    }
  }
  for (const templateParams of [["Monday"], { body: ["Monday"], buttons: ["appt-456"] }]) {
    const template: Communication = {
      channels: ["whatsapp"],
      recipients: [{ phoneNumber: "+15550100" }],
      templateId: "reminder",
      templateParams,
      metadata: { clinicId: `${CLINIC}-nobody` },
    };
    assert.equal((await communications.postCommunication({ communication: template })).status, "queued");
  }
}

async function checkErrors() {
  const wrong = CommunicationFromJSON({ channels: ["email"], recipients: [{ email: "nobody" }], title: "t", body: "b" });
  const refused = await communications.postCommunication({ communication: wrong }).catch((error: unknown) => error);
  assert.ok(refused instanceof ResponseError && refused.response.status === 422);
  const problem = ProblemFromJSON(await refused.response.json());
  assert.equal(problem.code, "invalid_request");
  assert.deepEqual(problem.errors?.map((error) => error.pointer), ["/recipients/0/email"]);
}

async function main() {
  assert.equal((await new OperationsApi(configuration).getHealth()).status, "ok");
  await checkSettings();
  await checkSending();
  await checkErrors();
  const stats = await settings.getStats({ clinicId: CLINIC, from: new Date() });
  assert.equal(stats.totals.email.sent, 3);
  console.log("the typescript-fetch client works: every provider saved and read, messages posted and followed, errors typed");
}

void main();
