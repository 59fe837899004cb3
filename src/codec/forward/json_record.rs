//! One record of JSON mode: a checked JSON object to a row, with the shape that the same record in MessagePack has.
//!
//! Counters: `invalid_utf8` for what has to be mended before it is a text, `duplicate_key` for keys written alike.

use crate::batch::{Batch, RowHead};
use crate::codec::json::{self, JsonError};
use crate::metrics::{Oddity, RejectReason};
use crate::record::{Form, Timestamp};

use super::docker::DockerFields;
use super::entry::{Filler, KEYS_COMPARED};

impl Filler {
    /// Makes a row of a record whose grammar was checked.
    pub(super) fn json_record(
        &mut self,
        record: &[u8],
        time: Timestamp,
        tag: u8,
        batch: &mut Batch,
    ) -> Result<(), RejectReason> {
        let mark = batch.fields_mark();
        match push(record, self.depth_max, batch) {
            Ok(()) => (),
            Err(JsonError::NotAnObject) => return Err(RejectReason::NotAMap),
            Err(JsonError::TooDeep) => return Err(RejectReason::TooDeep),
            // The grammar is right, so it is its UTF-8 or its surrogates.
            Err(JsonError::Broken(_) | JsonError::NotUtf8(_)) => {
                let mended = json::mend(record, &mut batch.tally);
                push(&mended, self.depth_max, batch).map_err(|error| match error {
                    JsonError::TooDeep => RejectReason::TooDeep,
                    _ => RejectReason::BadEntry,
                })?;
            }
        }
        let mut docker = DockerFields::default();
        if self.docker {
            let (arena, fields) = batch.padded_arena_and_fields();
            for (index, field) in fields[mark..].iter().enumerate() {
                let key = &arena[field.key.at as usize..(field.key.at + field.key.len) as usize];
                if field.key_form == Form::Text && field.form == Form::JsonStr {
                    docker.note(key, index as u32);
                }
            }
        }
        for index in docker.names() {
            // Texts as MessagePack has them, for what reads them as the name of a container or stream.
            let field = batch.open_fields(mark)[index];
            let value = match memchr::memchr(b'\\', batch.bytes(field.value)) {
                Some(_) => json::unescape_span(batch, field.value),
                None => Some(field.value),
            };
            if let Some(value) = value {
                let field = &mut batch.open_fields(mark)[index];
                (field.value, field.form) = (value, Form::Text);
            }
        }
        let twice = keys_twice(mark, batch);
        batch.tally.odd_by(Oddity::DuplicateKey, twice);
        let own = batch.own_flags(mark);
        self.push_row(mark, docker, own, RowHead::at(time, tag), batch);
        Ok(())
    }
}

/// How many of the record's first keys were there before.
fn keys_twice(mark: usize, batch: &Batch) -> u32 {
    let fields = batch.fields_after(mark);
    let fields = &fields[..fields.len().min(KEYS_COMPARED)];
    let before = |at: usize| fields[..at].iter().any(|field| batch.bytes(field.key) == batch.bytes(fields[at].key));
    (1..fields.len()).map(|at| u32::from(before(at))).sum()
}

/// Appends the record and its fields, or neither.
fn push(record: &[u8], depth_max: usize, batch: &mut Batch) -> Result<(), JsonError> {
    let span = batch.push_bytes(record);
    let pushed = json::push_members(batch, span, depth_max);
    if pushed.is_err() {
        batch.rewind_bytes(span);
    }
    pushed
}
