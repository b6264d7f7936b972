// Takes one sealed notification out of the email queue and prints it opened: AMQP_URL=... node examples/open_sealed.mjs KEY_FILE...
import { createPrivateKey, createPublicKey } from "node:crypto";
import { readFileSync } from "node:fs";
import amqplib from "amqplib";
import { calculateJwkThumbprint, compactDecrypt, exportJWK } from "jose";

// By kid, which is the thumbprint of RFC 7638. During a rotation there are two, the old one and the new one.
const keys = new Map();
for (const file of process.argv.slice(2)) {
  const key = createPrivateKey(readFileSync(file));
  keys.set(await calculateJwkThumbprint(await exportJWK(createPublicKey(key))), key);
}
const { AMQP_URL = "amqp://guest:guest@127.0.0.1:5672/%2f", AMQP_PREFIX: prefix = "" } = process.env;
const connection = await amqplib.connect(AMQP_URL);
const channel = await connection.createChannel();
const message = await channel.get(`${prefix}emails`);
if (!message) throw new Error("no notification is waiting");
const { sealed, ...notification } = JSON.parse(message.content);
const find = ({ kid }) => {
  if (!keys.has(kid)) throw new Error(`it is sealed to kid ${kid}, and no key here has that thumbprint`);
  return keys.get(kid);
};
// Only the algorithms that resetd writes: a message is not to choose how it is opened.
const options = { keyManagementAlgorithms: ["RSA-OAEP-256"], contentEncryptionAlgorithms: ["A256GCM"] };
const { plaintext } = await compactDecrypt(sealed, find, options);
const opened = JSON.parse(new TextDecoder().decode(plaintext));
// Who copies a sealed text into a message of their own is not to choose who gets it.
for (const name of ["notificationId", "org", "userId", "to"]) {
  if (!opened[name] || opened[name] !== notification[name]) throw new Error(`${name} is not the one that was sealed: tell nobody`);
}
console.log(JSON.stringify({ ...notification, ...opened })); // here: send the mail
channel.ack(message); // only then
await channel.close();
await connection.close();
