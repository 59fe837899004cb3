//! The seeds: those of the day, those that found something once, and the negative controls.

use super::*;

/// So many seeds at a time: each has two inotify instances, of which a user may have 128.
const THREADS: u64 = 4;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The seeds that the oracle says something against, or that the engine does not survive.
fn campaign(seeds: std::ops::Range<u64>, broken: Break) -> Vec<String> {
    campaign_of(Program::Docker, seeds, broken)
}

/// The same for another writer.
fn campaign_of(program: Program, seeds: std::ops::Range<u64>, broken: Break) -> Vec<String> {
    let next = AtomicU64::new(seeds.start);
    let wrong = Mutex::new(Vec::new());
    let work = || {
        let runtime = runtime();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let said = catch_unwind(AssertUnwindSafe(|| run(seed, program, broken, runtime.handle())));
            // What panicked has left its hook and its clock behind.
            disk::set_hook(None);
            clock::set(None);
            if let Err(said) = said.unwrap_or_else(|_| Err(format!("seed {seed}: panicked"))) {
                wrong.lock().expect("no panic").push((seed, said));
            }
        }
    };
    let threads = number("LONGSHORE_THREADS", THREADS).min(seeds.end - seeds.start);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut wrong = wrong.into_inner().expect("no panic");
    wrong.sort();
    wrong.into_iter().map(|(_, said)| said).collect()
}

fn finds_nothing(program: Program, seeds: u64) {
    let (from, seeds) = match std::env::var("LONGSHORE_SEED").ok().and_then(|text| text.parse().ok()) {
        Some(seed) => (seed, 1),
        None => (number("LONGSHORE_SEED_FROM", 0), number("LONGSHORE_SEEDS", seeds)),
    };
    let wrong = campaign_of(program, from..from + seeds, Break::Nothing);
    println!("simulation of {program:?}: seeds {from} to {}, {} wrong", from + seeds, wrong.len());
    assert!(wrong.is_empty(), "{} of {seeds} seeds, such as\n{}", wrong.len(), wrong[..wrong.len().min(12)].join("\n"));
}

#[test]
fn what_was_reachable_is_delivered_whatever_happens_between_two_calls() {
    finds_nothing(Program::Docker, 3_000);
}

#[test]
fn what_was_reachable_of_files_that_logrotate_rotates_is_delivered_too() {
    finds_nothing(Program::Logrotate, 600);
}

#[test]
fn what_was_reachable_of_files_that_are_copied_and_truncated_is_delivered_too() {
    finds_nothing(Program::CopyTruncate, 300);
}

#[test]
fn what_was_reachable_of_files_that_kubelet_rotates_is_delivered_too() {
    finds_nothing(Program::Kubelet, 300);
}

/// Seeds that found something once: generations in the wrong order after torn scans, a line lost at a truncation between
/// two reads, generations that were counted as lost and were not, half a line after a sink had failed, a line twice after two
/// restarts, a file that was truncated and then read again as what it had been: out of order, or without end.
const FOUND: &[u64] = &[
    0, 4, 7, 21, 34, 38, 41, 53, 62, 63, 103, 163, 181, 194, 198, 204, 249, 259, 266, 274, 294, 339, 405, 455, 470,
    496, 535, 544, 2052, 2792, 2846, 3030, 3046, 3454, 3497, 4074, 5042, 9029, 11_041, 150, 21_807, 30_002, 32_534,
    32_690, 10_298, 50_430, 63_305, 5444, 15_878, 30_274,
];

/// The same of logrotate: copies that came again, the wrong order, lines lost where a plain file was compressed within one look.
const FOUND_OF_LOGROTATE: &[u64] = &[1446, 1581, 1908, 2616, 2716, 2774, 2808, 2879, 4210, 4631];

/// The same of copytruncate: what begins with a hole was taken for something else, and a copy that was compressed and renamed
/// during the look at a start came twice.
const FOUND_OF_COPYTRUNCATE: &[u64] = &[2685, 3767, 3993, 4979, 5200, 5275, 617, 931, 1305, 1346, 1446];

/// The same of kubelet: a file with the first piece of a line that was compressed while longshore was stopped came again, or any
/// that was compressed then, where nothing of the next one had been delivered; or later, when a silent one was compressed as well;
/// or the first piece of a line went with its file, and nobody was told.
const FOUND_OF_KUBELET: &[u64] = &[1184, 60, 1269, 1505, 44_767, 325_274, 27_285];

fn wrong_of(program: Program, seeds: &[u64]) -> Vec<String> {
    let has_other = matches!(program, Program::Logrotate | Program::CopyTruncate);
    let both = seeds.iter().flat_map(|seed| [Some(*seed), has_other.then_some(*seed | OTHER_FORMAT)]).flatten();
    both.flat_map(|seed| campaign_of(program, seed..seed + 1, Break::Nothing)).collect()
}

#[test]
fn seeds_that_found_something_find_nothing_any_more() {
    let mut wrong = wrong_of(Program::Docker, FOUND);
    wrong.extend(wrong_of(Program::Logrotate, FOUND_OF_LOGROTATE));
    wrong.extend(wrong_of(Program::CopyTruncate, FOUND_OF_COPYTRUNCATE));
    wrong.extend(wrong_of(Program::Kubelet, FOUND_OF_KUBELET));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_opener_that_does_not_open_is_seen() {
    assert!(!campaign(0..100, Break::Opener).is_empty());
}

#[test]
fn a_scan_from_the_oldest_to_the_newest_is_seen() {
    let is_right = |seed, broken| campaign(seed..seed + 1, broken).is_empty();
    assert!((0..100).any(|seed| !is_right(seed, Break::Scan) && is_right(seed, Break::Nothing)));
}

#[test]
fn a_checkpoint_before_delivery_is_seen() {
    let is_right = |seed, broken| campaign(seed..seed + 1, broken).is_empty();
    // It takes a crash between a save and the delivery of what it covers, of lines that are nowhere else by then.
    assert!((0..3_000).any(|seed| !is_right(seed, Break::Checkpoint) && is_right(seed, Break::Nothing)));
}

#[test]
fn a_start_that_says_nothing_of_a_loss_is_seen() {
    let is_right = |seed, broken| campaign(seed..seed + 1, broken).is_empty();
    assert!((0..300).any(|seed| !is_right(seed, Break::Silence) && is_right(seed, Break::Nothing)));
}
