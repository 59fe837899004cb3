//! Sinks send; they know no retry, buffer or threads (`delivery` does). A sink is one file and its row in [`SINKS`].

pub mod request; // what is sent at once
pub mod request_sum; // CRC-32C of short pieces, for its key

mod file; // appends lines to files
mod file_open; // open output files: how they are found, checked, synced
mod file_path; // path templates
mod file_rotate; // names and number of finished output files
mod file_sync; // what is not on the disk yet
mod file_tail; // where the last whole line or member ends
mod forward; // records to other receivers of the forward protocol
mod forward_body; // its frames
pub(crate) mod forward_link; // one connection of it, and of `longshore send`
mod forward_servers; // which of several receivers is next
mod forward_settings; // its section of the configuration
mod http; // POSTs to a URL
pub(crate) mod http_body; // what is POSTed
pub(crate) mod http_credentials; // tokens, read again when they change
mod http_reply; // what a status means
mod http_settings; // its section of the configuration
mod pretty; // a record for a person's eye
#[cfg(test)]
pub(crate) mod server_tests; // a server on loopback, for tests
mod stdout; // standard output
pub(crate) mod tls; // trust and client certificates

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::batch::Added;
use crate::settings::Section;
pub use http_body::Compression;
use request::{Part, Request};

/// Why a request was not taken. Every variant is a different thing for `delivery` to do. Causes name the destination
/// and never hold a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// It may work later: tried again without limit.
    Retry {
        /// What happened.
        cause: String,
        /// A pause of the whole sink that the destination asked for.
        not_before: Option<Duration>,
    },
    /// Somebody has to put something right (a wrong key, a wrong path): the sink pauses, says so, and tries again
    /// slowly. Nothing is lost.
    Pause {
        /// What happened.
        cause: String,
    },
    /// Too much at once: halved. A single record that is too large is rejected.
    TooLarge {
        /// What happened.
        cause: String,
    },
    /// Never, for something in it: halved down to the record at fault, which is rejected.
    Reject {
        /// What happened.
        cause: String,
    },
    /// Nobody will ever read this destination again, which is nobody's mistake (`longshore tail ... | head`): the
    /// program ends as if told to.
    Closed,
}

/// What became of one record of a request that was taken in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Taken.
    Taken,
    /// It never can be.
    Never,
    /// Not this time.
    Again,
}

/// A request was taken, wholly or in part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Bytes that went out.
    pub bytes: u64,
    /// Nothing when all was taken; else one mark a record, in order.
    pub marks: Vec<Mark>,
    /// Why some records were not taken.
    pub cause: String,
    /// What is sent again keeps the request's key: its parts are named by more than the key alone, and are the same as
    /// before.
    pub keeps_key: bool,
}

/// The outcome of one try.
pub type Sending = Pin<Box<dyn Future<Output = Result<Reply, SendError>> + Send>>;

/// How far away a destination is: decides how long the waits between tries become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// This machine: a try costs nobody anything.
    Local,
    /// A server, which many clients may be waiting for.
    Network,
    /// A test, which does not want to wait.
    #[cfg(test)]
    Quick,
}

/// How a sink wants to be served.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A request holds no more than this many encoded bytes, but for a single record.
    pub bytes: usize,
    /// How long a request may wait for more records. Zero: as soon as the sink is free.
    pub wait: Duration,
    /// Requests under way at once. One means that order is kept.
    pub at_once: usize,
    /// What a try costs the other side.
    pub reach: Reach,
}

impl Limits {
    /// For local files and streams: what is queued, as soon as the sink is free, up to 1 MiB a write.
    pub const LOCAL: Limits = Limits { bytes: 1 << 20, wait: Duration::ZERO, at_once: 1, reach: Reach::Local };
}

/// Makes what was delivered survive a loss of power. Called from other threads.
pub trait Durable: Send + Sync {
    /// Returns when everything that was delivered before the call is on the disk. Once it has failed it never succeeds
    /// again: after a failed sync nobody knows what is on the disk, so no checkpoint may rest on it.
    fn sync(&self) -> io::Result<()>;
}

/// A destination. It lives in its own thread, where it may block; only `delivery` calls it.
pub trait Sink: Send {
    /// Whether it writes JSON, whatever values came as: what texts and numbers were encoded like means nothing to it.
    fn writes_json(&self) -> bool {
        true
    }

    /// How it wants to be served. Asked once, after `start`.
    fn limits(&self) -> Limits;

    /// Opens what can be opened before there are records. An error ends the start of the node.
    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Encodes a request once, before its first try, for sinks that keep the body. Returns the records that would have
    /// made it larger than `bytes_max`; they come again in another request.
    fn prepare(&mut self, request: &mut Request, bytes_max: usize) -> Vec<Part> {
        let _ = (request, bytes_max);
        Vec::new()
    }

    /// Sends the whole request once. What blocks is done before the future is returned.
    fn send(&mut self, request: &mut Request) -> Sending;

    /// Time for upkeep (idle files, rotation by time). Returns when to be asked again.
    fn tick(&mut self) -> Option<Duration> {
        None
    }

    /// Closes and opens again (SIGHUP, after somebody moved the output away).
    fn reopen(&mut self) {}

    /// The handle by which other threads make its deliveries durable; `None` where "taken" says it all. Asked once.
    fn durable(&self) -> Option<Arc<dyn Durable>> {
        None
    }
}

/// One kind of sink: its `type` in the configuration, and how to make one from its section. `read` does no I/O; it
/// reports mistakes to the section's document and returns something even then.
pub struct SinkKind {
    /// The `type`.
    pub name: &'static str,
    /// Reads the section of the sink called by that name. `type` and `match` are read by the caller,
    /// `finish` is called by it.
    pub read: fn(&Section<'_, '_>, &str) -> Box<dyn Sink>,
}

/// Every sink of this build. A new one adds its file, its `mod` line and its row here.
pub const SINKS: &[SinkKind] = &[
    SinkKind { name: "stdout", read: stdout::read },
    SinkKind { name: "file", read: file::read },
    SinkKind { name: "http", read: http::read },
    SinkKind { name: "forward", read: forward::read },
];

/// Reads `add`: which values are added to each record; all where it says nothing.
pub fn read_added(section: &Section<'_, '_>) -> Added {
    read_added_or(section, Added::ALL)
}

/// The same for a sink that adds others where it says nothing.
pub fn read_added_or(section: &Section<'_, '_>, usual: Added) -> Added {
    let Some(names) = section.texts("add") else { return usual };
    let mut added = Added::NONE;
    for (name, span) in names {
        match name.as_str() {
            "stream" => added.stream = true,
            "time" => added.time = true,
            "container" => added.container = true,
            "file" => added.file = true,
            "tag" => added.tag = true,
            "id" => added.id = true,
            other => {
                let known = ["stream", "time", "container", "file", "tag", "id"];
                let near = crate::settings::nearest(other, &known);
                let hint = near.map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
                let message = format!("\"{}\" is not one of \"{}\"{hint}", other.escape_debug(), known.join("\", \""));
                section.doc().error(span, format!("{}.add: {message}", section.path()));
            }
        }
    }
    added
}

/// An `http` sink without a configuration, for the tests of `delivery`.
#[cfg(test)]
pub(crate) fn test_http(url: &str, limits: Limits, added: Added) -> Box<dyn Sink> {
    Box::new(http::Http::new(http::Settings {
        url: url.parse().expect("a url"),
        format: http_body::Format::Ndjson,
        compression: Compression::None,
        headers: hyper::HeaderMap::new(),
        credentials: Vec::new(),
        tls: tls::Files::default(),
        timeout: Duration::from_secs(30),
        limits,
        added,
    }))
}
