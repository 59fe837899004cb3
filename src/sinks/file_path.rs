//! Path templates of the file sink: `/var/log/longshore/{tag}/%Y-%m-%d.ndjson`.
//!
//! The part before the first placeholder is the base: the operator's own words, used as they are. Whatever comes from a
//! record becomes part of one path component and nothing else: no `/`, no `\`, no control character, no leading dot
//! (so no `..`), never empty, at most [`VALUE_MAX`] bytes (then cut, with a hash of the whole).
//!
//! Times are the record's, in UTC. A record more than a day ahead of the clock counts as of now, and so does one of
//! 1970 or before, so that odd times can not make files without end in the future.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::batch::Batch;
use crate::codec::time;
use crate::record::{Stream, Timestamp};

/// Bytes of a substituted value, at most.
const VALUE_MAX: usize = 128;
const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400 * SECOND;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Tag,
    ContainerName,
    ContainerId,
    Stream,
    /// `strftime` directives, such as `%Y-%m-%d`.
    Time(String),
}

/// A template that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The folder that is used as it stands.
    base: PathBuf,
    /// What comes below it.
    pieces: Vec<Piece>,
    /// Nanoseconds after which the time's text changes; `None` where there is no time in it.
    grain: Option<i64>,
}

/// What the path of a record depends on: records of one batch with the same key have the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    tag: u8,
    stream: Stream,
    /// Which of the batch's origins, where the path names the container.
    place: u8,
    /// Number of the time's grain since 1970.
    grain: i64,
}

impl Template {
    /// Reads a template. The error says what is wrong and what there is.
    pub fn new(text: &str) -> Result<Template, String> {
        let (pieces, grain) = pieces(text)?;
        let (base, pieces) = split_base(pieces);
        let below: String = pieces.iter().map(|piece| if let Piece::Text(text) = piece { text } else { "x" }).collect();
        match below.rsplit('/').next() {
            None | Some("" | "." | "..") => {
                return Err("it names a folder; end it with a file name, such as out.ndjson".to_owned());
            }
            Some(_) => {}
        }
        if below.split('/').any(|part| part == "..") {
            return Err("`..` below a placeholder; write the folder itself".to_owned());
        }
        Ok(Template { base, pieces, grain })
    }

    /// The folder that does not depend on records.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The one path below the base, where no record has a say in it.
    pub fn fixed(&self) -> Option<String> {
        match self.pieces.as_slice() {
            [Piece::Text(text)] => Some(text.clone()),
            _ => None,
        }
    }

    /// What the path of row `at` depends on.
    pub fn key(&self, batch: &Batch, at: usize, now: Timestamp) -> Key {
        let row = batch.row(at);
        let grain = self.grain.map_or(0, |grain| {
            let time = if row.time == Timestamp::UNREAD { time::of(batch, at) } else { Some(row.time) };
            let fit = |time: &Timestamp| time.0 > 0 && time.0 <= now.0.saturating_add(DAY);
            time.filter(fit).unwrap_or(now).0.div_euclid(grain)
        });
        let by_container = self.pieces.iter().any(|piece| matches!(piece, Piece::ContainerName | Piece::ContainerId));
        let place = if by_container { row.place() } else { 0 };
        Key { tag: row.tag, stream: row.stream, place, grain }
    }

    /// The path below the base for rows of that key.
    pub fn path(&self, batch: &Batch, key: Key) -> String {
        let mut path = String::new();
        let container = batch.origin_in(key.place).container.as_ref();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => path.push_str(text),
                Piece::Tag => push_safe(batch.tags()[usize::from(key.tag)].as_str(), &mut path),
                Piece::ContainerName => push_safe(container.map_or("", |container| container.name_or_id()), &mut path),
                Piece::ContainerId => push_safe(container.map_or("", |container| container.id.as_str()), &mut path),
                Piece::Stream => push_safe(key.stream.name().unwrap_or(""), &mut path),
                Piece::Time(format) => push_time(format, key.grain * self.grain.unwrap_or(1), &mut path),
            }
        }
        path
    }
}

fn pieces(text: &str) -> Result<(Vec<Piece>, Option<i64>), String> {
    if text.is_empty() || text.contains('\0') {
        return Err("it is empty or holds a NUL".to_owned());
    }
    let mut pieces: Vec<Piece> = Vec::new();
    let mut grain: Option<i64> = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = match c {
            '{' => {
                let end = rest.find('}').ok_or("`{` without `}`")?;
                pieces.push(match &rest[1..end] {
                    "tag" => Piece::Tag,
                    "container.name" => Piece::ContainerName,
                    "container.id" => Piece::ContainerId,
                    "stream" => Piece::Stream,
                    other => {
                        let known = ["tag", "container.name", "container.id", "stream"];
                        let near = crate::settings::nearest(other, &known);
                        let hint = near.map_or(String::new(), |near| format!("; did you mean {{{near}}}?"));
                        return Err(format!("{{{other}}} is not one of {{{}}}{hint}", known.join("}, {")));
                    }
                });
                end + 1
            }
            '%' => {
                let directive = rest.chars().nth(1).unwrap_or(' ');
                if directive == '%' {
                    push_text(&mut pieces, "%");
                } else {
                    let unit = match directive {
                        'S' => SECOND,
                        'M' => 60 * SECOND,
                        'H' => 3600 * SECOND,
                        'Y' | 'y' | 'm' | 'd' | 'j' | 'F' => DAY,
                        other => {
                            return Err(format!(
                                "%{other} is not one of %Y %m %d %H %M %S %F %j %y; %% is a percent sign"
                            ));
                        }
                    };
                    grain = Some(grain.map_or(unit, |grain| grain.min(unit)));
                    pieces.push(Piece::Time(format!("%{directive}")));
                }
                2
            }
            c => {
                push_text(&mut pieces, c.encode_utf8(&mut [0; 4]));
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    Ok((pieces, grain))
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if let Some(Piece::Text(last)) = pieces.last_mut() {
        last.push_str(text);
    } else {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

/// Splits what does not depend on records off, up to its last `/`.
fn split_base(mut pieces: Vec<Piece>) -> (PathBuf, Vec<Piece>) {
    if let Some(Piece::Text(text)) = pieces.first_mut()
        && let Some(slash) = text.rfind('/')
    {
        let base = if slash == 0 { "/".to_owned() } else { text[..slash].to_owned() };
        text.drain(..=slash);
        if text.is_empty() {
            pieces.remove(0);
        }
        return (PathBuf::from(base), pieces);
    }
    (PathBuf::from("."), pieces)
}

/// Appends a value as part of one path component (see the header).
fn push_safe(value: &str, path: &mut String) {
    let cut = value.floor_char_boundary(VALUE_MAX.min(value.len()));
    for (at, c) in value[..cut].char_indices() {
        let harmful = matches!(c, '/' | '\\') || c.is_control() || (at == 0 && c == '.');
        path.push(if harmful { '_' } else { c });
    }
    if value.is_empty() {
        path.push('_');
    }
    if cut < value.len() {
        // Writing to a String can not fail.
        let _ = write!(path, "-{:08x}", crc32c::crc32c(value.as_bytes()));
    }
}

fn push_time(format: &str, nanoseconds: i64, path: &mut String) {
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default();
    let _ = write!(path, "{}", time.strftime(format));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use crate::sinks::request::tests::batch;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_795_428_900_000_000_000); // 2026-11-23T10:15:00Z

    fn path(template: &str, tag: &str) -> String {
        let template = Template::new(template).expect("a template");
        let batch = batch(&Budget::new(1 << 20), &[(tag, "1")]);
        template.path(&batch, template.key(&batch, 0, NOW))
    }

    #[test]
    fn values_and_times_are_put_in() {
        let template = "/logs/{tag}/{container.name}-{stream}/%Y-%m-%d_%H%M%S.ndjson";
        assert_eq!(path(template, "docker.web"), "docker.web/web-stdout/2026-11-23_101500.ndjson");
        assert_eq!(path("x/%F/%j%%{container.id}", "t"), format!("2026-11-23/327%{}", &"c0ffee".repeat(11)[..64]));
        assert_eq!(Template::new("/logs/x-{tag}").expect("good").base(), Path::new("/logs"));
        assert_eq!(Template::new("out.ndjson").expect("good").fixed().as_deref(), Some("out.ndjson"));
        assert_eq!(Template::new("/out.ndjson").expect("good").base(), Path::new("/"));
        assert_eq!(Template::new("a/{tag}").expect("good").fixed(), None);
    }

    #[test]
    fn a_tag_never_leaves_its_component() {
        for (tag, expected) in [
            ("../../x", "_._.._x"),
            ("..", "_."),
            (".", "_"),
            ("", "_"),
            ("/etc/passwd", "_etc_passwd"),
            (".hidden", "_hidden"),
            ("a\\b\u{0}c\nd", "a_b_c_d"),
        ] {
            assert_eq!(path("{tag}/out", tag), format!("{expected}/out"), "{tag:?}");
        }
        let long = path("{tag}", &"ä".repeat(200));
        assert_eq!(long.len(), VALUE_MAX + 9);
        assert_ne!(long, path("{tag}", &"ä".repeat(201)));
    }

    #[test]
    fn odd_times_count_as_now() {
        let template = Template::new("%Y").expect("a template");
        let mut batch = batch(&Budget::new(1 << 20), &[("t", "1")]);
        for (time, year) in [(NOW.0 + DAY, "2026"), (NOW.0 + 400 * DAY, "2026"), (0, "2026"), (DAY * 366, "1971")] {
            batch.row_mut(0).time = Timestamp(time);
            assert_eq!(template.path(&batch, template.key(&batch, 0, NOW)), year, "{time}");
        }
    }

    #[test]
    fn mistakes_are_named_with_the_way_out() {
        for (template, expected) in [
            ("/logs/", "ends"),
            ("/logs/{tag}/..", "folder"),
            ("/logs/{tag}/../x", "`..`"),
            ("{tga}", "did you mean {tag}?"),
            ("{tag", "`{` without `}`"),
            ("%Q", "%Q is not one of"),
            ("x%", "% "),
            ("", "empty"),
        ] {
            let error = Template::new(template).expect_err(template);
            assert!(
                error.contains(expected) || (expected == "ends" && error.contains("end it")),
                "{template}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_value_is_one_harmless_component(value in "\\PC*|[./\\\\\u{0}-\u{20}a]{0,300}") {
            let mut out = String::new();
            push_safe(&value, &mut out);
            prop_assert!(!out.is_empty() && out.len() <= VALUE_MAX + 9);
            prop_assert!(!out.starts_with('.') && !out.contains(['/', '\\', '\0', '\n']));
        }
    }
}
