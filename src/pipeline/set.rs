//! `set`, `rename`, `remove`: fields by name.
//!
//! `set = { env = "${ENVIRONMENT:-dev}", who = "{user.name}", n = 1 }` sets top-level fields, in the place of one of that
//! name or at the end. A value that is one placeholder keeps its type; others are texts. If a placeholder leads nowhere
//! the field is not set.
//!
//! `rename = { old = "new" }` renames every top-level field of that name; another field that has the new name goes.
//! `remove = ["a", "b.c"]` removes fields, inside nested values too.
//!
//! What is added to a record (`time`, `tag`, `stream`, `container`, `file`) can be removed and renamed as if it were a
//! field. Where the record has a field of that name, `rename` takes that one, and `remove` takes both; `_time` and the
//! like name the added one then. Routing still knows the tag.
//!
//! Counters: `step_failed`, `field_replaced`.

use crate::batch::{
    Batch, NO_CONTAINER, NO_FILE, NO_TAG, NO_TIME, OWN_CONTAINER, OWN_FILE, OWN_STREAM, OWN_TAG, OWN_TIME,
};
use crate::metrics::Oddity;
use crate::record::{Field, Form, Span, Stream, Value};

use super::nested::{self, Act, Edit};
use super::path::{Found, Path};
use super::template::Template;
use super::{Rows, Scratch};

/// `set`.
#[derive(Debug)]
pub struct Set(pub Vec<(String, Setting)>);

/// What a field is set to.
#[derive(Debug)]
pub enum Setting {
    /// A text or a copy.
    Template(Template),
    /// A number, `true` or `false`, as JSON.
    Json(String),
}

/// `rename`: old and new names.
#[derive(Debug)]
pub struct Rename(pub Vec<(String, String)>);

/// `remove`.
#[derive(Debug)]
pub struct Remove(pub Vec<Path>);

/// Pushed to the arena once for a batch, when first needed.
fn once(batch: &mut Batch, kept: &mut Option<Span>, text: &str) -> Span {
    *kept.get_or_insert_with(|| batch.push_bytes(text.as_bytes()))
}

impl Set {
    pub(super) fn run(&self, batch: &mut Batch, rows: &Rows<'_>, scratch: &mut Scratch) {
        let mut kept: Vec<(Option<Span>, Option<Span>)> = vec![(None, None); self.0.len()];
        for at in 0..batch.len() {
            if !rows.has(batch, at) {
                continue;
            }
            for ((key, setting), (key_span, constant)) in self.0.iter().zip(&mut kept) {
                let made = match setting {
                    Setting::Json(text) => Some((once(batch, constant, text), Form::Json)),
                    Setting::Template(template) => match (template.constant(), template.single()) {
                        (Some(text), _) => Some((once(batch, constant, text), Form::Text)),
                        (None, Some(path)) => copy(batch, at, path, &mut scratch.out),
                        (None, None) => {
                            scratch.out.clear();
                            let written = template.write(batch, at, &mut scratch.out).is_ok();
                            written.then(|| (batch.push_bytes(&scratch.out), Form::Text))
                        }
                    },
                };
                let Some((value, form)) = made else {
                    batch.tally.odd(Oddity::StepFailed);
                    continue;
                };
                match super::index_of(batch, at, key.as_bytes()) {
                    Some(index) => {
                        let field = &mut batch.fields_mut(at)[index];
                        (field.value, field.form) = (value, form);
                    }
                    None => {
                        let key = once(batch, key_span, key);
                        batch.add_field(at, Field::new(key, form, value));
                    }
                }
            }
        }
    }
}

/// A second use of the value that a path leads to, in the arena.
fn copy(batch: &mut Batch, at: usize, path: &Path, out: &mut Vec<u8>) -> Option<(Span, Form)> {
    out.clear();
    let form = match path.find(batch, at)? {
        Found::Value(value) => {
            out.extend_from_slice(value.bytes);
            value.form
        }
        found @ Found::Container(_) => {
            found.write_text(out);
            Form::Json
        }
        found @ Found::Time(_) => {
            found.write_text(out);
            Form::Text
        }
    };
    Some((batch.push_bytes(out), form))
}

impl Rename {
    pub(super) fn run(&self, batch: &mut Batch, rows: &Rows<'_>, scratch: &mut Scratch) {
        let mut kept: Vec<Option<Span>> = vec![None; self.0.len()];
        // Paths of one part, for what is added.
        let paths: Vec<Path> = self.0.iter().map(|(old, _)| Path::of(vec![old.clone()])).collect();
        for at in 0..batch.len() {
            if !rows.has(batch, at) {
                continue;
            }
            for (((old, new), kept), path) in self.0.iter().zip(&mut kept).zip(&paths) {
                let has_old = batch.find(at, old.as_bytes()).is_some();
                let added = if has_old { None } else { copy(batch, at, path, &mut scratch.out) };
                if !has_old && added.is_none() {
                    continue;
                }
                if new != old {
                    let replaced = super::remove_key(batch, at, new.as_bytes());
                    batch.tally.odd_by(Oddity::FieldReplaced, replaced);
                }
                let key = once(batch, kept, new);
                if let Some((value, form)) = added {
                    batch.add_field(at, Field::new(key, form, value));
                    hide(batch, at, old);
                    continue;
                }
                for index in 0..batch.fields(at).len() {
                    if batch.bytes(batch.fields(at)[index].key) == old.as_bytes() {
                        let field = &mut batch.fields_mut(at)[index];
                        (field.key, field.key_form) = (key, Form::Text);
                    }
                }
                batch.reflag(at);
            }
        }
    }
}

impl Remove {
    pub(super) fn run(&self, batch: &mut Batch, rows: &Rows<'_>, scratch: &mut Scratch) {
        for at in 0..batch.len() {
            if !rows.has(batch, at) {
                continue;
            }
            for path in &self.0 {
                remove(batch, at, path, &mut scratch.out);
            }
        }
    }
}

fn remove(batch: &mut Batch, at: usize, path: &Path, out: &mut Vec<u8>) {
    let whole = path.as_str();
    if path.parts().len() == 1 {
        if let Some(added) = whole.strip_prefix('_')
            && own_flag(added).is_some_and(|flag| batch.row(at).has(flag))
        {
            hide(batch, at, added);
        }
        super::remove_key(batch, at, whole.as_bytes());
        hide(batch, at, whole);
        return;
    }
    let mut inside = Inside { parts: &path.parts()[1..] };
    for index in 0..batch.fields(at).len() {
        let field = batch.fields(at)[index];
        if batch.bytes(field.key) != path.parts()[0].as_bytes() {
            continue;
        }
        let value = batch.value(&field);
        out.clear();
        if is_map(value) && nested::edit(value, &mut inside, out) {
            let value = batch.push_bytes(out);
            batch.fields_mut(at)[index].value = value;
        }
    }
    super::remove_key(batch, at, whole.as_bytes());
}

fn is_map(value: Value<'_>) -> bool {
    match value.form {
        Form::Json => value.bytes.first() == Some(&b'{'),
        Form::Msg => matches!(value.bytes.first(), Some(0x80..=0x8f | 0xde | 0xdf)),
        Form::Text | Form::JsonStr => false,
    }
}

/// Removes the member at a path.
struct Inside<'p> {
    parts: &'p [String],
}

impl Edit for Inside<'_> {
    fn member(&mut self, depth: usize, key: &[u8]) -> Act {
        match self.parts.get(depth) {
            Some(part) if part.as_bytes() == key => {
                if depth + 1 == self.parts.len() {
                    Act::Remove
                } else {
                    Act::Enter
                }
            }
            _ => Act::Keep,
        }
    }

    fn enters_arrays(&self) -> bool {
        false
    }

    fn text(&mut self, _: &[u8]) -> Option<&[u8]> {
        None
    }

    fn digits(&mut self, _: &[u8]) -> Option<&[u8]> {
        None
    }
}

fn own_flag(name: &str) -> Option<u16> {
    match name {
        "time" => Some(OWN_TIME),
        "tag" => Some(OWN_TAG),
        "stream" => Some(OWN_STREAM),
        "container" => Some(OWN_CONTAINER),
        "file" => Some(OWN_FILE),
        _ => None,
    }
}

/// Sees to it that the value `name` is not added to row `at`.
fn hide(batch: &mut Batch, at: usize, name: &str) {
    let row = batch.row_mut(at);
    match name {
        "time" => row.mark(NO_TIME, true),
        "tag" => row.mark(NO_TAG, true),
        "container" => row.mark(NO_CONTAINER, true),
        "file" => row.mark(NO_FILE, true),
        "stream" => row.stream = Stream::None,
        _ => {}
    }
}
