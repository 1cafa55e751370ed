// What a program does with the types that openapi-typescript makes of infra/openapi.yaml, by openapi-fetch, against the
// local stack: infra/ci/clients.sh runs it.

import { strict as assert } from "node:assert";
import createClient from "openapi-fetch";
import type { components, paths } from "./openapi-typescript";

type Schemas = components["schemas"];

const CLINIC = "clinic-openapi";
const environment = (name: string) => process.env[name] ?? assert.fail(name);
const client = createClient<paths>({
  baseUrl: environment("API"),
  headers: { Authorization: `Bearer ${environment("TOKEN")}` },
});

const smtp = (password: string): Schemas["SmtpEntry"] => ({
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
const emails: Schemas["EmailEntry"][] = [
  smtp(environment("SMTP_PASSWORD")),
  {
    provider: "aws_ses",
    credentials: { region, fromEmail, accessKeyId: "AKIAIOSFODNN7EXAMPLE", secretAccessKey: "example-secret-key-0001" },
  },
  {
    provider: "aws_ses",
    credentials: { region, fromEmail, roleArn: "arn:aws:iam::210987654321:role/mail", externalId: `${CLINIC}:1` },
  },
  { provider: "aws_ses", credentials: { region, fromEmail, tenantName: CLINIC } },
  { provider: "sendgrid", credentials: { apiKey: "SG.example-key-0001", fromEmail, sandbox: true } },
];
const accountSid = "AC0123456789abcdef0123456789abcdef";
const fromNumber = "+14155238886";
const whatsapps: Schemas["WhatsappEntry"][] = [
  { provider: "meta_business", credentials: { apiKey: "EAAexample-token-0001", phoneNumberId: "123456789" } },
  { provider: "twilio", credentials: { accountSid, fromNumber, authToken: "example-token-0001" } },
  {
    provider: "twilio",
    credentials: {
      accountSid,
      fromNumber,
      apiKeySid: "SK0123456789abcdef0123456789abcdef",
      apiKeySecret: "example-secret-0001",
    },
  },
];

async function put(clinicId: string, communicationSettings: Schemas["CommunicationSettings"]) {
  const { data, error } = await client.PUT("/api/v1/clinics/{clinicId}", {
    params: { path: { clinicId } },
    body: { settings: { communicationSettings } },
  });
  assert.ok(data, JSON.stringify(error));
  return data;
}

async function checkSettings() {
  const defaultFrom = fromEmail;
  const fallbackStrategy = { useGlobal: false, retryAttempts: 0 };
  const emailOf = (primary: Schemas["EmailEntry"], ...fallback: Schemas["EmailEntry"][]) => ({
    primary,
    fallback,
    defaultFrom,
    fallbackStrategy,
  });
  const [first, ...others] = emails;
  const [meta, ...twilios] = whatsapps;
  const saved = await put(CLINIC, { email: emailOf(first, ...others), whatsapp: { primary: meta, fallback: twilios } });
  const { data: view } = await client.GET("/api/v1/clinics/{clinicId}", { params: { path: { clinicId: CLINIC } } });
  assert.ok(view);
  assert.deepEqual(view.settings, saved.settings);
  const providers = ({ primary, fallback }: { primary: { provider: string }; fallback?: { provider: string }[] }) =>
    [primary, ...(fallback ?? [])].map((entry) => entry.provider);
  const { email, whatsapp } = view.settings.communicationSettings;
  assert.ok(email && whatsapp);
  assert.deepEqual(providers(email), emails.map((entry) => entry.provider));
  assert.deepEqual(providers(whatsapp), whatsapps.map((entry) => entry.provider));
  // The provider tells which credentials these are.
  assert.ok(email.primary.provider === "smtp" && email.primary.credentials.host === "127.0.0.1");
  assert.deepEqual(email.primary.credentials.password, { configured: true, last4: environment("SMTP_PASSWORD").slice(-4) });
  assert.equal((await put(CLINIC, view.settings.communicationSettings)).version, view.version);
  await put(`${CLINIC}-refused`, { email: emailOf(smtp("not-the-password")) });

  const patched = await client.PATCH("/api/v1/clinics/{clinicId}", {
    params: { path: { clinicId: CLINIC }, header: { "If-Match": `"${view.version}"` } },
    body: { settings: { communicationSettings: { email: { rateLimit: { maxPerDay: 5000 } }, whatsapp: null } } },
  });
  assert.equal(patched.data?.settings.communicationSettings.email?.rateLimit?.maxPerDay, 5000);
  assert.equal(patched.data?.settings.communicationSettings.whatsapp, undefined);
}

async function post(clinicId: string, strategy: Schemas["Communication"]["strategy"], recipients: Schemas["Recipient"][]) {
  const { data, error, response } = await client.POST("/api/v1/communications", {
    body: { title: "Reminder", body: "Tomorrow at 10:00.", channels: ["email"], strategy, recipients, metadata: { clinicId } },
  });
  assert.ok(data, JSON.stringify(error));
  return { ...data, code: response.status };
}

async function checkSending() {
  const pat = { email: "pat@example.com" };
  const queued = await post(CLINIC, "queued", [pat]);
  assert.equal(queued.status, "queued");
  const begin = Date.now();
  for (;;) {
    const { data } = await client.GET("/api/v1/communications/{requestId}", {
      params: { path: { requestId: queued.requestId } },
    });
    assert.ok(data && Date.now() - begin < 30_000, JSON.stringify(data));
    if (data.deliveries[0].status === "sent") {
      break;
    }
    await new Promise((done) => setTimeout(done, 50));
  }
  const sent = await post(CLINIC, "immediate", [pat]);
  assert.deepEqual([sent.status, sent.code], ["sent", 200]);
  const partly = await post(CLINIC, "immediate", [pat, { phoneNumber: "+15550100" }]);
  assert.deepEqual([partly.status, partly.code], ["partial", 207]);
  const failed = await post(`${CLINIC}-refused`, "immediate", [pat]);
  assert.deepEqual([failed.status, failed.code], ["failed", 207]);
  assert.equal(failed.deliveries[0].attempts[0].kind, "unauthenticated");
}

async function checkErrors() {
  const { error, response } = await client.POST("/api/v1/communications", {
    body: { title: "t", body: "b", channels: ["email"], recipients: [{ email: "nobody" }] },
  });
  assert.equal(response.status, 422);
  // Ours or API Gateway's.
  assert.ok(error && "code" in error && error.code === "invalid_request", JSON.stringify(error));
  assert.deepEqual(error.errors?.map((one) => one.pointer), ["/recipients/0/email"]);
}

async function main() {
  const { data: health } = await client.GET("/api/v1/health");
  assert.equal(health?.status, "ok");
  await checkSettings();
  await checkSending();
  await checkErrors();
  console.log("the types of openapi-typescript work: every provider saved and read, messages posted and followed, errors typed");
}

void main();
