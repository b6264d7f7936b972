// Asks for one reset and waits for its outcome: AMQP_URL=... node examples/producer.mjs USER_ID EMAIL
import { randomUUID } from "node:crypto";
import amqplib from "amqplib";

const [user, email] = process.argv.slice(2);
const { AMQP_URL = "amqp://guest:guest@127.0.0.1:5672/%2f", AMQP_PREFIX: prefix = "", ORG: org = "main" } = process.env;
const connection = await amqplib.connect(AMQP_URL);
const channel = await connection.createConfirmChannel();
const { queue } = await channel.assertQueue("", { exclusive: true }); // lives as long as this connection
let unroutable = false; // what nobody's queue takes is returned, and then confirmed all the same
channel.on("return", () => { unroutable = true; });

const job = randomUUID(); // sent again with the same id, it is not done again
const outcome = new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error("no outcome within a minute; the job stays queued")), 60_000).unref();
  channel.consume(queue, (message) => resolve(JSON.parse(message.content)), { noAck: true });
});
const body = Buffer.from(JSON.stringify({ userId: user, password: true, email }));
channel.publish(`${prefix}resets`, org /* or `${org}.bulk` */, body, {
  messageId: job,
  timestamp: Math.floor(Date.now() / 1000), // in seconds
  contentType: "application/json",
  persistent: true,
  mandatory: true,
  replyTo: queue,
  correlationId: job,
});
await channel.waitForConfirms();
if (unroutable) throw new Error(`no queue takes jobs of ${org}: has a worker declared them?`);
const { success, ...rest } = await outcome;
console.log(JSON.stringify({ success, ...rest }));
await connection.close();
process.exitCode = success ? 0 : 1;
