//! longshore: a structured log shipper. This is the map; ARCHITECTURE.md has the walk of a record.
#![forbid(unsafe_code)]

// What moves.
pub mod batch; // Batch, the unit that moves
pub mod budget; // the one memory budget
pub mod ledger; // what became of every record: the equations, saved and shown
pub mod metrics; // counters, health checks, text exposition
pub mod receipt; // Receipt: how the origin of records learns what became of them
pub mod record; // Tag, Timestamp, Span, Form, Value: what a record is made of
pub mod record_id; // stable names of records
mod sync; // the locks of what wakes others up
pub mod waits; // who waits, and since when nobody got anything

// The way of a record.
pub mod codec; // bytes <-> records, pure
pub mod inputs; // docker, file, stdin, forward
pub mod outbox; // where batches wait for sinks: queues, and the disk log behind them
pub mod pipeline; // join, parse, ..., route: Batch in, Batch out

pub mod backoff; // when to try again, pure
pub mod buffer; // the disk log: byte strings that survive a power cut
pub mod dead_letters; // what sinks and inputs refused for good: kept, shown, sent again
pub mod delivery; // one loop a sink: queue, requests, retries, settling
pub mod sinks; // stdout, file, http

// The node.
pub mod admin; // /live /ready /health /metrics
pub mod config; // the whole file -> Config: every mistake at once
pub mod disk_log; // the disk log as the configuration wants it
pub mod handover; // listening sockets from one process to the next
pub mod lock; // of a folder that only one works in
pub mod log; // the own log on standard error
pub mod profile; // the users that it runs as, for errors
pub mod run; // the only wiring
pub mod service; // what systemd is told
pub mod settings; // reading configuration: sections, units, findings with their place
pub mod workers; // named threads, and the word to stop

// The command line.
pub mod again; // `replay`: what a sink was given, once more
pub mod audit; // the ledger of a node, running or stopped
pub mod banner; // what is said at the start
pub mod bench; // generator, the real program, a sink that checks: `longshore bench`
pub mod checkpoints; // `checkpoints list|set|forget`
pub mod cli; // its words
pub mod healthcheck; // the client of /live and /ready
pub mod letters; // `dead-letters list|show|replay`
pub mod replay; // records through one sink, once
pub mod send; // the forward client
pub mod tail; // the configuration that `tail` makes

#[cfg(test)]
mod budget_tests; // out of budget.rs, whose source loom_tests.rs mounts once more
#[cfg(test)]
mod loom_tests; // every order of threads
