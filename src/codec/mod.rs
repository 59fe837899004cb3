//! Bytes to records and records to bytes. Pure: no files, sockets, threads, clock. Each file has a fuzz target of its
//! name.
//!
//! Decoders append rows to a [`Batch`](crate::batch::Batch) and count oddities in its tally; encoders append bytes to a
//! `Vec<u8>`. Neither allocates for a single record.

pub mod cri; // one line of a CRI log file
pub mod dead_letter; // a refused record as bytes, and back
pub mod docker_json; // one line of Docker's json-file driver
pub mod forward; // frames of the forward protocol, as they arrive
pub mod gzip; // gzip and zstd, in and out, with limits
pub mod json; // check, index, escape, unescape
pub mod lines; // bytes to lines, with a length limit
pub mod msgpack; // bounded reader; MessagePack to JSON
pub mod ndjson; // rows to JSON lines
pub mod stored_batch; // a batch as bytes for the disk log, and back
pub mod text; // one line of a plain or `json` file
pub mod time; // RFC 3339 and friends
pub mod x509; // when a certificate ends

#[cfg(test)]
mod corpus; // seeds of the fuzz targets, replayed
