//! `file` sink: appends records as JSON lines to files whose path may depend on the record. The rows of a request are
//! put together by path, so that each file gets few writes of whole lines, or one whole gzip member or zstd frame
//! (`.gz`, `.zst`): whatever a crash leaves, everything that was settled can be read.
//!
//! Paths: `file_path.rs`. Finding, opening, cutting, locking: `file_open.rs`. Finished files: `file_rotate.rs`. A path
//! that can never be made costs only the records that name it; a full or read-only disk costs nothing but time.

use std::collections::HashMap;
use std::future::ready;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use super::file_open::{Fault, Files};
use super::file_path::{Key, Template};
use super::file_rotate::Rotate;
use super::file_tail::Packing;
use super::http_body::Compression;
use super::request::{Part, Request};
use super::{Durable, Limits, Mark, Reply, SendError, Sending, Sink, read_added};
use crate::batch::Added;
use crate::budget::Permit;
use crate::codec::ndjson::Encoder;
use crate::record::Timestamp;
use crate::settings::Section;

/// Compressed files wait for so long for more records, since each write is a member of its own.
const PACKED_WAIT: Duration = Duration::from_secs(1);
/// Encoding buffers that are kept between requests, and the largest that is.
const SPARE_MAX: usize = 2;
const SPARE_BYTES_MAX: usize = 2 << 20;
/// Bytes that are encoded for one plain file before they are written: they are in the cache still when the kernel copies them, and
/// the buffer does not grow with the request. A request at once took a tenth of line-file's CPU time for growing it.
const PIECE: usize = 256 << 10;

/// The settings of one `file` sink.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to.
    pub path: Template,
    /// How files are packed.
    pub packing: Packing,
    /// When files are finished.
    pub rotate: Rotate,
    /// Values added to each record.
    pub added: Added,
}

/// The sink.
pub struct FileSink {
    settings: Settings,
    encoder: Encoder,
    files: Option<Files>,
    spare: Vec<Vec<u8>>,
    /// Pays for the encoding buffers.
    permit: Option<Permit>,
}

/// The lines of one path.
struct Group {
    path: String,
    lines: Vec<u8>,
}

/// What became of the rows of a request.
struct Written {
    bytes: u64,
    /// Of each row.
    marks: Vec<Mark>,
    /// Why some were not taken: of what can pass, if anything can.
    cause: Option<(Mark, String)>,
}

impl Written {
    fn with_capacity(rows: usize) -> Written {
        Written { bytes: 0, marks: Vec::with_capacity(rows), cause: None }
    }

    /// The mark of rows that were appended together.
    fn note(&mut self, outcome: Result<u64, Fault>) -> Mark {
        let (mark, cause) = match outcome {
            Ok(bytes) => {
                self.bytes += bytes;
                return Mark::Taken;
            }
            Err(Fault::Later(cause)) => (Mark::Again, cause),
            Err(Fault::Never(cause)) => (Mark::Never, cause),
        };
        if self.cause.as_ref().is_none_or(|(known, _)| *known == Mark::Never && mark == Mark::Again) {
            self.cause = Some((mark, cause));
        }
        mark
    }
}

/// Reads the section of a `file` sink.
pub fn read(section: &Section<'_, '_>, _name: &str) -> Box<dyn Sink> {
    let text = section.required_text("path", "\"/var/log/longshore/{tag}/%Y-%m-%d.ndjson\"");
    let template = text.as_deref().and_then(|text| match Template::new(text) {
        Ok(template) => Some(template),
        Err(message) => {
            section.error("path", message);
            None
        }
    });
    let packing = text.as_deref().map_or(Packing::Plain, Packing::of);
    let mut rotate = Rotate::default();
    if let Some(keys) = section.section("rotate") {
        rotate.size = keys.size("size", 1 << 10..1 << 50);
        rotate.every = keys.time("every", Duration::from_secs(1)..Duration::from_secs(366 * 86_400));
        rotate.keep = keys.count("keep", 1..1_000_001).map(|keep| keep as usize);
        if rotate.keep.is_some() && !keys.has("size") && !keys.has("every") {
            keys.error("keep", "nothing says when a file is finished; add `size` or `every`");
        }
        keys.finish();
    }
    let path = template.unwrap_or_else(|| Template::new("out.ndjson").expect("a template"));
    Box::new(FileSink::new(Settings { path, packing, rotate, added: read_added(section) }))
}

impl FileSink {
    /// A sink with these settings.
    pub fn new(settings: Settings) -> FileSink {
        let encoder = Encoder::new(settings.added);
        FileSink { settings, encoder, files: None, spare: Vec::new(), permit: None }
    }

    /// Writes the rows of a request, of which each gets a mark.
    fn write(&mut self, request: &mut Request) -> Result<Reply, SendError> {
        let now = Timestamp::now();
        let Written { bytes, marks, cause } = match self.settings.path.fixed() {
            Some(path) => self.write_to_one(request, path, now),
            None => self.write_by_path(request, now),
        };
        self.pay(request, self.spare.iter().map(Vec::capacity).sum());
        if marks.iter().all(|mark| *mark == Mark::Taken) {
            return Ok(Reply { bytes, ..Reply::default() });
        }
        let cause = cause.map(|(_, cause)| cause).unwrap_or_default();
        if marks.iter().all(|mark| *mark == Mark::Again) {
            return Err(SendError::Retry { cause, not_before: None });
        }
        Ok(Reply { bytes, marks, cause, keeps_key: false })
    }

    /// All rows to one file, a piece after the other. What comes after a piece that can not be written is not tried, which keeps
    /// the order, but encoded for what is odd in it.
    fn write_to_one(&mut self, request: &mut Request, path: String, now: Timestamp) -> Written {
        let mut written = Written::with_capacity(request.len());
        let mut group = Group { path, lines: self.spare.pop().unwrap_or_default() };
        // Packed, each piece is a member of its own.
        let piece = if self.settings.packing == Packing::Plain { PIECE } else { usize::MAX };
        let mut tallies = Vec::new();
        let mut rows = 0;
        for part in &request.parts {
            for row in &part.rows {
                self.encoder.row(&part.batch, *row as usize, &mut group.lines);
                group.lines.push(b'\n');
                rows += 1;
                if group.lines.len() >= piece {
                    self.write_piece(request, &mut group, std::mem::take(&mut rows), &mut written, now);
                }
            }
            tallies.push((part.batch.input, std::mem::take(&mut self.encoder.tally)));
        }
        if rows > 0 {
            self.write_piece(request, &mut group, rows, &mut written, now);
        }
        self.keep_spare(group.lines);
        for (input, mut tally) in tallies {
            request.note(input, &mut tally);
        }
        written
    }

    fn write_piece(
        &mut self,
        request: &Request,
        group: &mut Group,
        rows: usize,
        written: &mut Written,
        now: Timestamp,
    ) {
        self.pay(request, group.lines.capacity());
        let mark = match written.marks.last() {
            Some(Mark::Again) => Mark::Again,
            _ => {
                let outcome = self.append(group, now);
                written.note(outcome)
            }
        };
        written.marks.resize(written.marks.len() + rows, mark);
        group.lines.clear();
    }

    /// Each row to the file that it names.
    fn write_by_path(&mut self, request: &mut Request, now: Timestamp) -> Written {
        let (groups, order) = self.encode_by_path(request, now);
        self.pay(request, groups.iter().map(|group| group.lines.capacity()).sum());
        let mut written = Written::with_capacity(order.len());
        let mut outcomes = Vec::with_capacity(groups.len());
        for group in &groups {
            let outcome = self.append(group, now);
            outcomes.push(written.note(outcome));
        }
        written.marks.extend(order.into_iter().map(|group| outcomes[group as usize]));
        groups.into_iter().for_each(|group| self.keep_spare(group.lines));
        written
    }

    /// Encodes the rows of a request by path. The second list says the group of each row.
    fn encode_by_path(&mut self, request: &mut Request, now: Timestamp) -> (Vec<Group>, Vec<u32>) {
        let mut groups: Vec<Group> = Vec::new();
        let mut by_path: HashMap<String, usize> = HashMap::new();
        let mut order = Vec::with_capacity(request.len());
        let mut tallies = Vec::new();
        for part in &request.parts {
            // Rows with the same key are mostly neighbours, and there are few keys in a batch.
            let mut keys: Vec<(Key, usize)> = Vec::new();
            for row in &part.rows {
                let at = *row as usize;
                let key = self.settings.path.key(&part.batch, at, now);
                let group = match keys.iter().rev().find(|(known, _)| *known == key) {
                    Some((_, group)) => *group,
                    None => {
                        let path = self.settings.path.path(&part.batch, key);
                        let group = *by_path.entry(path).or_insert_with_key(|path| {
                            let lines = self.spare.pop().unwrap_or_default();
                            groups.push(Group { path: path.clone(), lines });
                            groups.len() - 1
                        });
                        keys.push((key, group));
                        group
                    }
                };
                let lines = &mut groups[group].lines;
                self.encoder.row(&part.batch, at, lines);
                lines.push(b'\n');
                // Fewer groups than rows, which fit a u32.
                order.push(group as u32);
            }
            tallies.push((part.batch.input, std::mem::take(&mut self.encoder.tally)));
        }
        for (input, mut tally) in tallies {
            request.note(input, &mut tally);
        }
        (groups, order)
    }

    fn append(&mut self, group: &Group, now: Timestamp) -> Result<u64, Fault> {
        let Some(files) = &mut self.files else {
            // Only before `start`, which delivery calls first.
            return Err(Fault::Later("not started".to_owned()));
        };
        let packed = match self.settings.packing {
            Packing::Plain => None,
            Packing::Gzip => Some(Compression::Gzip(6).apply(&group.lines)),
            Packing::Zstd => Some(Compression::Zstd(3).apply(&group.lines)),
        };
        let packed = packed.transpose().map_err(|error| Fault::Later(format!("{}: {error}", group.path)))?;
        let bytes = packed.as_deref().unwrap_or(&group.lines);
        files.append(&group.path, bytes, now)?;
        Ok(bytes.len() as u64)
    }

    fn pay(&mut self, request: &Request, bytes: usize) {
        if let Some(part) = request.parts.first() {
            self.permit.get_or_insert_with(|| part.batch.permit().budget().empty_permit()).resize(bytes);
        }
    }

    fn keep_spare(&mut self, mut lines: Vec<u8>) {
        if self.spare.len() < SPARE_MAX && lines.capacity() <= SPARE_BYTES_MAX {
            lines.clear();
            self.spare.push(lines);
        }
    }
}

impl Sink for FileSink {
    fn limits(&self) -> Limits {
        let wait = if self.settings.packing == Packing::Plain { Duration::ZERO } else { PACKED_WAIT };
        let size = self.settings.rotate.size.and_then(|size| usize::try_from(size).ok());
        Limits { wait, bytes: size.unwrap_or(usize::MAX).min(Limits::LOCAL.bytes), ..Limits::LOCAL }
    }

    fn start(&mut self) -> io::Result<()> {
        let fixed = self.settings.path.fixed();
        let path = self.settings.path.base();
        let mut files = Files::new(path, self.settings.packing, self.settings.rotate, fixed.is_some());
        let outcome = match fixed {
            Some(name) => files.touch(&name, Timestamp::now()),
            None => files.check_base(),
        };
        self.files = Some(files);
        match outcome.map_err(|error| (error.kind(), error)) {
            // A state of the machine, not a mistake: records wait until it has passed, as they would later.
            Err((ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull | ErrorKind::QuotaExceeded, error)) => {
                tracing::warn!(%error, "the output can not be written now; tried again when there are records");
                Ok(())
            }
            outcome => outcome.map_err(|(_, error)| error),
        }
    }

    fn prepare(&mut self, request: &mut Request, bytes_max: usize) -> Vec<Part> {
        // Where files are smaller than a request, one write would make a file too large: cut by what rows cost.
        let (rows, cost) = (request.len(), request.cost());
        let small = self.settings.rotate.size.is_some_and(|size| size < Limits::LOCAL.bytes as u64);
        if !small || cost <= bytes_max {
            return Vec::new();
        }
        let fits = (rows as u64 * bytes_max as u64 / cost as u64).max(1);
        // At most the number of rows.
        request.split_off(fits as usize)
    }

    fn send(&mut self, request: &mut Request) -> Sending {
        Box::pin(ready(self.write(request)))
    }

    fn tick(&mut self) -> Option<Duration> {
        self.files.as_mut().and_then(|files| files.upkeep(Timestamp::now()))
    }

    fn reopen(&mut self) {
        if let Some(files) = &mut self.files {
            files.close_all();
        }
    }

    fn durable(&self) -> Option<Arc<dyn Durable>> {
        self.files.as_ref().map(|files| Arc::clone(files.dirty()) as Arc<dyn Durable>)
    }
}

#[cfg(test)]
mod tests;
