//! Whose turn it is, and what becomes of what the kernel did not tell.

use super::*;

/// Lines of one file, which take some turns.
const BIG: usize = 3 << 20;

impl Stage {
    /// The files of the next turns of the reader, one each.
    fn served(&mut self, turns: usize) -> Vec<String> {
        let mut served = Vec::new();
        for _ in 0..turns {
            let life = self.life();
            assert_eq!(life.reader.step(), Step::Again);
            let mut file = String::new();
            while let Ok(shipment) = life.queue.try_recv() {
                let path = shipment.batch.origin.file.as_deref().expect("of a file");
                path.rsplit('/').next().expect("a name").clone_into(&mut file);
                shipment.receipts.settle(Outcome::Delivered);
            }
            served.push(file);
        }
        served
    }
}

fn three_big_files() -> Stage {
    Stage::files(&["*"], |root| {
        let text = "a line of some length\n".repeat(BIG / 22);
        ["a", "b", "c"].iter().for_each(|name| fs::write(root.join(name), &text).expect("written"));
    })
}

#[test]
fn chains_take_turns_and_every_other_one_is_of_the_chain_that_is_nearest_to_a_loss() {
    let mut stage = three_big_files();
    assert_eq!(stage.served(5), ["a", "b", "c", "a", "b"]);
    let mut stage = three_big_files();
    assert_eq!(stage.served(1), ["a"]);
    let life = stage.life();
    for (chain, seconds) in [(1, 50), (2, 5)] {
        life.reader.standing(chain).figures.horizon.store(seconds * 1000, Ordering::Relaxed);
    }
    life.metrics.inputs[0].followed.in_danger.store(2, Ordering::Relaxed);
    // It is read to its end, and then the next one.
    assert_eq!(stage.served(7), ["c", "b", "c", "a", "c", "b", "b"]);
}

#[test]
fn an_overflow_of_the_kernel_s_queue_is_counted_and_everything_is_looked_at() {
    let max = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("there");
    let max: usize = max.trim().parse().expect("a number");
    let mut stage = Stage::files(&["*.log"], |root| put(&root.join("x.log"), &["1"]));
    assert_eq!(stage.seconds(1), ["1"]);
    // Two events each, and no two of them alike.
    for n in 0..=max / 2 {
        let path = stage.path(if n % 2 == 0 { "noise" } else { "other noise" });
        File::create(&path).and_then(|_| fs::remove_file(&path)).expect("made and removed");
    }
    stage.rename("x.log", "x.log.1");
    stage.put("x.log", &["2"]);
    stage.put("y.log", &["3"]);
    let mut came = stage.after(Duration::from_millis(100));
    came.extend(stage.after(Duration::from_millis(100)));
    came.sort();
    assert_eq!(came, ["2", "3"]);
    assert_eq!((stage.watching(Watching::Overflow), stage.watching(Watching::GapPossible)), (1, 1));
    assert_eq!(stage.generations(Generation::Lost), 0);
    // What is told after that counts as before.
    stage.put("short.log", &["unseen"]);
    stage.remove("short.log");
    assert!(stage.seconds(12).is_empty());
    assert_eq!((stage.watching(Watching::GapPossible), stage.generations(Generation::Lost)), (1, 1));
}
