//! Templates: text with `{path}` in it, for the `tag` and `set` steps and for the `tag` of an input.
//!
//! `docker.{container.name}` and `{level}: {http.path}`. `{{` and `}}` stand for one brace. `${...}` is left alone:
//! variables are replaced before or beside this. What a placeholder leads to is written as text, nested values as JSON.
//!
//! Limits: [`TEXT_MAX`] bytes of template.

use std::ops::Range;

use crate::batch::Batch;
use crate::record::Origin;
use crate::settings::Doc;

use super::path::{Path, of_container};

/// Bytes of a template, at most.
pub const TEXT_MAX: usize = 64 << 10;

/// A template that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Path(Path),
}

/// A mistake in a template: where (bytes of its text) and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// Bytes of the text.
    pub span: Range<usize>,
    /// What, and the way out.
    pub message: String,
}

impl Template {
    /// Reads a template in which variables have been replaced already.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        Self::read(text, str::to_owned)
    }

    /// Reads a template as it stands in the document at `span`; variables are replaced in its plain parts only, so that
    /// a variable can not add a placeholder.
    pub fn parse_in(doc: &Doc<'_>, text: &str, span: Range<usize>) -> Result<Template, TemplateError> {
        Self::read(text, |plain| doc.interpolate(plain, span.clone()))
    }

    fn read(text: &str, plain: impl Fn(&str) -> String) -> Result<Template, TemplateError> {
        let wrong = |span, message: &str| Err(TemplateError { span, message: message.to_owned() });
        if text.len() > TEXT_MAX {
            return wrong(0..text.len(), "longer than 64 KiB");
        }
        let (mut parts, mut open, mut at) = (Vec::new(), String::new(), 0);
        while let Some(step) = text[at..].find(['{', '}', '$']) {
            open.push_str(&text[at..at + step]);
            at += step;
            let rest = &text[at..];
            // `$${` is the way to write a literal `${`; both are for the replacing of variables.
            let variable = rest.trim_start_matches('$');
            if rest.starts_with('$') {
                let dollars = rest.len() - variable.len();
                let len =
                    if variable.starts_with('{') { rest.find('}').map_or(rest.len(), |end| end + 1) } else { dollars };
                open.push_str(&rest[..len]);
                at += len;
            } else if rest.starts_with("{{") || rest.starts_with("}}") {
                open.push_str(&rest[..1]);
                at += 2;
            } else if rest.starts_with('}') {
                return wrong(at..at + 1, "`}` without `{`; write `}}` for a literal one");
            } else {
                let Some(end) = rest.find('}') else {
                    return wrong(at..text.len(), "`{` without `}`; write `{{` for a literal one");
                };
                if !open.is_empty() {
                    parts.push(Part::Text(plain(&std::mem::take(&mut open))));
                }
                let path = Path::parse(&rest[1..end]).map_err(|(bad, message)| TemplateError {
                    span: at + 1 + bad..(at + 1 + bad + 1).min(text.len()),
                    message: format!("in `{}`: {message}", &rest[..=end]),
                })?;
                parts.push(Part::Path(path));
                at += end + 1;
            }
        }
        open.push_str(&text[at..]);
        if !open.is_empty() {
            parts.push(Part::Text(plain(&open)));
        }
        Ok(Template { parts })
    }

    /// The text, if there is no placeholder.
    pub fn constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The path, if the template is one placeholder and nothing else.
    pub fn single(&self) -> Option<&Path> {
        match self.parts.as_slice() {
            [Part::Path(path)] => Some(path),
            _ => None,
        }
    }

    /// The paths of its placeholders.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().filter_map(|part| match part {
            Part::Path(path) => Some(path),
            Part::Text(_) => None,
        })
    }

    /// Appends the text for row `at`. On a placeholder that leads nowhere it is returned, and `out` is as before.
    pub fn write<'t>(&'t self, batch: &Batch, at: usize, out: &mut Vec<u8>) -> Result<(), &'t Path> {
        let before = out.len();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Path(path) => match path.find(batch, at) {
                    Some(found) => found.write_text(out),
                    None => {
                        out.truncate(before);
                        return Err(path);
                    }
                },
            }
        }
        Ok(())
    }

    /// The text for everything that comes from `origin`: for the tag of an input. Knows `container.*`, `file` and
    /// `peer`; what is unknown is left out.
    pub fn for_origin(&self, origin: &Origin) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Path(path) => out.push_str(of_origin(path, origin).unwrap_or_default()),
            }
        }
        out
    }

    /// The first placeholder that [`for_origin`](Self::for_origin) does not know, whatever the origin.
    pub fn beyond_origin(&self) -> Option<&Path> {
        self.paths().find(|path| {
            let parts: Vec<&str> = path.parts().iter().map(String::as_str).collect();
            !matches!(
                parts.as_slice(),
                ["file" | "peer"] | ["container", "name" | "id" | "image"] | ["container", "labels", _, ..]
            )
        })
    }

    /// The tags that it can make, as a pattern: a placeholder is any number of parts, or any text within one.
    pub fn pattern(&self) -> String {
        let mut whole = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => whole.push_str(text),
                Part::Path(_) => whole.push('\0'),
            }
        }
        let parts = whole.split('.').map(|part| if part == "\0" { "**".to_owned() } else { part.replace('\0', "*") });
        parts.collect::<Vec<String>>().join(".")
    }
}

fn of_origin<'a>(path: &Path, origin: &'a Origin) -> Option<&'a str> {
    match path.parts() {
        [name] if name == "file" => origin.file.as_deref(),
        [name] if name == "peer" => origin.peer.as_deref(),
        [name, rest @ ..] if name == "container" => of_container(origin.container.as_ref()?, rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Container;

    #[test]
    fn placeholders_variables_and_braces_are_told_apart() {
        let cases = [
            ("docker.{container.name}", "docker.web", "docker.**"),
            ("a{{b}}", "a{b}", "a{b}"),
            ("web-{container.name}", "web-web", "web-*"),
            ("{container.labels.\"a.b\"}.x", "L.x", "**.x"),
            ("${NOT:-mine}", "${NOT:-mine}", "${NOT:-mine}"),
            ("$1 and $${x}", "$1 and $${x}", "$1 and $${x}"),
            ("{file}", "", "**"),
        ];
        let container = Container {
            id: "0123456789abcdef".to_owned(),
            name: "web".to_owned(),
            image: String::new(),
            labels: vec![("a.b".to_owned(), "L".to_owned())],
        };
        let origin = Origin { container: Some(container), ..Origin::default() };
        for (text, expected, pattern) in cases {
            let template = Template::parse(text).expect(text);
            assert_eq!(template.for_origin(&origin), expected, "{text}");
            assert_eq!(template.pattern(), pattern, "{text}");
            assert_eq!(template.beyond_origin(), None, "{text}");
        }
        let template = Template::parse("{level}").expect("valid");
        assert_eq!(template.beyond_origin().map(Path::as_str), Some("level"));
    }

    #[test]
    fn a_mistake_in_a_template_has_its_place() {
        for (text, span) in [("a{b", 1..3), ("a}b", 1..2), ("a{}", 2..3), ("{a..b}", 3..4), ("{a b}", 2..3)] {
            let error = Template::parse(text).expect_err(text);
            assert_eq!(error.span, span, "{text}: {}", error.message);
        }
    }

    #[test]
    fn a_variable_can_not_add_a_placeholder() {
        let doc = Doc::new("c.toml", "", |_| Some("{secret}".to_owned()));
        let template = Template::parse_in(&doc, "x ${EVIL} {a}", 0..0).expect("valid");
        assert_eq!(template.paths().map(Path::as_str).collect::<Vec<_>>(), ["a"]);
    }
}
