//! `parse = "json" | "logfmt" | "regex"`: a text field becomes fields.
//!
//! The text of `from` (default `log`) is replaced, in its place, by what it holds; with `into = "name"` by one field of
//! that name which holds an object. An outer field of the same name as a new one goes (counted). For `json` only a JSON
//! object counts; anything else, and anything nested deeper than [`DEPTH_MAX`], stays as it is, or goes with the whole
//! record if `on_error = "drop"`. A record without that field is left alone.
//!
//! `json` is the hottest step: the members are spans into the text that is in the arena already, nothing is copied or
//! allocated.
//!
//! Counters: `not_parsed`, `field_replaced`; `dropped{step}`.

use std::collections::HashSet;

use regex::bytes::{CaptureLocations, Regex};

use crate::batch::Batch;
use crate::codec::json;
use crate::metrics::{DropReason, Oddity, Tally};
use crate::record::{Field, Form, Span};

use super::one_way::{Found, NOWHERE, OneWay};
use super::{Rows, Scratch, logfmt};

/// Levels of nesting, at most.
pub const DEPTH_MAX: usize = 128;

/// The step.
#[derive(Debug)]
pub struct Parse {
    /// What is read.
    pub format: Format,
    /// The field with the text.
    pub from: String,
    /// The field for the object, if it does not replace the text member by member.
    pub into: Option<String>,
    /// Whether a record that can not be read is dropped.
    pub drops: bool,
}

/// What a text is written in.
#[derive(Debug)]
pub enum Format {
    /// A JSON object.
    Json,
    /// `key=value key="quoted value"`.
    Logfmt,
    /// The named groups of a regular expression.
    Regex(Pattern),
}

/// A regular expression, with its walk if it has one.
#[derive(Debug)]
pub struct Pattern {
    regex: Regex,
    walk: Option<OneWay>,
}

impl Pattern {
    /// Finds out whether it can be walked.
    pub fn new(regex: Regex) -> Pattern {
        Pattern { walk: OneWay::of(&regex), regex }
    }
}

/// The named groups of a pattern, for one batch: their keys are in its arena once.
struct Groups {
    locations: CaptureLocations,
    keys: Vec<(usize, Span)>,
    /// Of the walk: two for each key.
    slots: Vec<u32>,
}

impl Parse {
    /// Whether it puts the members of the JSON object `log` in its place.
    pub(super) fn takes_log_apart(&self) -> bool {
        matches!(self.format, Format::Json) && self.from == "log" && self.into.is_none()
    }

    pub(super) fn run(&self, batch: &mut Batch, rows: &Rows<'_>, scratch: &mut Scratch) {
        let mut groups = match &self.format {
            Format::Regex(pattern) => {
                let names = pattern.regex.capture_names().enumerate();
                let keys = names.filter_map(|(at, name)| name.map(|name| (at, batch.push_bytes(name.as_bytes()))));
                let slots = vec![0; pattern.walk.as_ref().map_or(0, OneWay::slots)];
                Some(Groups { keys: keys.collect(), locations: pattern.regex.capture_locations(), slots })
            }
            _ => None,
        };
        let into = self.into.as_ref().map(|name| batch.push_bytes(name.as_bytes()));
        let (mut failed, mut dropped) = (0, 0);
        scratch.marks.clear();
        for at in 0..batch.len() {
            let parsed = !rows.has(batch, at) || self.row(batch, at, groups.as_mut(), into, &mut scratch.out);
            failed += u32::from(!parsed);
            if self.drops {
                scratch.marks.push(parsed);
                dropped += u32::from(!parsed);
            }
        }
        batch.tally.odd_by(Oddity::NotParsed, failed);
        if dropped > 0 {
            batch.tally.drop_by(DropReason::Step, dropped);
            batch.retain_marked(&scratch.marks);
        }
    }

    /// Parses one row; `false` if its text is no such thing.
    fn row(
        &self,
        batch: &mut Batch,
        at: usize,
        groups: Option<&mut Groups>,
        into: Option<Span>,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(index) = super::index_of(batch, at, self.from.as_bytes()) else {
            return true;
        };
        let Some(span) = text_span(batch, at, index) else {
            return false;
        };
        let mark = batch.fields_mark();
        let parsed = match (&self.format, groups) {
            (Format::Json, _) => json::push_members(batch, span, DEPTH_MAX).is_ok(),
            (Format::Logfmt, _) => logfmt::push_fields(batch, span),
            (Format::Regex(pattern), Some(groups)) => push_groups(batch, span, pattern, groups),
            (Format::Regex(_), None) => false,
        };
        if !parsed {
            batch.rewind_fields(mark);
            return false;
        }
        match into {
            Some(key) => {
                let object = match self.format {
                    Format::Json => trimmed(batch, span),
                    _ => {
                        out.clear();
                        write_object(batch, mark, out);
                        batch.push_bytes(out)
                    }
                };
                batch.rewind_fields(mark);
                batch.push_field(Field::new(key, Form::Json, object));
            }
            None if batch.fields_mark() == mark && matches!(self.format, Format::Regex(_)) => return false,
            None => {}
        }
        let index = if batch.fields(at).len() > 1 { replace_outer(batch, at, index, mark) } else { index };
        batch.splice_fields(at, Some(index), mark);
        true
    }
}

/// The text of a field as plain bytes in the arena: unescaped there if need be. An object that is JSON already is as
/// good as its text.
fn text_span(batch: &mut Batch, at: usize, index: usize) -> Option<Span> {
    let field = batch.fields(at)[index];
    match field.form {
        Form::Text => Some(field.value),
        Form::Json if batch.bytes(field.value).first() == Some(&b'{') => Some(field.value),
        Form::JsonStr if memchr::memchr(b'\\', batch.bytes(field.value)).is_none() => Some(field.value),
        Form::JsonStr => json::unescape_span(batch, field.value),
        Form::Json | Form::Msg => None,
    }
}

fn push_groups(batch: &mut Batch, span: Span, pattern: &Pattern, groups: &mut Groups) -> bool {
    let (arena, fields) = batch.padded_arena_and_fields();
    let (padded, len) = (&arena[span.at as usize..], span.len as usize);
    let found = pattern.walk.as_ref().map_or(Found::Unsure, |walk| walk.find(padded, len, &mut groups.slots));
    // Both ends lie within the span, which is within the arena: below 4 GiB.
    let value = |from: u32, to: u32| Span { at: span.at + from, len: to - from };
    match found {
        Found::No => return false,
        Found::Yes => {
            let (places, _) = groups.slots.as_chunks::<2>();
            let taking_part = groups.keys.iter().zip(places).filter(|(_, [_, to])| *to != NOWHERE);
            fields.extend(taking_part.map(|((_, key), [from, to])| Field::new(*key, Form::Text, value(*from, *to))));
        }
        Found::Unsure => {
            if pattern.regex.captures_read(&mut groups.locations, &padded[..len]).is_none() {
                return false;
            }
            let places = groups.keys.iter().filter_map(|(group, key)| Some((key, groups.locations.get(*group)?)));
            fields.extend(places.map(|(key, (from, to))| Field::new(*key, Form::Text, value(from as u32, to as u32))));
        }
    }
    true
}

fn trimmed(batch: &Batch, span: Span) -> Span {
    let bytes = batch.bytes(span);
    let start = bytes.len() - bytes.trim_ascii_start().len();
    Span { at: span.at + start as u32, len: bytes.trim_ascii().len() as u32 }
}

/// Appends the fields after `mark` as one JSON object.
fn write_object(batch: &Batch, mark: usize, out: &mut Vec<u8>) {
    // Texts that are not UTF-8 are counted when the record is written.
    let mut tally = Tally::default();
    out.push(b'{');
    for (at, field) in batch.fields_after(mark).iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        json::write(batch.key(field), out, &mut tally);
        out.push(b':');
        json::write(batch.value(field), out, &mut tally);
    }
    out.push(b'}');
}

/// Removes the other fields of row `at` whose key one of the fields after `mark` has; the new index of field `index`.
fn replace_outer(batch: &mut Batch, at: usize, mut index: usize, mark: usize) -> usize {
    let outer = batch.fields(at).len();
    let inner = batch.fields_after(mark).len();
    // Few by few: compare. Many by many would take for ever.
    let keys: Option<HashSet<Vec<u8>>> = (outer.saturating_mul(inner) > 65_536)
        .then(|| batch.fields_after(mark).iter().map(|field| batch.bytes(field.key).to_vec()).collect());
    let is_replaced = |batch: &Batch, field: &Field| {
        let key = batch.bytes(field.key);
        match &keys {
            Some(keys) => keys.contains(key),
            None => batch
                .fields_after(mark)
                .iter()
                .any(|inner| inner.key.len == field.key.len && batch.bytes(inner.key) == key),
        }
    };
    let mut doomed: Vec<usize> = Vec::new();
    for (other, field) in batch.fields(at).iter().enumerate() {
        if other != index && is_replaced(batch, field) {
            doomed.push(other);
        }
    }
    if !doomed.is_empty() {
        batch.tally.odd_by(Oddity::FieldReplaced, doomed.len() as u32);
        batch.remove_fields(at, &doomed);
        index -= doomed.iter().filter(|other| **other < index).count();
    }
    index
}
