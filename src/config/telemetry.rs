//! `[telemetry]`: where health and metrics are answered, and the own log.

use std::net::SocketAddr;

use super::explain::{self, Setting, note};
use super::sections::quoted;
use super::{LISTEN_DEFAULT, Overrides, Source, Telemetry};
use crate::log;
use crate::settings::Section;

/// Reads the section; mistakes of the environment and of flags go to `outside`.
pub(super) fn read(
    section: Section<'_, '_>,
    source: &Source<'_>,
    overrides: &Overrides,
    settings: &mut Vec<Setting>,
    outside: &mut Vec<String>,
) -> Telemetry {
    let listen = read_listen(&section);
    let shown = listen.map_or("off".to_owned(), |address| address.to_string());
    note(settings, &section, "listen", format!("\"{shown}\""), None);
    let (mut format, mut level) = (None, None);
    let (mut format_from, mut level_from) = ("default".to_owned(), "default".to_owned());
    if let Some(log) = section.section("log") {
        format = log.choice("format", &log::FORMATS);
        level = log.choice("level", &log::LEVELS);
        let from = |key: &'static str| explain::origin(log.doc(), log.span_of(key).start);
        format_from = if log.has("format") { from("format") } else { format_from };
        level_from = if log.has("level") { from("level") } else { level_from };
        log.finish();
    }
    let outer = [
        ("environment LOG_FORMAT", (source.env)("LOG_FORMAT"), "environment LOG_LEVEL", (source.env)("LOG_LEVEL")),
        ("flag --log-format", overrides.log_format.clone(), "flag --log-level", overrides.log_level.clone()),
    ];
    for (format_name, format_word, level_name, level_word) in outer {
        pick(&mut format, &mut format_from, format_name, format_word, &log::FORMATS, outside);
        pick(&mut level, &mut level_from, level_name, level_word, &log::LEVELS, outside);
    }
    let log = log::Settings { format: format.unwrap_or_default(), level: level.unwrap_or_default() };
    note(settings, &section, "log.format", format!("\"{}\"", log.format.name()), Some(&format_from));
    note(settings, &section, "log.level", format!("\"{}\"", log.level.name()), Some(&level_from));
    section.finish();
    Telemetry { listen, log }
}

/// Takes a word that overrides the file. An empty one counts as not there, as is usual for variables.
fn pick<T: Copy>(
    into: &mut Option<T>,
    from: &mut String,
    name: &'static str,
    word: Option<String>,
    choices: &[(&'static str, T)],
    outside: &mut Vec<String>,
) {
    let Some(word) = word.filter(|word| !word.is_empty()) else { return };
    match choices.iter().find(|(known, _)| known.eq_ignore_ascii_case(&word)) {
        Some((_, value)) => (*into, *from) = (Some(*value), name.to_owned()),
        None => {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let name = name.rsplit(' ').next().unwrap_or(name);
            outside.push(format!("{name}: \"{}\" is not one of {}", word.escape_debug(), quoted(&words, "\"", "\"")));
        }
    }
}

/// Reads `listen`.
pub(super) fn read_listen(section: &Section<'_, '_>) -> Option<SocketAddr> {
    let text = section.text("listen").unwrap_or_else(|| LISTEN_DEFAULT.to_owned());
    if text == "off" {
        return None;
    }
    let address = text.parse::<SocketAddr>().ok();
    if address.is_none() {
        let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).unwrap_or(9600);
        section
            .error("listen", format!("\"{text}\" is not an address and port; write \"127.0.0.1:{port}\", or \"off\""));
    }
    address
}
