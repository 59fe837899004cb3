//! The frame of the document: its sections, names, types, and which sink can get anything at all.

use std::net::SocketAddr;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::explain::{self, Setting};
use super::reach::overlap;
use super::{Config, INPUTS_MAX, NAME_MAX, Named, Overrides, Report, Source, buffer, dead_letters, node, telemetry};
use crate::pipeline::Pipeline;
use crate::pipeline::route::SINKS_MAX;
use crate::settings::{Doc, Section, describe, nearest};

const SECTIONS: [&str; 7] = ["node", "inputs", "pipeline", "buffer", "dead_letters", "sinks", "telemetry"];
/// What other programs call our sections.
const SECTION_WORDS: [(&str, &str); 16] = [
    ("source", "inputs"),
    ("sources", "inputs"),
    ("input", "inputs"),
    ("receivers", "inputs"),
    ("output", "sinks"),
    ("outputs", "sinks"),
    ("sink", "sinks"),
    ("exporters", "sinks"),
    ("match", "sinks"),
    ("filter", "pipeline"),
    ("filters", "pipeline"),
    ("transforms", "pipeline"),
    ("processors", "pipeline"),
    ("steps", "pipeline"),
    ("service", "node"),
    ("api", "telemetry"),
];
/// What other programs call our kinds of inputs and sinks.
const KIND_WORDS: [(&str, &str); 14] = [
    ("docker_files", "docker"),
    ("docker_logs", "docker"),
    ("json-file", "docker"),
    ("containers", "docker"),
    ("tail", "file"),
    ("in_tail", "file"),
    ("filelog", "file"),
    ("files", "file"),
    ("fluent", "forward"),
    ("fluentd", "forward"),
    ("fluentforward", "forward"),
    ("console", "stdout"),
    ("print", "stdout"),
    ("https", "http"),
];
/// The key that says what a kind reads or where it writes, and what holds without it.
const ABOUT: [(&str, &str, &str); 5] = [
    ("docker", "path", "/var/lib/docker/containers"),
    ("file", "paths", ""),
    ("file", "path", ""),
    ("forward", "listen", "tcp://127.0.0.1:24224"),
    ("http", "url", ""),
];

/// What every section says, and mistakes of the environment.
pub(super) fn read<'t>(
    doc: &Doc<'t>,
    table: &DeTable<'t>,
    source: &Source<'_>,
    overrides: &Overrides,
) -> (Config, Vec<String>) {
    unknown_sections(doc, table);
    let mut outside = Vec::new();
    let mut settings = Vec::new();
    let empty = DeTable::new();
    let section = |name: &str| top(doc, table, &empty, name);
    // First of all, since it says where secrets are.
    let node = node::read(section("node"), source.root, overrides, &mut settings);
    let (inputs, input_places) = inputs(doc, table, source, &mut settings);
    let (mut pipeline, steps, retags) = pipeline(section("pipeline"), table.contains_key("pipeline"), &mut settings);
    let buffer = buffer::read(section("buffer"), &mut settings);
    let dead_letters = dead_letters::read(section("dead_letters"), &mut settings);
    let (sinks, sink_places) = sinks(doc, table, source, &mut settings);
    pipeline.set_to_json(sinks.iter().all(|sink| sink.part.writes_json()));
    warn_too_large(doc, &inputs, &input_places, buffer.size);
    let telemetry = telemetry::read(section("telemetry"), source, overrides, &mut settings, &mut outside);
    if !retags {
        warn_unreached(doc, (&inputs, &input_places), (&sinks, &sink_places));
    }
    let file = source.name.to_owned();
    let warnings = Report::default();
    (
        Config { node, inputs, pipeline, steps, buffer, dead_letters, sinks, telemetry, file, warnings, settings },
        outside,
    )
}

/// The address of health and metrics, and nothing else.
pub(super) fn listen<'t>(doc: &Doc<'t>, table: &DeTable<'t>) -> Option<SocketAddr> {
    let empty = DeTable::new();
    telemetry::read_listen(&top(doc, table, &empty, "telemetry"))
}

/// A top-level section; an empty one where it is not there, or is no table (reported by [`unknown_sections`]).
fn top<'d, 't>(doc: &'d Doc<'t>, table: &'d DeTable<'t>, empty: &'d DeTable<'t>, name: &str) -> Section<'d, 't> {
    match table.get(name) {
        Some(value) => match value.get_ref() {
            DeValue::Table(found) => Section::new(doc, found, name, value.span()),
            _ => Section::new(doc, empty, name, value.span()),
        },
        None => Section::new(doc, empty, name, 0..0),
    }
}

fn unknown_sections(doc: &Doc<'_>, table: &DeTable<'_>) {
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        if SECTIONS.contains(&name) {
            if !matches!(value.get_ref(), DeValue::Table(_)) {
                let message = format!("`{name}` is a section: expected [{name}], got {}", describe(value.get_ref()));
                doc.error(value.span(), message);
            }
            continue;
        }
        let word = SECTION_WORDS.iter().find(|(word, _)| *word == name).map(|(_, section)| *section);
        let near = word.or_else(|| nearest(name, &SECTIONS));
        let hint = near.map_or(String::new(), |near| format!("; did you mean [{near}]?"));
        let message = match value.get_ref() {
            DeValue::Table(_) => format!("unknown section [{name}]{hint}"),
            _ => format!("unknown key `{name}` outside of any section{hint}"),
        };
        doc.error(key.span(), format!("{message} The sections are {}", quoted(&SECTIONS, "[", "]")));
    }
}

pub(super) fn quoted(words: &[&str], open: &str, close: &str) -> String {
    words.iter().map(|word| format!("{open}{word}{close}")).collect::<Vec<_>>().join(", ")
}

/// The tables under `[inputs]` or `[sinks]`, by name, in the order of the file; names are checked.
fn named<'d, 't>(doc: &'d Doc<'t>, table: &'d DeTable<'t>, group: &str, max: usize) -> Vec<(String, Section<'d, 't>)> {
    let Some(DeValue::Table(all)) = table.get(group).map(Spanned::get_ref) else { return Vec::new() };
    let mut all: Vec<_> = all.iter().collect();
    all.sort_by_key(|(key, _)| key.span().start);
    if let Some((key, _)) = all.get(max) {
        doc.error(key.span(), format!("more than {max} {group}"));
    }
    let mut sections = Vec::new();
    for (key, value) in all.into_iter().take(max) {
        let name = key.get_ref().as_ref();
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(good) {
            let message = format!(
                "{group}: \"{}\" is not a name; use a-z, 0-9, `_` and `-`, {NAME_MAX} at most",
                name.escape_debug()
            );
            doc.error(key.span(), message);
        }
        match value.get_ref() {
            DeValue::Table(table) => {
                sections.push((name.to_owned(), Section::new(doc, table, &format!("{group}.{name}"), key.span())));
            }
            DeValue::Array(_) => {
                doc.error(key.span(), format!("write [{group}.{name}] with single brackets; each name stands once"))
            }
            other => {
                let message =
                    format!("{group}.{name}: expected a section such as [{group}.{name}], got {}", describe(other));
                doc.error(key.span(), message);
            }
        }
    }
    sections
}

/// The row of the table of kinds that `type` names.
fn kind_of<'k, K>(
    section: &Section<'_, '_>,
    name: &str,
    kinds: &'k [K],
    name_of: fn(&K) -> &'static str,
) -> Option<&'k K> {
    let names: Vec<&str> = kinds.iter().map(name_of).collect();
    let list = quoted(&names, "\"", "\"");
    if !section.has("type") {
        let near = if names.contains(&name) { name } else { names.first().copied().unwrap_or("") };
        let message =
            format!("{}: `type` is missing; write for example type = \"{near}\" (one of {list})", section.path());
        section.doc().error(section.span(), message);
        return None;
    }
    let word = section.text("type")?;
    if let Some(kind) = kinds.iter().find(|kind| name_of(kind) == word) {
        return Some(kind);
    }
    let known = KIND_WORDS.iter().find(|(other, kind)| *other == word && names.contains(kind)).map(|(_, kind)| *kind);
    let hint =
        known.or_else(|| nearest(&word, &names)).map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
    section.error("type", format!("\"{word}\" is not one of {list}{hint}"));
    None
}

/// What a section reads or where it writes, as it is written, without passwords.
fn about(section: &Section<'_, '_>, kind: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (_, key, default) in ABOUT.iter().filter(|(of, _, _)| *of == kind) {
        let text = |value: &Spanned<DeValue<'_>>| match value.get_ref() {
            DeValue::String(text) => Some(explain::without_password(text)),
            // A listener with rules of its own.
            DeValue::Table(table) => match table.get("address").map(Spanned::get_ref) {
                Some(DeValue::String(text)) => Some(explain::without_password(text)),
                _ => None,
            },
            _ => None,
        };
        match section.table().get(*key) {
            Some(value) => match value.get_ref() {
                DeValue::Array(items) => found.extend(items.iter().filter_map(text)),
                _ => found.extend(text(value)),
            },
            None if !default.is_empty() => found.push((*default).to_owned()),
            None => {}
        }
    }
    found
}

type Parts<T> = (Vec<Named<T>>, Vec<Range<usize>>);

fn inputs<'t>(
    doc: &Doc<'t>,
    table: &DeTable<'t>,
    source: &Source<'_>,
    settings: &mut Vec<Setting>,
) -> Parts<Box<dyn crate::inputs::Input>> {
    let sections = named(doc, table, "inputs", INPUTS_MAX);
    if sections.is_empty() {
        let example = "a section such as [inputs.containers] with type = \"docker\"";
        doc.error(table.get("inputs").map_or(0..0, Spanned::span), format!("no input is configured; add {example}"));
    }
    let (mut parts, mut places) = (Vec::new(), Vec::new());
    for (name, section) in sections {
        let Some(kind) = kind_of(&section, &name, source.kinds.inputs, |kind| kind.name) else { continue };
        let part = (kind.read)(&section, &name);
        let about = about(&section, kind.name);
        settings.extend(explain::of_section(&section));
        places.push(section.span());
        let written = explain::written(section.table());
        section.finish();
        parts.push(Named { name, kind: kind.name, tags: part.tags(), about, required: true, written, part });
    }
    (parts, places)
}

fn sinks<'t>(
    doc: &Doc<'t>,
    table: &DeTable<'t>,
    source: &Source<'_>,
    settings: &mut Vec<Setting>,
) -> Parts<Box<dyn crate::sinks::Sink>> {
    let sections = named(doc, table, "sinks", SINKS_MAX);
    if sections.is_empty() {
        let example = "a section such as [sinks.out] with type = \"stdout\"";
        doc.error(table.get("sinks").map_or(0..0, Spanned::span), format!("no sink is configured; add {example}"));
    }
    let (mut parts, mut places) = (Vec::new(), Vec::new());
    for (name, section) in sections {
        let Some(kind) = kind_of(&section, &name, source.kinds.sinks, |kind| kind.name) else { continue };
        let globs = section.texts("match");
        if globs.as_ref().is_some_and(Vec::is_empty) {
            section.error("match", "an empty list matches nothing; write \"**\" for everything");
        }
        let tags =
            globs.map_or_else(|| vec!["**".to_owned()], |globs| globs.into_iter().map(|(glob, _)| glob).collect());
        let required = section.flag("required").unwrap_or(true);
        let part = (kind.read)(&section, &name);
        let about = about(&section, kind.name);
        settings.extend(explain::of_section(&section));
        places.push(section.span_of("match"));
        let written = explain::written(section.table());
        section.finish();
        parts.push(Named { name, kind: kind.name, tags, about, required, written, part });
    }
    (parts, places)
}

/// The steps, how many there are, and whether one of them changes tags.
fn pipeline(section: Section<'_, '_>, there: bool, settings: &mut Vec<Setting>) -> (Pipeline, usize, bool) {
    let pipeline = Pipeline::read(there.then_some(&section));
    let (mut steps, mut retags) = (0, false);
    if let Some(DeValue::Array(items)) = section.table().get("steps").map(Spanned::get_ref) {
        steps = items.len();
        retags = items.iter().any(|step| matches!(step.get_ref(), DeValue::Table(step) if step.contains_key("tag")));
    }
    settings.extend(explain::of_section(&section));
    section.finish();
    (pipeline, steps, retags)
}

/// Bytes of a stored batch of one record beside its bytes, at most, about: names, tags and tables of fields.
const AROUND_RECORD: usize = 512 << 10;

/// Of records that can not be in the disk log: they go from memory only, and their senders wait meanwhile.
fn warn_too_large(
    doc: &Doc<'_>,
    inputs: &[Named<Box<dyn crate::inputs::Input>>],
    places: &[Range<usize>],
    size: Option<u64>,
) {
    // Without a size it is not known before the start: it depends on the file system.
    let Some(size) = size else { return };
    let frame = crate::buffer::frame_max(size).saturating_sub(AROUND_RECORD);
    for (input, place) in inputs.iter().zip(places) {
        if let Some(record) = input.part.record_max().filter(|record| *record > frame) {
            let name = &input.name;
            let message = format!(
                "inputs.{name}: `record_max` is {record} bytes, and in a disk log of {size} bytes a record has about \
                 {frame} at most; a larger one is acknowledged only when its sinks have it. Lower `record_max`, or raise [buffer] size"
            );
            doc.warn(place.clone(), message);
        }
    }
}

/// Warns of sinks that no input's tags reach, and of inputs whose tags no sink matches.
fn warn_unreached(
    doc: &Doc<'_>,
    (inputs, input_places): (&[Named<Box<dyn crate::inputs::Input>>], &[Range<usize>]),
    (sinks, sink_places): (&[Named<Box<dyn crate::sinks::Sink>>], &[Range<usize>]),
) {
    if inputs.is_empty() || sinks.is_empty() {
        return;
    }
    let meet = |tags: &[String], globs: &[String]| tags.iter().any(|tag| globs.iter().any(|glob| overlap(tag, glob)));
    let list = |tags: &[String]| tags.iter().map(|tag| format!("\"{tag}\"")).collect::<Vec<_>>().join(", ");
    for (sink, place) in sinks.iter().zip(sink_places) {
        if !inputs.iter().any(|input| meet(&input.tags, &sink.tags)) {
            let made: Vec<String> =
                inputs.iter().map(|input| format!("{} makes {}", input.name, list(&input.tags))).collect();
            let message =
                format!("sinks.{}: no tag reaches it: it matches {}; {}", sink.name, list(&sink.tags), made.join("; "));
            doc.warn(place.clone(), message);
        }
    }
    for (input, place) in inputs.iter().zip(input_places) {
        if !sinks.iter().any(|sink| meet(&input.tags, &sink.tags)) {
            let message = format!(
                "inputs.{}: no sink matches its tags ({}); its records would be counted as unrouted and dropped",
                input.name,
                list(&input.tags)
            );
            doc.warn(place.clone(), message);
        }
    }
}
