//! `tag = "api.{service}"`: gives records another tag, from then on and for routing.
//!
//! A record for which a placeholder leads nowhere, or whose new tag would be empty or longer than [`TAG_MAX`], keeps its
//! tag. So does one whose tag would be one too many in its batch: a batch has [`TAGS_MAX`](crate::batch::TAGS_MAX) of
//! them, those that no record has any more not counted. What is not UTF-8, and control characters, become `_`.
//!
//! Counter: `step_failed`.

use crate::batch::Batch;
use crate::metrics::Oddity;

use super::template::Template;
use super::{Rows, Scratch};

/// Bytes of a tag, at most.
pub const TAG_MAX: usize = 4096;

/// The step.
#[derive(Debug)]
pub struct Retag(pub Template);

impl Retag {
    pub(super) fn run(&self, batch: &mut Batch, rows: &Rows<'_>, scratch: &mut Scratch) {
        // Decided first, since a changed tag changes what the rows are chosen by.
        scratch.marks.clear();
        scratch.marks.extend((0..batch.len()).map(|at| rows.has(batch, at)));
        // Forgetting unused tags costs a pass over the rows: at most as often as there are tags.
        let mut passes = 0;
        for at in 0..batch.len() {
            if !scratch.marks[at] {
                continue;
            }
            scratch.out.clear();
            let written = self.0.write(batch, at, &mut scratch.out).is_ok();
            if !written || scratch.out.is_empty() || scratch.out.len() > TAG_MAX {
                batch.tally.odd(Oddity::StepFailed);
                continue;
            }
            let tag = clean(&scratch.out);
            let index = match batch.tag_index(&tag) {
                None if passes < crate::batch::TAGS_MAX => {
                    passes += 1;
                    batch.forget_unused_tags();
                    batch.tag_index(&tag)
                }
                index => index,
            };
            match index {
                Some(index) => batch.row_mut(at).tag = index,
                None => batch.tally.odd(Oddity::StepFailed),
            }
        }
    }
}

/// The text of a tag; allocates only where something has to be replaced.
fn clean(text: &[u8]) -> std::borrow::Cow<'_, str> {
    match std::str::from_utf8(text) {
        Ok(text) if !text.contains(char::is_control) => text.into(),
        _ => {
            let text = String::from_utf8_lossy(text);
            text.chars().map(|c| if c.is_control() || c == '\u{fffd}' { '_' } else { c }).collect::<String>().into()
        }
    }
}
