//! What comes late to files that were renamed: writers that are not Docker go on until they are told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Chain, Context, LINGER};
use crate::inputs::follow::clock;
use crate::inputs::follow::source::{self, Found, Source};

/// How often a renamed file is looked at.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// A renamed file that may still grow.
pub(super) struct Lingering {
    pub(super) source: Source,
    pub(super) grew: Instant,
}

impl Chain {
    /// Reads what came late to renamed files. True when there may be more at once.
    pub(super) fn linger(&mut self, context: &mut Context<'_>) -> bool {
        if self.lingering.is_empty() || clock::since(self.lingered) < POLL || !self.behind.is_empty() {
            return false;
        }
        let mut more = false;
        for mut late in std::mem::take(&mut self.lingering) {
            let found = late.source.read(context.buf, self.rules.line_max);
            let over = clock::since(late.grew) >= LINGER;
            let (n, grown) = match found {
                Ok(Found::Bytes(n)) => (n, true),
                Ok(Found::End(n)) => (n, false),
                // Rewritten after it was renamed, or unreadable: nothing of ours.
                Ok(Found::Rewritten) | Err(_) => continue,
            };
            if n > 0 && (grown || over) {
                self.close(context.outlet);
                let (held, from) = (Arc::clone(&late.source.held), late.source.offset);
                let skipping = self.skipping.take();
                self.span(&held, from, source::head_of(&held).unwrap_or_default());
                let main = self.source.replace(late.source);
                self.take(context, n, over && !grown);
                self.close(context.outlet);
                self.skipping = skipping;
                let Some(source) = std::mem::replace(&mut self.source, main) else { continue };
                late.source = source;
                if let Some(main) = &self.source {
                    self.span(&main.held, main.offset, source::head_of(&main.held).unwrap_or_default());
                }
            }
            if grown {
                late.grew = clock::now();
                more |= n >= source::BLOCK;
            }
            if grown || !over {
                self.lingering.push(late);
            }
        }
        if !more {
            self.lingered = clock::now();
        }
        more
    }
}
