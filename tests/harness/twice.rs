//! How much may come twice after a kill: what the README publishes, by the clock.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Saves of what was delivered begin so far apart at most, if a save takes no longer (`inputs/follow/checkpoint.rs`).
const SAVES_APART: Duration = Duration::from_millis(250);
/// Syncs of one save: the outputs, the new checkpoints, their folder.
const SAVE_SYNCS: u32 = 3;
/// Syncs from the begin of a save until what had been delivered by then can not come twice: the outputs, the log's commit that
/// is under way with the folder of a new segment, the cursor. Of what the log does not have it is one less.
const LAST_SYNCS: u32 = 4;
/// For threads that a busy machine wakes late.
const WAKES: Duration = Duration::from_millis(250);

/// Waits until what is delivered now can not come twice, whenever the program is killed: what was delivered just after a
/// save had begun is in the next one. The README has the same sum. How long a sync takes is measured meanwhile, beside the
/// program's own.
pub fn pass_the_time_of_twice(dir: &Path) {
    let probe = fs::File::create(dir.join("probe")).expect("writable");
    let (began, mut sync) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < SAVES_APART.max(sync * SAVE_SYNCS) + sync * LAST_SYNCS + WAKES {
        let at = Instant::now();
        (&probe).write_all(b"one more").and_then(|()| probe.sync_data()).expect("synced");
        sync = sync.max(at.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
}
