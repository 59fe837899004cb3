//! longshore's own log: on standard error, as text or as JSON lines.
//!
//! Text: `2026-11-24T10:15:00.123456Z INFO message key=value`. What others sent (tags, paths, names) can be in it, so
//! every control character is escaped: a log line is one line, and can not steer a terminal. A standard error that is
//! closed or full costs lines, never the program (`log/stderr.rs`).
//!
//! Limits: a message that the outside can cause at will goes through a [`Limited`]: some a minute by key, with the
//! count of those left out; [`KEYS_MAX`] keys.

mod stderr;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level as Severity, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload;

use stderr::Stderr;

/// Keys that a [`Limited`] remembers, at most; beyond them all others share one.
pub const KEYS_MAX: usize = 1024;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The least severe that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// Something does not work.
    Error,
    /// And: worth a look.
    Warn,
    /// And: what happens in the large.
    #[default]
    Info,
    /// And: what happens in the small.
    Debug,
    /// Everything.
    Trace,
}

/// The words for [`Format`].
pub const FORMATS: [(&str, Format); 2] = [("text", Format::Text), ("json", Format::Json)];
/// The words for [`Level`]; `warning` is what others call `warn`.
pub const LEVELS: [(&str, Level); 6] = [
    ("error", Level::Error),
    ("warn", Level::Warn),
    ("info", Level::Info),
    ("debug", Level::Debug),
    ("trace", Level::Trace),
    ("warning", Level::Warn),
];

impl Format {
    /// The word.
    pub fn name(self) -> &'static str {
        FORMATS.iter().find(|(_, format)| *format == self).map_or("text", |(word, _)| word)
    }
}

impl Level {
    /// The word.
    pub fn name(self) -> &'static str {
        LEVELS.iter().find(|(_, level)| *level == self).map_or("info", |(word, _)| word)
    }

    fn filter(self) -> LevelFilter {
        match self {
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
            Level::Trace => LevelFilter::TRACE,
        }
    }
}

/// `[telemetry] log`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How lines look.
    pub format: Format,
    /// The least severe that is written.
    pub level: Level,
}

/// What changes the level of this process's log.
static LEVEL: OnceLock<Box<dyn Fn(Level) + Send + Sync>> = OnceLock::new();

/// Starts the log of this process. A second call does nothing.
pub fn start(settings: Settings) {
    let (level, handle) = reload::Layer::new(settings.level.filter());
    let to = Stderr::new(io::stderr(), settings.format);
    let subscriber = subscriber(settings.format, level, color_wanted(), move || to.clone());
    // Fails only if a log was started before.
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        // Fails only when the subscriber is gone, which lives as long as the process.
        let _ = LEVEL.set(Box::new(move |level| drop(handle.modify(|filter| *filter = level.filter()))));
    }
}

/// Changes the level of the log that was started.
pub fn set_level(level: Level) {
    if let Some(set) = LEVEL.get() {
        set(level);
    }
}

/// Whether standard error takes colours: a terminal, and `NO_COLOR` (no-color.org) is not set to anything.
pub fn color_wanted() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    io::stderr().is_terminal() && !refused && !dumb
}

fn subscriber<W: io::Write + 'static>(
    format: Format,
    level: impl Layer<Registry> + Send + Sync + 'static,
    color: bool,
    writer: impl Fn() -> W + Send + Sync + 'static,
) -> Box<dyn Subscriber + Send + Sync> {
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false).log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(level);
    match format {
        Format::Text => Box::new(registry.with(layer.event_format(Text { color }))),
        Format::Json => {
            let json = layer.json().flatten_event(true).with_target(false);
            Box::new(registry.with(json.with_current_span(false).with_span_list(false)))
        }
    }
}

/// Lines for people.
struct Text {
    color: bool,
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (word, paint) = match *event.metadata().level() {
            Severity::ERROR => ("ERROR", "\x1b[31m"),
            Severity::WARN => ("WARN", "\x1b[33m"),
            Severity::INFO => ("INFO", "\x1b[32m"),
            Severity::DEBUG => ("DEBUG", "\x1b[34m"),
            Severity::TRACE => ("TRACE", "\x1b[35m"),
        };
        let (on, off) = if self.color { (paint, "\x1b[0m") } else { ("", "") };
        SystemTime.format_time(&mut out)?;
        write!(out, " {on}{word}{off}")?;
        let mut line = Line::default();
        event.record(&mut line);
        writeln!(out, "{}{}", line.message, line.fields)
    }
}

/// The message first, then the fields.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn put(&mut self, field: &Field, text: &str) {
        // Writing to a String can not fail.
        if field.name() == "message" {
            let _ = write!(self.message, " {}", Escaped(text));
        } else if text.is_empty() || text.contains([' ', '=', '"']) {
            let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
            let _ = write!(self.fields, " {}=\"{}\"", field.name(), Escaped(&quoted));
        } else {
            let _ = write!(self.fields, " {}={}", field.name(), Escaped(text));
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}"));
    }
}

/// A text whose control characters, and those that change the direction of text, are written as escapes.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if c.is_control() => write!(f, "\\u{{{:x}}}", c as u32)?,
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}' => {
                    write!(f, "\\u{{{:x}}}", c as u32)?;
                }
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Writes text for people to standard error, whole; a closed one is no error.
pub fn tell(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Holds back messages that the outside can cause at will: so many a minute by key.
///
/// ```
/// use longshore::log::Limited;
/// static REFUSED: Limited = Limited::new(5);
/// if let Some(left_out) = REFUSED.allow("10.0.0.1") {
///     tracing::warn!(peer = "10.0.0.1", left_out, "refused");
/// }
/// ```
#[derive(Debug)]
pub struct Limited {
    per_minute: u32,
    keys: Mutex<BTreeMap<String, Window>>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    said: u32,
    left_out: u64,
}

impl Limited {
    /// So many messages a minute for each key.
    pub const fn new(per_minute: u32) -> Limited {
        Limited { per_minute, keys: Mutex::new(BTreeMap::new()) }
    }

    /// Whether the message may be written now; if so, how many were left out since the last one of this key.
    pub fn allow(&self, key: &str) -> Option<u64> {
        self.allow_at(key, Instant::now())
    }

    /// The same at a given time.
    pub fn allow_at(&self, key: &str, now: Instant) -> Option<u64> {
        const MINUTE: Duration = Duration::from_secs(60);
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS_MAX && !keys.contains_key(key) {
            keys.retain(|_, window| window.left_out > 0 || now.duration_since(window.since) < MINUTE);
        }
        let key = if keys.len() >= KEYS_MAX && !keys.contains_key(key) { "" } else { key };
        let window = keys.entry(key.to_owned()).or_insert(Window { since: now, said: 0, left_out: 0 });
        if now.duration_since(window.since) >= MINUTE {
            window.since = now;
            window.said = 0;
        }
        if window.said >= self.per_minute {
            window.left_out += 1;
            return None;
        }
        window.said += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What this thread writes to the log meanwhile.
    pub fn logged(settings: Settings, color: bool, say: impl FnOnce()) -> String {
        let shared = Shared::default();
        let writer = shared.clone();
        let subscriber = subscriber(settings.format, settings.level.filter(), color, move || writer.clone());
        tracing::subscriber::with_default(subscriber, say);
        String::from_utf8(shared.0.lock().expect("no panic").clone()).expect("text")
    }

    #[test]
    fn control_bytes_of_others_are_escaped_in_text() {
        let text = logged(Settings::default(), false, || {
            tracing::warn!(tag = "a\x1b[31m\nb", peer = %"x y\"z", n = 7u64, "bad\u{9b}\u{202e}tag\r\n");
            tracing::debug!("not at this level");
        });
        assert!(
            text.ends_with("WARN bad\\u{9b}\\u{202e}tag\\r\\n tag=a\\u{1b}[31m\\nb peer=\"x y\\\"z\" n=7\n"),
            "{text:?}"
        );
        assert_eq!(text.matches('\n').count(), 1);
    }

    #[test]
    fn json_lines_are_one_object_each() {
        let settings = Settings { format: Format::Json, level: Level::Debug };
        let text = logged(settings, true, || tracing::debug!(tag = "a\x1b\n", n = 7u64, "said"));
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&value["message"], &value["tag"], &value["n"]), (&"said".into(), &"a\x1b\n".into(), &7.into()));
        assert_eq!(value["level"], "DEBUG");
        assert_eq!(text.matches('\n').count(), 1);
    }

    #[test]
    fn a_noisy_message_is_said_so_often_and_then_counted() {
        let limited = Limited::new(2);
        let start = Instant::now();
        let said: Vec<Option<u64>> = (0..5).map(|_| limited.allow_at("a", start)).collect();
        assert_eq!(said, [Some(0), Some(0), None, None, None]);
        assert_eq!(limited.allow_at("b", start), Some(0), "another key");
        assert_eq!(limited.allow_at("a", start + Duration::from_secs(61)), Some(3));
        assert_eq!(limited.allow_at("a", start + Duration::from_secs(62)), Some(0));
    }

    #[test]
    fn keys_are_limited_and_the_rest_shares_one() {
        let limited = Limited::new(1);
        let now = Instant::now();
        for key in 0..5000 {
            limited.allow_at(&key.to_string(), now);
        }
        assert!(limited.keys.lock().expect("no panic").len() <= KEYS_MAX + 1);
        assert_eq!(limited.allow_at("one more", now), None);
    }
}
