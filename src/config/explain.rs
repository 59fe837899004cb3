//! Every setting with its value and where it comes from: the text of `check --explain`. Secrets are never in it.

use std::fmt::Write as _;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::is_secret_key;
use crate::settings::{Doc, Section};

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The section, such as `inputs.apps`.
    pub section: String,
    /// The key.
    pub key: String,
    /// The value in effect, or as it is written; empty where only the component knows its default.
    pub value: String,
    /// `file:line`, `default`, `environment LOG_LEVEL`, `flag --log-level`.
    pub origin: String,
}

/// Everything that a component's section says, in the order of the file, then every key that it left at its default.
pub(super) fn of_section(section: &Section<'_, '_>) -> Vec<Setting> {
    let mut given: Vec<_> = section.table().iter().collect();
    given.sort_by_key(|(key, _)| key.span().start);
    let setting = |key: &str, value: String, origin: String| Setting {
        section: section.path().to_owned(),
        key: key.to_owned(),
        value,
        origin,
    };
    let mut all: Vec<Setting> = Vec::new();
    for (key, value) in &given {
        let name = key.get_ref().as_ref();
        let mut add = |name: &str, value: &Spanned<DeValue<'_>>| {
            all.push(setting(name, show(key.get_ref(), value.get_ref()), origin(section.doc(), value.span().start)));
        };
        match value.get_ref() {
            // The steps: one a line.
            DeValue::Array(items) if items.iter().any(|item| matches!(item.get_ref(), DeValue::Table(_))) => {
                items.iter().enumerate().for_each(|(at, item)| add(&format!("{name}[{at}]"), item));
            }
            _ => add(name, value),
        }
    }
    for known in section.known() {
        if !given.iter().any(|(key, _)| key.get_ref() == known) {
            all.push(setting(known, String::new(), "default".to_owned()));
        }
    }
    all
}

/// Notes where a setting of the frame comes from.
pub(super) fn note(
    settings: &mut Vec<Setting>,
    section: &Section<'_, '_>,
    key: &str,
    value: String,
    from: Option<&str>,
) {
    let origin = match (from, section.table().get(key)) {
        (Some(from), _) => from.to_owned(),
        (None, Some(value)) => origin(section.doc(), value.span().start),
        (None, None) => "default".to_owned(),
    };
    settings.push(Setting { section: section.path().to_owned(), key: key.to_owned(), value, origin });
}

/// `file:line` of a byte.
pub(super) fn origin(doc: &Doc<'_>, at: usize) -> String {
    let place = doc.place(at);
    place.rsplit_once(':').map_or(place.clone(), |(line, _)| line.to_owned())
}

/// A value as TOML on one line. A text under a secret's key is hidden, unless it only says where the secret is.
fn show(key: &str, value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) if is_secret_key(key) && !text.starts_with("secret:") => "\"***\"".to_owned(),
        DeValue::String(text) if text.contains("://") && text.contains('@') => format!("{:?}", without_password(text)),
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| show(key, item.get_ref())).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) => {
            let mut pairs: Vec<_> = table.iter().collect();
            pairs.sort_by_key(|(key, _)| key.span().start);
            let pairs: Vec<String> = pairs
                .iter()
                .map(|(key, value)| format!("{} = {}", key.get_ref(), show(key.get_ref(), value.get_ref())))
                .collect();
            format!("{{ {} }}", pairs.join(", "))
        }
    }
}

/// A section with everything that it says, secrets too, in one order and without places: equal for equal sections.
pub(super) fn written(table: &DeTable<'_>) -> String {
    let mut pairs: Vec<String> =
        table.iter().map(|(key, value)| format!("{:?} = {}", key.get_ref(), written_value(value.get_ref()))).collect();
    pairs.sort_unstable();
    format!("{{{}}}", pairs.join(", "))
}

fn written_value(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| written_value(item.get_ref())).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) => written(table),
        // Numbers, flags and dates hide nothing.
        other => show("", other),
    }
}

/// A URL without what stands between `//` and `@`.
pub(super) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let host_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..host_end].rfind('@') {
        Some(at) => format!("{scheme}://***@{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

/// All settings as text, by section; the origin is a comment.
pub(super) fn render(settings: &[Setting]) -> String {
    let mut out = String::new();
    let mut section = "";
    for setting in settings {
        if setting.section != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            // Writing to a String can not fail.
            let _ = writeln!(out, "{gap}[{}]", setting.section);
            section = &setting.section;
        }
        let line = if setting.value.is_empty() {
            format!("# {}", setting.key)
        } else {
            format!("{} = {}", setting.key, setting.value)
        };
        let _ = writeln!(out, "{line:<50} # {}", setting.origin);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use toml::de::DeTable;

    #[test]
    fn secrets_are_hidden_at_any_depth_and_references_are_shown() {
        let text = r#"token = "abc"
auth = { user = "u", password = "p1" }
key = "x"
ref_token = "secret:ingest"
url = "https://u:p2@host/x?y=@z"
authorization = ["Basic p3"]
steps = [
  { join = "docker_partial" },
  { set = { api_key = "p4" } },
]
"#;
        let doc = Doc::new("c.toml", text, |_| None);
        let table = DeTable::parse(text).expect("valid TOML");
        let section = Section::new(&doc, table.get_ref(), "sinks.x", 0..0);
        section.has("batch");
        section.has("steps");
        let shown = render(&of_section(&section));
        for secret in ["abc", "p1", "p2", "p3", "p4"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(shown.contains("ref_token = \"secret:ingest\""), "{shown}");
        assert!(shown.contains("https://***@host/x?y=@z"), "{shown}");
        assert!(shown.contains("user = \"u\"") && shown.contains("# c.toml:2\n"), "{shown}");
        assert!(
            shown.contains("steps[0] = { join = \"docker_partial\" }") && shown.contains("# c.toml:9\n"),
            "{shown}"
        );
        assert!(shown.contains("# batch") && shown.trim_end().ends_with("# default"), "{shown}");
    }
}
