//! `[dead_letters]`: room for what sinks and inputs refused for good.

use super::explain::{Setting, note};
use crate::buffer::SIZE_MIN;
use crate::settings::{Section, show_size};

/// Reads the section: `size`.
pub(super) fn read(section: Section<'_, '_>, settings: &mut Vec<Setting>) -> Option<u64> {
    let size = section.size("size", SIZE_MIN..1 << 50);
    let shown = size.map_or_else(|| "64MiB, a sixteenth of the file system at most".to_owned(), show_size);
    note(settings, &section, "size", format!("\"{shown}\""), None);
    section.finish();
    size
}
