// nodemailer's pool as shipped, over STARTTLS: `node nodemailer.js PORT CONNECTIONS MESSAGES`, the trust root in CA_PEM,
// text and HTML in TEXT and HTML. Prints the seconds it took and the seconds of CPU; starting Node is in neither.
'use strict';
const { createTransport } = require('nodemailer');

const [port, connections, messages] = process.argv.slice(2).map(Number);
const transport = createTransport({
  host: '127.0.0.1',
  port,
  pool: true,
  maxConnections: connections,
  requireTLS: true,
  auth: { user: 'user', pass: 'password' },
  tls: { ca: process.env.CA_PEM },
});
const send = () => transport.sendMail({
  from: '"Clinic" <appointments@clinic.example>',
  to: 'patient@example.com',
  subject: 'Appointment confirmed',
  text: process.env.TEXT,
  html: process.env.HTML,
});

(async () => {
  const begin = process.hrtime.bigint();
  const cpu = process.cpuUsage();
  let left = messages;
  const sender = async () => { while (left-- > 0) await send(); };
  await Promise.all(Array.from({ length: connections }, sender));
  const { user, system } = process.cpuUsage(cpu);
  console.log(Number(process.hrtime.bigint() - begin) / 1e9, (user + system) / 1e6);
  transport.close();
})();
