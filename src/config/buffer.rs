//! `[buffer]`: size, policy and age of the disk log.

use std::time::Duration;

use super::Buffer;
use super::explain::{Setting, note};
use crate::buffer::{Full, SIZE_MIN};
use crate::settings::{Section, show_size};

/// Reads the section.
pub(super) fn read(section: Section<'_, '_>, settings: &mut Vec<Setting>) -> Buffer {
    let size = section.size("size", SIZE_MIN..1 << 50);
    let words = [("block", Full::Block), ("drop_oldest", Full::DropOldest), ("drop_newest", Full::DropNewest)];
    let full = section.choice("full", &words).unwrap_or_default();
    let keep = section.time("keep", Duration::ZERO..Duration::from_secs(366 * 86_400));
    let keep = keep.filter(|keep| !keep.is_zero());
    let word = words.iter().find(|(_, policy)| *policy == full).map_or("block", |(word, _)| *word);
    let shown = size.map_or_else(|| "1GiB, a quarter of the file system at most".to_owned(), show_size);
    note(settings, &section, "size", format!("\"{shown}\""), None);
    note(settings, &section, "full", format!("\"{word}\""), None);
    note(settings, &section, "keep", format!("\"{}s\"", keep.unwrap_or_default().as_secs()), None);
    section.finish();
    Buffer { size, full, keep }
}
