// Posts a communication with fetch and waits for its outcome. API is the API's address, TOKEN a token with the role SERVICE or
// CLINIC_ADMIN.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

/** A problem (RFC 9457): a code for programs, a sentence for people, a JSON pointer for each wrong field. */
interface Problem {
  code: string;
  detail: string;
  errors?: { pointer: string; detail: string }[];
}

interface Communication {
  requestId: string;
  deliveries: {
    status: "queued" | "sending" | "sent" | "failed" | "unknown" | "expired";
    /** Why it was not sent. */
    reason?: { code: string; detail: string };
  }[];
}

const MAX_TRIES = 5;
const MAX_POLLS = 60;

const { API, TOKEN } = process.env;

/** Repeats what the service says may be repeated: 429 and 503, after `Retry-After` seconds. */
async function call(method: string, path: string, body?: object, headers: Record<string, string> = {}): Promise<Communication> {
  for (let attempt = 1; ; attempt++) {
    const answer = await fetch(`${API}${path}`, {
      method,
      headers: { Authorization: `Bearer ${TOKEN}`, "Content-Type": "application/json", ...headers },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(30_000),
    });
    if (answer.ok) return (await answer.json()) as Communication;
    if (![429, 503].includes(answer.status) || attempt === MAX_TRIES) {
      const problem = (await answer.json()) as Problem;
      throw new Error(`${answer.status} ${problem.code}: ${problem.detail} ${JSON.stringify(problem.errors ?? [])}`);
    }
    await sleep(1_000 * Number(answer.headers.get("retry-after") ?? 1));
  }
}

async function main(): Promise<void> {
  const communication = {
    category: "appointment",
    channels: ["email"],
    title: "Appointment confirmed",
    body: "See you on Monday at 10:00.",
    recipients: [{ email: "patient@example.com", name: "A. Patient" }],
    metadata: { clinicId: "clinic-123" },
  };
  // The same key for every try: what was accepted once is not sent twice.
  const key = { "Idempotency-Key": `example-typescript-${randomUUID()}` };
  const { requestId } = await call("POST", "/api/v1/communications", communication, key);
  let status = "queued";
  let why = "";
  for (let poll = 0; poll < MAX_POLLS && ["queued", "sending"].includes(status); poll++) {
    const [delivery] = (await call("GET", `/api/v1/communications/${requestId}`)).deliveries;
    status = delivery?.status ?? status;
    if (delivery?.reason) why = ` (${delivery.reason.code}: ${delivery.reason.detail})`;
    if (["queued", "sending"].includes(status)) await sleep(1_000);
  }
  console.log(`${requestId}: ${status}${why}`);
  process.exitCode = status === "sent" ? 0 : 1;
}

void main();
