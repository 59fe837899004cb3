//! Reading configuration: sections of a TOML document whose every key and value keeps its place, so that all mistakes
//! come out in one run as `file:line:column`, with the way out.
//!
//! A component reads its own section by asking for keys ([`Section::size`], [`Section::text`], ...); what it asked for
//! is what exists, so [`Section::finish`] can name every unknown key and suggest the nearest known one. Getters report
//! a mistake and return `None`; the caller goes on with its default, and nothing starts if anything was reported.
//!
//! Rules: sizes, times and rates carry a unit; `${VAR}` and `${VAR:-default}` are replaced in strings only, after
//! parsing, so a variable can never add structure; `$${` is a literal `${`; `secret:x` reads `<secrets>/x`, else
//! `$CREDENTIALS_DIRECTORY/x` (systemd's `LoadCredential`), else the file that `$X_FILE` names, and the result is never printed.

use std::cell::RefCell;
use std::fmt;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::profile;

/// Bytes of a secret's file, at most.
const SECRET_MAX: u64 = 64 << 10;

/// A text that is never printed: passwords, tokens, keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    text: String,
    /// Where it was read from.
    file: Option<PathBuf>,
}

impl Secret {
    /// Wraps a text.
    pub fn new(text: String) -> Secret {
        Secret { text, file: None }
    }

    /// The text, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// What its file says now; itself, if it is from no file. Line breaks at the end do not belong to it.
    ///
    /// # Errors
    /// The file can not be read, is empty, or has more than [`SECRET_MAX`] bytes. The text names the file, never what is
    /// in it.
    pub fn read_again(&self) -> std::io::Result<Secret> {
        let Some(file) = &self.file else { return Ok(self.clone()) };
        let named = |error: std::io::Error| {
            std::io::Error::new(error.kind(), format!("{}: {}", file.display(), profile::named(&error)))
        };
        let wrong = |what: &str| named(std::io::Error::new(std::io::ErrorKind::InvalidData, what));
        let mut bytes = Vec::new();
        let opened = std::fs::File::open(file).map_err(named)?;
        opened.take(SECRET_MAX + 1).read_to_end(&mut bytes).map_err(named)?;
        if bytes.len() as u64 > SECRET_MAX {
            return Err(wrong("it has more than 64KiB; is it the right file?"));
        }
        let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8; is it the right file?"))?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err(wrong("it is empty; put the secret into the file"));
        }
        Ok(Secret { text: text.to_owned(), file: Some(file.clone()) })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing starts.
    Error,
    /// Probably not what was meant.
    Warning,
}

/// One finding in the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// Byte range in the document.
    pub span: Range<usize>,
    /// What and the way out, lower case, without a full stop.
    pub message: String,
}

/// A document and what was found in it so far.
pub struct Doc<'t> {
    name: String,
    text: &'t str,
    env: Box<dyn Fn(&str) -> Option<String> + 't>,
    secrets: RefCell<PathBuf>,
    findings: RefCell<Vec<Finding>>,
}

impl<'t> Doc<'t> {
    /// A document called `name` in messages; `env` looks up variables.
    pub fn new(name: &str, text: &'t str, env: impl Fn(&str) -> Option<String> + 't) -> Doc<'t> {
        Doc {
            name: name.to_owned(),
            text,
            env: Box::new(env),
            secrets: RefCell::new(PathBuf::from("/run/secrets")),
            findings: RefCell::default(),
        }
    }

    /// The whole text.
    pub fn text(&self) -> &'t str {
        self.text
    }

    /// The folder that `secret:x` reads from.
    pub fn set_secrets(&self, folder: &Path) {
        *self.secrets.borrow_mut() = folder.to_owned();
    }

    /// Reports a mistake at `span`.
    pub fn error(&self, span: Range<usize>, message: impl Into<String>) {
        let finding = Finding { severity: Severity::Error, span, message: message.into() };
        self.findings.borrow_mut().push(finding);
    }

    /// Reports something that is probably not meant.
    pub fn warn(&self, span: Range<usize>, message: impl Into<String>) {
        let finding = Finding { severity: Severity::Warning, span, message: message.into() };
        self.findings.borrow_mut().push(finding);
    }

    /// All findings in the order of the document.
    pub fn findings(&self) -> Vec<Finding> {
        let mut all = self.findings.borrow().clone();
        all.sort_by_key(|finding| (finding.span.start, finding.span.end));
        all
    }

    /// `file:line:column` of a byte, both counted from 1, columns in characters.
    pub fn place(&self, at: usize) -> String {
        let before = &self.text[..self.text.floor_char_boundary(at)];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        format!("{}:{line}:{column}", self.name)
    }

    /// A finding as it is printed: `file:line:column: error: message`.
    pub fn render(&self, finding: &Finding) -> String {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        format!("{}: {severity}: {}", self.place(finding.span.start), finding.message)
    }

    /// Replaces `${VAR}` and `${VAR:-default}`. For texts with a grammar of their own, which ask for it part by part,
    /// so that a variable can not add structure there either.
    pub fn interpolate(&self, text: &str, span: Range<usize>) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at]);
                out.push('{');
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let Some(end) = rest[at..].find('}') else {
                self.error(span, "`${` without `}`; write `$${` for a literal `${`");
                return out;
            };
            let inner = &rest[at + 2..at + end];
            let (name, default) = match inner.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inner, None),
            };
            match ((self.env)(name).filter(|value| !value.is_empty() || default.is_none()), default) {
                (Some(value), _) => out.push_str(&value),
                (None, Some(default)) => out.push_str(default),
                (None, None) => self.error(
                    span.clone(),
                    format!("the environment has no `{name}`; set it, or write `${{{name}:-default}}`"),
                ),
            }
            rest = &rest[at + end + 1..];
        }
        out.push_str(rest);
        out
    }

    /// What a text that may be `secret:name` stands for, reported at `span` if there is no such secret.
    pub fn secret(&self, text: String, span: Range<usize>) -> Option<Secret> {
        match text.strip_prefix("secret:") {
            Some(name) => self.read_secret(name, span),
            None => Some(Secret::new(text)),
        }
    }

    /// Reads the secret that `secret:name` refers to.
    fn read_secret(&self, name: &str, span: Range<usize>) -> Option<Secret> {
        if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
            self.error(span, "a secret's name is one file name, such as `secret:ingest_token`");
            return None;
        }
        let variable = format!("{}_FILE", name.to_uppercase().replace(['-', '.'], "_"));
        let in_folder = self.secrets.borrow().join(name);
        let from_env = |variable: &str| (self.env)(variable).filter(|text| !text.is_empty()).map(PathBuf::from);
        let credential = from_env("CREDENTIALS_DIRECTORY").map(|folder| folder.join(name));
        let found = [Some(in_folder.clone()), credential.clone()].into_iter().flatten().find(|path| path.exists());
        let Some(path) = found.or_else(|| from_env(&variable)) else {
            let credential = credential.map_or(String::new(), |path| format!(", nor {}", path.display()));
            self.error(
                span,
                format!(
                    "no secret `{name}`: neither the file {}{credential}, nor the variable {variable}",
                    in_folder.display()
                ),
            );
            return None;
        };
        match (Secret { text: String::new(), file: Some(path) }).read_again() {
            Ok(secret) => Some(secret),
            Err(error) => {
                self.error(span, format!("secret `{name}`: {error}"));
                None
            }
        }
    }
}

/// One table of the document.
pub struct Section<'d, 't> {
    doc: &'d Doc<'t>,
    table: &'d DeTable<'t>,
    path: String,
    span: Range<usize>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'d, 't> Section<'d, 't> {
    /// A section called `path` in messages (`inputs.apps`), which stands at `span`.
    pub fn new(doc: &'d Doc<'t>, table: &'d DeTable<'t>, path: &str, span: Range<usize>) -> Section<'d, 't> {
        Section { doc, table, path: path.to_owned(), span, asked: RefCell::default() }
    }

    /// The document.
    pub fn doc(&self) -> &'d Doc<'t> {
        self.doc
    }

    /// The section's name in messages.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where the section stands.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The raw table, for sections whose keys are names.
    pub fn table(&self) -> &'d DeTable<'t> {
        self.table
    }

    /// Where the value of `key` stands, or the section if it is not there.
    pub fn span_of(&self, key: &str) -> Range<usize> {
        self.table.get(key).map_or_else(|| self.span(), Spanned::span)
    }

    /// Reports a mistake in the value of `key`.
    pub fn error(&self, key: &str, message: impl fmt::Display) {
        self.doc.error(self.span_of(key), format!("{}.{key}: {message}", self.path));
    }

    /// Whether `key` is there. Counts as asked for.
    pub fn has(&self, key: &'static str) -> bool {
        self.raw(key).is_some()
    }

    /// The raw value of `key`.
    pub fn raw(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'t>>> {
        self.asked.borrow_mut().push(key);
        self.table.get(key)
    }

    fn wrong(&self, key: &str, value: &DeValue<'_>, wanted: &str) {
        self.error(key, format!("expected {wanted}, got {}", describe(value)));
    }

    /// A string, interpolated.
    pub fn text(&self, key: &'static str) -> Option<String> {
        let value = self.raw(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(self.doc.interpolate(text, value.span())),
            other => {
                self.wrong(key, other, "a string");
                None
            }
        }
    }

    /// A string that has to be there.
    pub fn required_text(&self, key: &'static str, example: &str) -> Option<String> {
        if !self.has(key) {
            self.doc.error(self.span(), format!("{}: `{key}` is missing; for example {key} = {example}", self.path));
        }
        self.text(key)
    }

    /// A list of strings; a single string is a list of one. With the span of each.
    pub fn texts(&self, key: &'static str) -> Option<Vec<(String, Range<usize>)>> {
        let value = self.raw(key)?;
        let one = |value: &Spanned<DeValue<'t>>| match value.get_ref() {
            DeValue::String(text) => Some((self.doc.interpolate(text, value.span()), value.span())),
            other => {
                let message = format!("{}.{key}: expected a string, got {}", self.path, describe(other));
                self.doc.error(value.span(), message);
                None
            }
        };
        match value.get_ref() {
            DeValue::Array(items) => Some(items.iter().filter_map(one).collect()),
            _ => one(value).map(|one| vec![one]),
        }
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &'static str) -> Option<bool> {
        let value = self.raw(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            other => {
                self.wrong(key, other, "true or false");
                None
            }
        }
    }

    /// A whole number within `range`: counts, which have no unit.
    pub fn count(&self, key: &'static str, range: Range<u64>) -> Option<u64> {
        let value = self.raw(key)?;
        match value.get_ref() {
            DeValue::Integer(number) => {
                let count = u64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok();
                let fits = count.filter(|count| range.contains(count));
                if fits.is_none() {
                    self.error(key, format!("{} is not within {} to {}", number.as_str(), range.start, range.end - 1));
                }
                fits
            }
            other => {
                self.wrong(key, other, "a whole number");
                None
            }
        }
    }

    /// A size in bytes within `range`: "64MiB", "10kB".
    pub fn size(&self, key: &'static str, range: Range<u64>) -> Option<u64> {
        let text = self.unit_text(key, "MiB")?;
        match parse_size(&text) {
            Ok(size) if range.contains(&size) => Some(size),
            Ok(_) => {
                let bounds = (show_size(range.start), show_size(range.end - 1));
                self.error(key, format!("\"{text}\" is not within {} to {}", bounds.0, bounds.1));
                None
            }
            Err(message) => {
                self.error(key, message);
                None
            }
        }
    }

    /// A length of time within `range`: "250ms", "30s", "1h".
    pub fn time(&self, key: &'static str, range: Range<Duration>) -> Option<Duration> {
        let text = self.unit_text(key, "s")?;
        match parse_time(&text) {
            Ok(time) if range.contains(&time) => Some(time),
            Ok(_) => {
                self.error(key, format!("\"{text}\" is not within {:?} to {:?}", range.start, range.end));
                None
            }
            Err(message) => {
                self.error(key, message);
                None
            }
        }
    }

    /// A string that needs a unit; a bare number gets the right text as a suggestion.
    fn unit_text(&self, key: &'static str, unit: &str) -> Option<String> {
        let value = self.raw(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(self.doc.interpolate(text, value.span())),
            DeValue::Integer(number) => {
                self.error(key, format!("{0} has no unit; write \"{0}{unit}\"", number.as_str()));
                None
            }
            DeValue::Float(number) => {
                self.error(key, format!("{0} has no unit; write \"{0}{unit}\"", number.as_str()));
                None
            }
            other => {
                self.wrong(key, other, &format!("a text with a unit, such as \"10{unit}\""));
                None
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let hint = nearest(&text, &words).map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
            let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
            self.error(key, format!("\"{text}\" is not one of {}{hint}", quoted.join(", ")));
        }
        found
    }

    /// A secret: `secret:name`, or the text itself.
    pub fn secret(&self, key: &'static str) -> Option<Secret> {
        let text = self.text(key)?;
        match text.strip_prefix("secret:") {
            Some(name) => self.doc.read_secret(name, self.span_of(key)),
            None => Some(Secret::new(text)),
        }
    }

    /// A table within this section.
    pub fn section(&self, key: &'static str) -> Option<Section<'d, 't>> {
        let value = self.raw(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Section::new(self.doc, table, &format!("{}.{key}", self.path), value.span())),
            other => {
                self.wrong(key, other, "a table, such as { size = \"1MiB\" }");
                None
            }
        }
    }

    /// A table whose keys are names and whose values are strings, in the document's order.
    pub fn pairs(&self, key: &'static str) -> Option<Vec<(String, String, Range<usize>)>> {
        let section = self.section(key)?;
        let mut pairs = Vec::new();
        for (name, value) in section.table {
            match value.get_ref() {
                DeValue::String(text) => {
                    let text = self.doc.interpolate(text, value.span());
                    pairs.push((name.get_ref().to_string(), text, value.span()));
                }
                other => {
                    let message = format!("{}.{key}.{}: expected a string, got {}", self.path, name, describe(other));
                    self.doc.error(value.span(), message);
                }
            }
        }
        pairs.sort_by_key(|(_, _, span)| span.start);
        Some(pairs)
    }

    /// Every key that was asked for so far, once each.
    pub fn known(&self) -> Vec<&'static str> {
        let mut known = Vec::new();
        for key in self.asked.borrow().iter() {
            if !known.contains(key) {
                known.push(*key);
            }
        }
        known
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self) {
        let asked = self.asked.borrow();
        for key in self.table.keys() {
            let name = key.get_ref();
            if !asked.iter().any(|known| *known == name.as_ref()) {
                let hint = nearest(name, &asked).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                self.doc.error(key.span(), format!("unknown key `{name}` in [{}]{hint}", self.path));
            }
        }
    }
}

/// What a value is, in words for a message.
pub fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) if text.len() <= 40 => format!("the string \"{}\"", text.escape_debug()),
        DeValue::String(_) => "a string".to_owned(),
        DeValue::Integer(number) => format!("the number {}", number.as_str()),
        DeValue::Float(number) => format!("the number {}", number.as_str()),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// The known word nearest to `word`, if it is near enough to be what was meant.
pub fn nearest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    let allowed = (word.chars().count() / 3).max(1);
    let scored = known.iter().map(|candidate| (strsim::damerau_levenshtein(word, candidate), *candidate));
    scored.filter(|(distance, _)| *distance <= allowed).min_by_key(|(distance, _)| *distance).map(|(_, near)| near)
}

/// Reads a size: a number and one of B, kB, MB, GB, TB (1000) or KiB, MiB, GiB, TiB (1024).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let units: [(&str, u64); 9] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
    ];
    let number = |digits: &str| digits.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    for (unit, bytes) in units {
        if let Some(digits) = text.trim().strip_suffix(unit) {
            return match number(digits) {
                // Sizes are far below 2^53, so the float is exact enough.
                Some(number) => Ok((number * bytes as f64) as u64),
                None => Err(format!("\"{text}\" is not a size; write for example \"64MiB\"")),
            };
        }
    }
    Err(match number(text) {
        Some(_) => format!("\"{0}\" has no unit; write \"{0}MiB\"", text.trim()),
        None => format!("\"{text}\" is not a size; write for example \"64MiB\" (B, kB, MB, GB, KiB, MiB, GiB)"),
    })
}

/// A size with the largest unit that divides it.
pub fn show_size(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

/// Reads a length of time: a number and one of ms, s, m, h, d.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    for (unit, ms) in [("ms", 1.0), ("s", 1e3), ("m", 60e3), ("h", 3_600e3), ("d", 86_400e3)] {
        if let Some(digits) = text.trim().strip_suffix(unit)
            && let Ok(number) = digits.trim().parse::<f64>()
            && (0.0..1e12).contains(&number)
        {
            return Ok(Duration::from_micros((number * ms * 1e3) as u64));
        }
    }
    Err(match text.trim().parse::<f64>() {
        Ok(_) => format!("\"{0}\" has no unit; write \"{0}s\"", text.trim()),
        Err(_) => format!("\"{text}\" is not a length of time; write for example \"30s\" (ms, s, m, h, d)"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, ask: impl Fn(&Section<'_, '_>)) -> Vec<String> {
        let doc = Doc::new("c.toml", text, |name| (name == "HOME").then(|| "/root".to_owned()));
        let table = DeTable::parse(text).expect("valid TOML");
        let section = Section::new(&doc, table.get_ref(), "node", table.span());
        ask(&section);
        section.finish();
        doc.findings().iter().map(|finding| doc.render(finding)).collect()
    }

    #[test]
    fn every_mistake_is_reported_with_its_place_and_a_way_out() {
        let text = "memry = \"1MiB\"\nsize = 64\nwait = \"5\"\nmode = \"blok\"\n";
        let found = read(text, |section| {
            section.size("memory", 0..u64::MAX);
            section.size("size", 0..u64::MAX);
            section.time("wait", Duration::ZERO..Duration::MAX);
            section.choice("mode", &[("block", 1), ("drop", 2)]);
        });
        assert_eq!(
            found,
            [
                "c.toml:1:1: error: unknown key `memry` in [node]; did you mean `memory`?",
                "c.toml:2:8: error: node.size: 64 has no unit; write \"64MiB\"",
                "c.toml:3:8: error: node.wait: \"5\" has no unit; write \"5s\"",
                "c.toml:4:8: error: node.mode: \"blok\" is not one of \"block\", \"drop\"; did you mean \"block\"?",
            ]
        );
    }

    #[test]
    fn a_panic_over_what_holds_a_secret_shows_none_of_it() {
        let secret = Secret::new("canary-7f1c0ffee5".to_owned());
        // What `expect` and a failed assertion print is the Debug text of what they hold.
        let told = std::panic::catch_unwind(|| {
            let (here, there) = (("user", Some(&secret)), ("user", None));
            assert_eq!(here, there, "a secret in hand");
        });
        let panic = told.expect_err("it panics");
        let text = panic.downcast_ref::<String>().expect("with a text");
        assert!(text.contains("a secret in hand") && text.contains("***"), "{text}");
        assert!(!text.contains("canary") && !format!("{secret:#?}").contains("canary"), "{text}");
    }

    #[test]
    fn a_secret_is_found_in_the_folder_then_among_the_credentials_then_by_its_variable() {
        let dir = tempfile::tempdir().expect("a folder");
        let places: Vec<PathBuf> = ["secrets", "credentials", "elsewhere"].map(|name| dir.path().join(name)).into();
        for place in &places {
            std::fs::create_dir(place).expect("writable");
            std::fs::write(place.join("api-key"), format!("of {}\n", place.display())).expect("writable");
        }
        let read = || {
            let doc = Doc::new("c.toml", "", |name| match name {
                "CREDENTIALS_DIRECTORY" => Some(places[1].display().to_string()),
                "API_KEY_FILE" => Some(places[2].join("api-key").display().to_string()),
                _ => None,
            });
            doc.set_secrets(&places[0]);
            let secret = doc.secret("secret:api-key".to_owned(), 0..0).expect("it is there");
            secret.expose().to_owned()
        };
        for place in &places {
            assert_eq!(read(), format!("of {}", place.display()));
            std::fs::remove_file(place.join("api-key")).expect("ours");
        }
    }

    #[test]
    fn variables_are_replaced_after_parsing_and_only_in_strings() {
        let text = r#"a = "${HOME}/x"
b = "${NOPE:-dev}"
c = "$${HOME}"
d = "${NOPE}"
"#;
        let found = read(text, |section| {
            assert_eq!(section.text("a").as_deref(), Some("/root/x"));
            assert_eq!(section.text("b").as_deref(), Some("dev"));
            assert_eq!(section.text("c").as_deref(), Some("${HOME}"));
            section.text("d");
        });
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("the environment has no `NOPE`"), "{found:?}");
    }

    #[test]
    fn sizes_and_times_need_units() {
        assert_eq!(parse_size("1.5KiB"), Ok(1536));
        assert_eq!(parse_size("10kB"), Ok(10_000));
        assert_eq!(parse_time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_time("1.5h"), Ok(Duration::from_secs(5400)));
        assert!(parse_size("x").is_err() && parse_time("5 parsecs").is_err() && parse_time("-1s").is_err());
        assert_eq!(show_size(64 << 20), "64MiB");
    }
}
