//! Findings as a person reads them: `file:line:column: error: message`, the line it stands on, and a caret below.
//!
//! Limits: at most [`EXCERPT_MAX`] characters of a line are shown, around the place. The value of a key that usually
//! holds a secret is shown as `***`; control characters are shown as `?`, so that a file can not steer the terminal.

use std::fmt;
use std::ops::Range;

use crate::settings::{Doc, Severity};

/// Characters of the offending line that are shown, at most.
const EXCERPT_MAX: usize = 100;

/// One finding, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// How bad.
    pub severity: Severity,
    /// `file:line:column`, or `file` or `environment` where there is no such place.
    pub place: String,
    /// What and the way out.
    pub message: String,
    /// The line's number, the line (perhaps a window of it), and where the caret goes in it, in characters.
    excerpt: Option<(usize, String, Range<usize>)>,
}

/// All findings of one run, in the order of the document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The findings.
    pub findings: Vec<Shown>,
}

impl Report {
    /// Everything that was found in `doc`.
    pub fn of(doc: &Doc<'_>) -> Report {
        let shown = |finding: &crate::settings::Finding| Shown {
            severity: finding.severity,
            place: doc.place(finding.span.start),
            message: finding.message.clone(),
            excerpt: excerpt(doc.text(), &finding.span),
        };
        let mut findings: Vec<Shown> = doc.findings().iter().map(shown).collect();
        findings.dedup();
        Report { findings }
    }

    /// A report of one error that has no place in a document.
    pub fn error(place: &str, message: impl Into<String>) -> Report {
        let mut report = Report::default();
        report.push(Severity::Error, place, message);
        report
    }

    /// Adds a finding that has no place in the document.
    pub fn push(&mut self, severity: Severity, place: &str, message: impl Into<String>) {
        self.findings.push(Shown { severity, place: place.to_owned(), message: message.into(), excerpt: None });
    }

    /// How many findings are that bad.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// Whether nothing may start.
    pub fn is_fatal(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// The text, in colours for a terminal if wanted.
    pub fn render(&self, color: bool) -> String {
        let mut out = String::new();
        for finding in &self.findings {
            let (word, paint) = match finding.severity {
                Severity::Error => ("error", "\x1b[1;31m"),
                Severity::Warning => ("warning", "\x1b[1;33m"),
            };
            let (on, off) = if color { (paint, "\x1b[0m") } else { ("", "") };
            out.push_str(&format!("{}: {on}{word}{off}: {}\n", finding.place, clean(&finding.message)));
            if let Some((number, line, caret)) = &finding.excerpt {
                let number = number.to_string();
                let gutter = " ".repeat(number.len());
                let (before, under) = (" ".repeat(caret.start), "^".repeat(caret.len()));
                out.push_str(&format!("  {number} | {line}\n  {gutter} | {before}{on}{under}{off}\n"));
            }
        }
        let (errors, warnings) = (self.count(Severity::Error), self.count(Severity::Warning));
        if errors > 0 {
            let also = if warnings > 0 { format!(" and {}", plural(warnings, "warning")) } else { String::new() };
            out.push_str(&format!("{}{also}\n", plural(errors, "error")));
        }
        out
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// "1 error", "2 errors".
pub fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

/// Whether a key of this name usually holds a secret.
pub fn is_secret_key(key: &str) -> bool {
    let key = key.to_lowercase();
    [
        "token",
        "password",
        "passwd",
        "secret",
        "authorization",
        "api_key",
        "apikey",
        "api-key",
        "shared_key",
        "credential",
        "cookie",
        "x-auth",
    ]
    .iter()
    .any(|word| key.contains(word))
        && key != "secrets"
}

/// The line that `span` starts on, and the caret's place in it.
fn excerpt(text: &str, span: &Range<usize>) -> Option<(usize, String, Range<usize>)> {
    if span.is_empty() && span.start == 0 || span.start > text.len() {
        return None;
    }
    let start = text.floor_char_boundary(span.start);
    let end = text.floor_char_boundary(span.end.min(text.len())).max(start);
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[line_start..].find(['\n', '\r']).map_or(text.len(), |at| line_start + at).max(start);
    let line = &text[line_start..line_end];
    let number = text[..line_start].matches('\n').count() + 1;
    let from = text[line_start..start].chars().count();
    let len = text[start..end.min(line_end).max(start)].chars().count().max(1);
    if let Some((key, _)) = line.split_once('=').filter(|(key, _)| is_secret_key(key)) {
        let key_len = key.chars().count();
        let caret = if from <= key_len { from..from + len.min(key_len.max(1)) } else { key_len + 2..key_len + 5 };
        return Some((number, format!("{}= ***", clean(key)), caret));
    }
    if secret_inside(line) {
        return None;
    }
    // A window that holds the place, and a little before it.
    let skip = if from + len.min(EXCERPT_MAX / 2) > EXCERPT_MAX { from - EXCERPT_MAX / 4 } else { 0 };
    let shown: String =
        line.chars().skip(skip).take(EXCERPT_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let width = shown.chars().count().max(from - skip + 1);
    Some((number, shown, from - skip..(from - skip + len).min(width)))
}

/// Whether an inline table on this line has a key that usually holds a secret, or a URL has a login: such a line is not
/// shown at all.
fn secret_inside(line: &str) -> bool {
    if line.split_once("://").is_some_and(|(_, rest)| rest.contains('@')) {
        return true;
    }
    let mut parts = line.split('=').rev().skip(1);
    parts.any(|before| {
        let key = before.trim_end().rsplit(['{', ',', ' ', '.']).next().unwrap_or("");
        is_secret_key(key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doc(text: &str) -> Doc<'_> {
        Doc::new("c.toml", text, |_| None)
    }

    #[test]
    fn a_finding_shows_its_line_and_a_caret_below_the_value() {
        let text = "[node]\nmemory = 64\n";
        let doc = doc(text);
        doc.error(16..18, "no unit");
        let expected = "c.toml:2:10: error: no unit\n  2 | memory = 64\n    |          ^^\n1 error\n";
        assert_eq!(Report::of(&doc).to_string(), expected);
        assert!(Report::of(&doc).render(true).contains("\x1b[1;31merror\x1b[0m"));
    }

    #[test]
    fn a_secret_on_the_offending_line_is_not_shown() {
        for text in [
            "token = \"hunter2\"\n",
            "auth = { user = \"x\", password = \"hunter2\" }\n",
            "a.token=\"hunter2\"",
            "url = \"http://u:hunter2/x@h\"",
        ] {
            let doc = doc(text);
            doc.error(text.len() - 5..text.len() - 1, "bad");
            let shown = Report::of(&doc).to_string();
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn a_long_line_is_shown_as_a_window_around_the_place() {
        let text = format!("paths = [{}\"here\"]", "\"x\", ".repeat(2000));
        let doc = doc(&text);
        doc.error(text.len() - 7..text.len() - 1, "bad");
        let shown = Report::of(&doc).to_string();
        let lines: Vec<&str> = shown.lines().collect();
        let at = lines[2].find('^').expect("a caret");
        assert!(lines[1][at..].starts_with("\"here\""), "{shown}");
        assert!(lines[1].len() < 120);
    }

    #[test]
    fn places_at_the_end_and_in_the_middle_of_text_never_panic() {
        let text = "é = \"日本\"\r\n\tx = 1";
        for start in 0..=text.len() {
            for end in start..=text.len() + 3 {
                let doc = doc(text);
                doc.error(start..end, "bad");
                assert!(Report::of(&doc).to_string().contains("bad"));
            }
        }
    }
}
