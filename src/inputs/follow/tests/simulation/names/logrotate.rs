//! Plain files that logrotate rotates: the last lines of a renamed file, generations that are compressed between two looks,
//! and copies of what was read.

use super::*;

impl Stage {
    /// Now, as files have it.
    fn time(&self) -> SystemTime {
        self.wall + self.now
    }

    fn change(&self, name: &str) {
        let file = OpenOptions::new().append(true).open(self.path(name)).expect("there");
        file.set_modified(self.time()).expect("set");
    }

    /// Compresses a file as logrotate does: the compressed one has the time of the plain one.
    fn compress(&self, name: &str) {
        let (plain, copy) = (self.path(name), self.path(&format!("{name}.gz")));
        packed(&copy, &fs::read_to_string(&plain).expect("there"));
        let changed = fs::metadata(&plain).and_then(|meta| meta.modified()).expect("there");
        OpenOptions::new().append(true).open(copy).and_then(|file| file.set_modified(changed)).expect("set");
        fs::remove_file(plain).expect("removed");
    }

    /// Rotates and compresses at once; the new file has that line.
    fn rotate(&self, line: &str) {
        for n in (1..9).rev() {
            let _ = fs::rename(self.path(&format!("x.log.{n}.gz")), self.path(&format!("x.log.{}.gz", n + 1)));
        }
        self.rename("x.log", "x.log.1");
        self.put("x.log", &[line]);
        self.compress("x.log.1");
        // They differ in their times.
        a_tick();
    }
}

fn one_file() -> Stage {
    let mut stage = Stage::files(&["*.log"], |root| put(&root.join("x.log"), &["1"]));
    assert_eq!(stage.seconds(1), ["1"]);
    stage
}

#[test]
fn the_last_lines_of_a_renamed_file_come_before_those_that_its_writer_wrote_to_the_new_one() {
    for looks in 1..6 {
        let mut stage = Stage::files(&["*.log"], |root| put(&root.join("x.log"), &["0"]));
        assert_eq!(stage.seconds(1), ["0"]);
        // Renamed files are looked at every 100 ms from now on, and were just now.
        stage.rename("x.log", "x.log.2");
        stage.put("x.log", &["1"]);
        assert_eq!(stage.seconds(1), ["1"]);
        stage.rename("x.log", "x.log.1");
        File::create(stage.path("x.log")).expect("made");
        // Right before one of the looks that follow a read without news.
        let (old, new, mut looked) = (stage.path("x.log.1"), stage.path("x.log"), None);
        disk::set_hook(Some(Box::new(move |call| {
            match (call, &mut looked) {
                (Call::Read, None) => looked = Some(0),
                (Call::Fstat, Some(times)) => {
                    *times += 1;
                    if *times == looks {
                        put(&old, &["2"]);
                        put(&new, &["3"]);
                    }
                }
                _ => {}
            }
            Ok(())
        })));
        let mut came = stage.after(Duration::from_millis(10));
        disk::set_hook(None);
        came.extend(stage.seconds(1));
        // What is not written at all by then had less looks than that.
        assert!(came == ["2", "3"] || came.is_empty() && looks > 3, "{looks}: {came:?}");
    }
}

#[test]
fn a_renamed_file_that_is_read_again_while_the_next_one_waits_is_not_read_on_twice() {
    let mut stage = Stage::files(&["*.log"], |root| put(&root.join("x.log"), &["1"]));
    let lost = stage.unsettled(1);
    assert_eq!(lost.len(), 1);
    stage.rename("x.log", "x.log.2");
    packed(&stage.path("x.log.1.gz"), "2\n");
    stage.put("x.log", &["3"]);
    // The compressed one waits for a decoder.
    let all = stage.life().reader.take_decoders();
    assert!(stage.unsettled(3).is_empty());
    drop(lost);
    assert_eq!(stage.seconds(3), ["1"]);
    drop(all);
    assert_eq!(stage.seconds(3), ["2", "3"]);
    stage.put("x.log.2", &["late"]);
    assert_eq!(stage.seconds(3), ["late"]);
}
