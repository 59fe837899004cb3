//! zstd decoders, of which one with a wide window is kept when it is done with.
//!
//! A frame may ask for a window of 8 MiB. Freeing one raises two thresholds of glibc's malloc: from then on each of its
//! arenas keeps up to 16 MiB of free memory, beyond every budget. Beside a slow disk sixty senders of such frames
//! brought the process to 71 MiB that way, with 29 MiB of the budget in use; with one window that is kept it is 50 to 54
//! (`peak_memory_of_many_unfinished_zstd_frames_...`).
//! Limit: one window, 9 MiB at most in the process and outside of the budget, from the first wide frame on.

use std::io;
use std::sync::{Mutex, PoisonError};

use zstd::stream::raw::{DParameter, Decoder, Operation, Status};

use super::ZSTD_WINDOW_LOG_MAX;

/// Memory from which a decoder is wide. Above a third of the most there is, since zstd gives up a window that was three
/// times too large for 128 frames.
const WIDE: usize = 7 << 19;

/// The one that is kept, and what it may hold. Who asks for less makes one of its own, that what is paid for is what is held.
static KEPT: Mutex<Option<(Decoder<'static>, usize)>> = Mutex::new(None);

/// A decoder for frames that need no more than it was made for.
pub(super) struct Zstd {
    /// `None` only while it is dropped.
    decoder: Option<Decoder<'static>>,
    /// What it may hold.
    memory: usize,
}

impl Zstd {
    /// One that may come to hold so many bytes.
    pub(super) fn new(memory: usize) -> io::Result<Zstd> {
        let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).take_if(|(_, held)| *held <= memory);
        let decoder = match kept {
            Some((kept, _)) => kept,
            None => {
                let mut decoder = Decoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
                decoder
            }
        };
        Ok(Zstd { decoder: Some(decoder), memory })
    }

    pub(super) fn run(&mut self, input: &[u8], out: &mut [u8]) -> io::Result<Status> {
        self.decoder.as_mut().expect("it is not being dropped").run_on_buffers(input, out)
    }
}

impl Drop for Zstd {
    fn drop(&mut self) {
        // It may be in the middle of a frame.
        if let Some(mut decoder) = self.decoder.take_if(|_| self.memory >= WIDE)
            && decoder.reinit().is_ok()
        {
            let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
            // The widest serves most.
            if kept.as_ref().is_none_or(|(_, held)| *held < self.memory) {
                *kept = Some((decoder, self.memory));
            }
        }
    }
}
