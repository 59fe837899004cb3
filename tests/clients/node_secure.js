// Sends numbered records with the published @fluent-org/logger of npm through a shared key and a user.
//
// usage: node_secure.js HOST PORT COUNT KEY USER PASSWORD        (NODE_PATH names the folder of node_modules)
//
// COUNT records with the tag node.secure; `emit` resolves when the ack has come. Then once with a wrong key, which has to
// fail.
"use strict";
const { FluentClient } = require("@fluent-org/logger");

function client(host, port, sharedKey, username, password) {
  return new FluentClient("node", {
    eventMode: "PackedForward",
    socket: { host, port, timeout: 10000 },
    security: { clientHostname: "node.example", sharedKey, username, password },
    ack: { ackTimeout: 10000 },
    flushInterval: 5,
    disconnect: { waitOnDisconnect: 2000, socketDisconnectDelay: 10 },
  });
}

async function main() {
  const [, , host, port, count, key, username, password] = process.argv;
  const good = client(host, Number(port), key, username, password);
  const waiting = [];
  for (let seq = 0; seq < Number(count); seq++) {
    waiting.push(good.emit("secure", { seq }, new Date(1700000000000)));
    if (waiting.length >= 500) {
      await Promise.all(waiting.splice(0));
    }
  }
  await Promise.all(waiting);
  await good.shutdown();
  const bad = client(host, Number(port), "wrong", username, password);
  const answer = await Promise.race([
    bad.emit("secure", { seq: 666666 }, new Date()).then(() => "acked", () => "failed"),
    new Promise((resolve) => setTimeout(() => resolve("nothing"), 3000)),
  ]);
  if (answer === "acked") {
    throw new Error("a wrong key was let in");
  }
  console.log(`sent and acked ${count} records; the wrong key: ${answer}`);
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
