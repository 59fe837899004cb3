//! Reads `[pipeline] steps = [ {..}, .. ]`: each step is one inline table whose verb is its key.
//!
//! Every mistake is reported at its place; a mistake within a condition or template at its place within the string.
//!
//! Limit: [`STEPS_MAX`] steps.

use std::ops::Range;
use std::time::Duration;

use jiff::tz::TimeZone;
use toml::Spanned;
use toml::de::DeValue;

use crate::record::TagGlob;
use crate::settings::{Doc, Section, describe, nearest};

use super::condition::Condition;
use super::path::Path;
use super::template::Template;
use super::{Action, Pipeline, Step, condition_text, filter, join, mask, parse, set, tag, time};

/// Steps, at most.
pub const STEPS_MAX: usize = 256;

const VERBS: [&str; 11] = ["join", "parse", "time", "set", "rename", "remove", "mask", "drop", "keep", "sample", "tag"];
/// Keys beside the verb, of any step. `keep` is a verb of its own, and of `time` an option.
const OPTIONS: [&str; 15] = [
    "match",
    "where",
    "from",
    "into",
    "on_error",
    "pattern",
    "patterns",
    "formats",
    "zone",
    "by",
    "keep",
    "line_max",
    "lines_max",
    "wait",
    "acked_wait",
];

impl Pipeline {
    /// Reads the section `[pipeline]`; without it there are no steps. The caller finishes the section.
    pub fn read(section: Option<&Section<'_, '_>>) -> Pipeline {
        let mut pipeline = Pipeline::default();
        let Some((section, steps)) = section.and_then(|section| Some((section, section.raw("steps")?))) else {
            return pipeline;
        };
        let DeValue::Array(items) = steps.get_ref() else {
            section.error("steps", format!("expected a list of steps, got {}", describe(steps.get_ref())));
            return pipeline;
        };
        if items.len() > STEPS_MAX {
            section.error("steps", format!("{} steps, {STEPS_MAX} at most", items.len()));
        }
        for (at, item) in items.iter().enumerate().take(STEPS_MAX) {
            let path = format!("{}.steps[{at}]", section.path());
            match item.get_ref() {
                DeValue::Table(table) => {
                    let section = Section::new(section.doc(), table, &path, item.span());
                    pipeline.read_step(section, at);
                }
                other => {
                    let message = format!("{path}: expected a step such as {{ parse = \"json\" }}");
                    section.doc().error(item.span(), format!("{message}, got {}", describe(other)));
                }
            }
        }
        pipeline
    }

    fn read_step(&mut self, section: Section<'_, '_>, at: usize) {
        let Some(verb) = verb_of(&section) else {
            return;
        };
        let globs = match section.texts("match") {
            Some(texts) if texts.is_empty() => {
                section.error("match", "an empty list matches no tag; leave `match` out for all tags");
                Vec::new()
            }
            texts => texts.unwrap_or_default().iter().map(|(text, _)| TagGlob::new(text)).collect(),
        };
        if verb == "join" {
            section.choice("join", &[("docker_partial", ())]);
            if section.has("where") {
                section.error("where", "`join` has no `where`: pieces are no records yet; `match` chooses tags");
            }
            if at > 0 {
                section.error("join", "`join` has to be the first step: the others would see pieces of lines");
            }
            self.join = Some(globs);
            self.join_limits = read_join_limits(&section);
            return section.finish();
        }
        let condition = section.has("where").then(|| read_condition(&section, "where")).flatten();
        let action = match verb {
            "parse" => read_parse(&section),
            "time" => read_time(&section),
            "set" => read_set(&section),
            "rename" => read_rename(&section),
            "remove" => read_remove(&section),
            "mask" => read_mask(&section),
            "sample" => read_sample(&section),
            "tag" => read_template(&section, "tag").map(|template| Action::Tag(tag::Retag(template))),
            "drop" => read_condition(&section, "drop")
                .map(|condition| Action::Filter(filter::Filter { condition, keeps: false })),
            _ => read_condition(&section, "keep")
                .map(|condition| Action::Filter(filter::Filter { condition, keeps: true })),
        };
        section.finish();
        if let Some(action) = action {
            self.steps.push(Step { globs, condition, action });
        }
    }
}

fn read_join_limits(section: &Section<'_, '_>) -> join::Limits {
    let usual = join::Limits::default();
    let usize_of = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let time = |key, usual| section.time(key, Duration::from_millis(10)..Duration::from_secs(3_601)).unwrap_or(usual);
    join::Limits {
        // No less than a piece of Docker's, or every line would be "too long".
        line_max: usize_of(section.size("line_max", 16 << 10..(16 << 20) + 1).unwrap_or(usual.line_max as u64)),
        lines_max: usize_of(section.count("lines_max", 1..4_097).unwrap_or(usual.lines_max as u64)),
        wait: time("wait", usual.wait),
        acked_wait: time("acked_wait", usual.acked_wait),
    }
}

/// The one verb of a step.
fn verb_of(section: &Section<'_, '_>) -> Option<&'static str> {
    let mut keys: Vec<(Range<usize>, &str)> =
        section.table().keys().map(|key| (key.span(), key.get_ref().as_ref())).collect();
    keys.sort_by_key(|(span, _)| span.start);
    let verbs: Vec<(&Range<usize>, &'static str)> =
        keys.iter().filter_map(|(span, key)| Some((span, *VERBS.iter().find(|verb| *verb == key)?))).collect();
    // `{ time = "ts", keep = true }`: there `keep` is an option.
    let is_option = |verb: &str| verb == "keep" && verbs.iter().any(|(_, other)| *other == "time");
    let mut verbs = verbs.iter().filter(|(_, verb)| !is_option(verb));
    match (verbs.next(), verbs.next()) {
        (Some((_, verb)), None) => Some(verb),
        (Some((_, first)), Some((span, second))) => {
            let message = format!("{}: one step has one verb, this has `{first}` and `{second}`", section.path());
            section.doc().error((*span).clone(), format!("{message}; write two steps"));
            None
        }
        (None, _) => {
            let unknown = keys.iter().find(|(_, key)| !OPTIONS.contains(key));
            let (span, message) = match unknown {
                Some((span, key)) => {
                    let hint = nearest(key, &VERBS).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                    (span.clone(), format!("unknown step `{key}`{hint}"))
                }
                None => (section.span(), "a step has a verb".to_owned()),
            };
            let hint = if message.contains("did you") { String::new() } else { format!(": {}", VERBS.join(", ")) };
            section.doc().error(span, format!("{}: {message}{hint}", section.path()));
            None
        }
    }
}

/// The string of `key` as it stands, variables not replaced.
fn raw_text<'d>(section: &Section<'d, '_>, key: &'static str, example: &str) -> Option<(&'d str, Range<usize>)> {
    let value = section.raw(key)?;
    match value.get_ref() {
        DeValue::String(text) => Some((text, value.span())),
        other => {
            section.error(key, format!("expected a string such as {example}, got {}", describe(other)));
            None
        }
    }
}

fn read_condition(section: &Section<'_, '_>, key: &'static str) -> Option<Condition> {
    let (text, span) = raw_text(section, key, "'level == \"debug\"'")?;
    let doc = section.doc();
    match condition_text::parse(text, &|plain| doc.interpolate(plain, span.clone())) {
        Ok(condition) => Some(condition),
        Err(error) => {
            let place = within(doc, &span, text, &error.span);
            doc.error(place, format!("{}.{key}: {}", section.path(), error.message));
            None
        }
    }
}

fn template(section: &Section<'_, '_>, key: &str, text: &str, span: Range<usize>) -> Option<Template> {
    let doc = section.doc();
    match Template::parse_in(doc, text, span.clone()) {
        Ok(template) => Some(template),
        Err(error) => {
            let place = within(doc, &span, text, &error.span);
            doc.error(place, format!("{}.{key}: {}", section.path(), error.message));
            None
        }
    }
}

fn read_template(section: &Section<'_, '_>, key: &'static str) -> Option<Template> {
    let (text, span) = raw_text(section, key, "\"api.{service}\"")?;
    if text.is_empty() {
        section.error(key, "an empty tag");
        return None;
    }
    template(section, key, text, span)
}

/// The place in the document of a place within a string's text, through escapes.
fn within(doc: &Doc<'_>, span: &Range<usize>, text: &str, inner: &Range<usize>) -> Range<usize> {
    let raw = doc.text().get(span.clone()).unwrap_or_default();
    if let Some(at) = raw.find(text) {
        return span.start + at + inner.start..span.start + at + inner.end;
    }
    let quotes = if raw.starts_with("\"\"\"") { 3 } else { 1 };
    let first_break = raw.get(quotes..).map_or(0, |body| body.len() - body.trim_start_matches(['\r', '\n']).len());
    let (mut at, mut decoded) = (quotes + first_break, 0);
    let (mut start, mut end) = (None, None);
    while let Some(c) = raw.get(at..).and_then(|rest| rest.chars().next()) {
        if decoded >= inner.start {
            start.get_or_insert(at);
        }
        if decoded >= inner.end {
            end.get_or_insert(at);
            break;
        }
        let digits = match (c, raw[at + 1..].chars().next()) {
            ('\\', Some('x')) => Some(2),
            ('\\', Some('u')) => Some(4),
            ('\\', Some('U')) => Some(8),
            ('\\', _) => Some(0),
            _ => None,
        };
        match digits {
            Some(digits) => {
                let code = raw.get(at + 2..at + 2 + digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
                decoded += code.and_then(char::from_u32).map_or(1, char::len_utf8);
                at += 2 + digits;
            }
            None => {
                decoded += c.len_utf8();
                at += c.len_utf8();
            }
        }
    }
    let start = span.start + start.unwrap_or(0);
    start..end.map_or(span.end, |end| span.start + end).max(start)
}

fn read_path(section: &Section<'_, '_>, key: &str, text: &str, span: Range<usize>) -> Option<Path> {
    match Path::parse(text) {
        Ok(path) => Some(path),
        Err((at, message)) => {
            let place = within(section.doc(), &span, text, &(at..at + 1));
            section.doc().error(place, format!("{}.{key}: {message}", section.path()));
            None
        }
    }
}

fn read_parse(section: &Section<'_, '_>) -> Option<Action> {
    let format = section.choice("parse", &[("json", 0), ("logfmt", 1), ("regex", 2)]);
    let from = section.text("from").unwrap_or_else(|| "log".to_owned());
    let into = section.text("into");
    let drops = section.choice("on_error", &[("keep", false), ("drop", true)]).unwrap_or(false);
    let pattern = section.text("pattern");
    for (key, text) in [("from", Some(&from)), ("into", into.as_ref())] {
        if text.is_some_and(String::is_empty) {
            section.error(key, "a field has a name");
        }
    }
    let format = match (format?, pattern) {
        (2, Some(pattern)) => match condition_text::regex(&pattern) {
            Ok(regex) => {
                if regex.capture_names().flatten().next().is_none() {
                    section.error("pattern", "it has no named group; write for example (?<level>[A-Z]+)");
                }
                parse::Format::Regex(parse::Pattern::new(regex))
            }
            Err(message) => {
                section.error("pattern", message);
                return None;
            }
        },
        (2, None) => {
            if !section.has("pattern") {
                let example = "pattern = '^(?<level>[A-Z]+) (?<message>.*)$'";
                section.error("parse", format!("`pattern` is missing; for example {example}"));
            }
            return None;
        }
        (_, Some(_)) => {
            section.error("pattern", "only `parse = \"regex\"` has a pattern");
            return None;
        }
        (0, None) => parse::Format::Json,
        (_, None) => parse::Format::Logfmt,
    };
    Some(Action::Parse(parse::Parse { format, from, into, drops }))
}

fn read_time(section: &Section<'_, '_>) -> Option<Action> {
    let (text, span) = raw_text(section, "time", "\"ts\"")?;
    let from = read_path(section, "time", text, span);
    let keeps = section.flag("keep").unwrap_or(false);
    let mut formats = Vec::new();
    let texts = section.texts("formats");
    if texts.as_ref().is_some_and(Vec::is_empty) {
        section.error("formats", "an empty list; leave it out for \"rfc3339\" and \"epoch\"");
    }
    for (text, span) in texts.unwrap_or_default() {
        match time::Format::parse(&text) {
            Ok(format) => formats.push(format),
            Err(message) => section.doc().error(span, format!("{}.formats: {message}", section.path())),
        }
    }
    if formats.is_empty() {
        formats = vec![time::Format::Rfc3339, time::Format::EpochBySize];
    }
    let zone = section.text("zone").map_or(Some(TimeZone::UTC), |name| {
        TimeZone::get(&name)
            .map_err(|_| {
                section.error("zone", format!("\"{name}\" is no time zone; write for example \"Europe/Rome\""))
            })
            .ok()
    });
    Some(Action::Time(time::Time { from: from?, formats, keeps, zone: zone? }))
}

/// The entries of a table in the order of the document.
fn entries<'d, 't>(
    section: &Section<'d, 't>,
    key: &'static str,
    example: &str,
) -> Vec<(&'d str, Range<usize>, &'d Spanned<DeValue<'t>>)> {
    let Some(value) = section.raw(key) else {
        return Vec::new();
    };
    let DeValue::Table(table) = value.get_ref() else {
        section.error(key, format!("expected a table such as {example}, got {}", describe(value.get_ref())));
        return Vec::new();
    };
    let mut all: Vec<_> = table.iter().map(|(key, value)| (key.get_ref().as_ref(), key.span(), value)).collect();
    all.sort_by_key(|(_, span, _)| span.start);
    if all.iter().any(|(name, ..)| name.is_empty()) {
        section.error(key, "a field has a name");
    }
    all
}

fn read_set(section: &Section<'_, '_>) -> Option<Action> {
    let mut settings = Vec::new();
    for (name, _, value) in entries(section, "set", "{ env = \"dev\" }") {
        let plain = |text: &str| Some(set::Setting::Json(text.to_owned()));
        let setting = match value.get_ref() {
            DeValue::String(text) => {
                template(section, &format!("set.{name}"), text, value.span()).map(set::Setting::Template)
            }
            DeValue::Boolean(true) => plain("true"),
            DeValue::Boolean(false) => plain("false"),
            DeValue::Integer(number) => {
                let parsed = i128::from_str_radix(&number.as_str().replace('_', ""), number.radix());
                parsed.ok().map(|number| set::Setting::Json(number.to_string()))
            }
            DeValue::Float(number) => match number.as_str().replace('_', "").trim_start_matches('+').parse::<f64>() {
                Ok(number) if number.is_finite() => plain(ryu::Buffer::new().format_finite(number)),
                _ => {
                    let message = format!("{}.set.{name}: JSON has no such number", section.path());
                    section.doc().error(value.span(), message);
                    None
                }
            },
            other => {
                let expected = "expected a string, a number, true or false";
                let message = format!("{}.set.{name}: {expected}, got {}", section.path(), describe(other));
                section.doc().error(value.span(), message);
                None
            }
        };
        settings.extend(setting.map(|setting| (name.to_owned(), setting)));
    }
    Some(Action::Set(set::Set(settings)))
}

fn read_rename(section: &Section<'_, '_>) -> Option<Action> {
    let mut names = Vec::new();
    for (old, _, value) in entries(section, "rename", "{ msg = \"message\" }") {
        match value.get_ref() {
            DeValue::String(new) if !new.is_empty() => {
                let new = section.doc().interpolate(new, value.span());
                names.push((old.to_owned(), new));
            }
            other => {
                let message = format!("{}.rename.{old}: expected a name, got {}", section.path(), describe(other));
                section.doc().error(value.span(), message);
            }
        }
    }
    Some(Action::Rename(set::Rename(names)))
}

fn read_remove(section: &Section<'_, '_>) -> Option<Action> {
    let texts = section.texts("remove").unwrap_or_default();
    let paths = texts.iter().filter_map(|(text, span)| read_path(section, "remove", text, span.clone()));
    Some(Action::Remove(set::Remove(paths.collect())))
}

fn read_mask(section: &Section<'_, '_>) -> Option<Action> {
    let names = section.texts("mask").unwrap_or_default();
    let texts = section.texts("patterns").unwrap_or_default();
    if names.len() > mask::NAMES_MAX || texts.len() > mask::PATTERNS_MAX {
        section.error("mask", format!("{} names and {} patterns at most", mask::NAMES_MAX, mask::PATTERNS_MAX));
        return None;
    }
    if names.is_empty() && texts.is_empty() {
        section.error("mask", "nothing to hide; name fields, or give `patterns`");
    }
    let mut patterns = Vec::new();
    for (text, span) in texts {
        match mask::Pattern::parse(&text) {
            Ok(pattern) => patterns.push(pattern),
            Err(message) => section.doc().error(span, format!("{}.patterns: {message}", section.path())),
        }
    }
    Some(Action::Mask(mask::Mask::new(names.into_iter().map(|(name, _)| name).collect(), patterns)))
}

fn read_sample(section: &Section<'_, '_>) -> Option<Action> {
    let by = match raw_text(section, "by", "\"trace_id\"") {
        Some((text, span)) => Some(read_path(section, "by", text, span)?),
        None => None,
    };
    let (text, _) = raw_text(section, "sample", "\"1/10\" or \"10%\"")?;
    match filter::Sample::parse(&section.doc().interpolate(text, section.span_of("sample")), by) {
        Ok(sample) => Some(Action::Sample(sample)),
        Err(message) => {
            section.error("sample", message);
            None
        }
    }
}
