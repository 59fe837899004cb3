//! A lock on a file of ours (`flock`), so that no two work in the same folder. It goes with the last descriptor of the file.
//!
//! Somebody may hold it for a moment without working there: `longshore audit` looks whether a node runs, and a process that
//! was just forked has all descriptors until it runs its program. So it is tried for [`WAIT`].

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

const WAIT: Duration = Duration::from_millis(200);

/// Takes the lock. False if another one has it, and keeps it.
///
/// # Errors
/// The kernel's: the file system has no locks.
pub fn take(file: &File) -> io::Result<bool> {
    let until = Instant::now() + WAIT;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(WAIT / 20),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether somebody has it. If not, the caller has it now.
pub fn is_taken(file: &File) -> bool {
    flock(file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_it_for_a_moment_does_not_keep_another_from_it_and_who_works_there_does() {
        let dir = tempfile::tempdir().expect("a folder");
        let open = || File::create(dir.path().join("lock")).expect("made");
        let (one, other) = (open(), open());
        assert!(take(&one).expect("locks"));
        assert!(is_taken(&other) && !take(&other).expect("locks"));
        let moment = std::thread::spawn(move || {
            std::thread::sleep(WAIT / 8);
            drop(one);
        });
        assert!(take(&other).expect("locks"));
        moment.join().expect("no panic");
    }
}
