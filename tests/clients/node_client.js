// Sends numbered records with the published @fluent-org/logger of npm, in every mode, and waits for every ack.
//
// usage: node_client.js HOST PORT COUNT        (NODE_PATH names the folder of node_modules)
//
// COUNT records for each of the tags node.Message, node.Forward, node.PackedForward and node.CompressedPackedForward.
// `emit` resolves when the ack with the right chunk id has come, and rejects when it has not within ten seconds.
"use strict";
const { FluentClient, EventTime } = require("@fluent-org/logger");

async function main() {
  const [host, port, count] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
  let sent = 0;
  for (const eventMode of ["Message", "Forward", "PackedForward", "CompressedPackedForward"]) {
    const client = new FluentClient("node", {
      eventMode,
      socket: { host, port, timeout: 10000 },
      ack: { ackTimeout: 10000 },
      sendQueueMaxSize: { size: 1 << 30, length: 1 << 20 },
      // Many records a frame in the modes that can: a flush every 5 ms or 64 kB.
      flushInterval: 5,
    });
    const waiting = [];
    for (let seq = 0; seq < count; seq++) {
      const time = seq % 2 ? new EventTime(1700000000, seq) : new Date(1700000000000);
      waiting.push(client.emit(eventMode, { seq, text: "grüße \u2713", nested: { list: [1, 2.5, null, true] } }, time));
      if (waiting.length >= 500) {
        await Promise.all(waiting.splice(0));
      }
    }
    await Promise.all(waiting);
    await client.shutdown();
    sent += count;
  }
  console.log(`sent and acked ${sent} records`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
