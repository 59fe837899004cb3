// A forward receiver made of the FluentServer of npm's @fluent-org/logger: to try the client scripts without the
// program, or to compare with it. Prints one line with the count of each tag every time a connection has been quiet.
//
// usage: stand_in.js PORT                      (NODE_PATH names the folder of node_modules)
"use strict";
const { FluentServer } = require("@fluent-org/logger");

const counts = {};
const server = new FluentServer({ listenOptions: { port: Number(process.argv[2]), host: "127.0.0.1" } });
server.on("entry", (tag) => {
  counts[tag] = (counts[tag] || 0) + 1;
});
server.listen().then(() => console.log("listening"));
setInterval(() => console.log(JSON.stringify(counts)), 500).unref();
process.on("SIGTERM", () => {
  console.log(JSON.stringify(counts));
  process.exit(0);
});
