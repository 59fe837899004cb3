//! Tests of the `file` sink on real files.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::budget::Budget;
use crate::settings::Doc;
use crate::sinks::request::Part;
use crate::sinks::request::tests::shipment;

const NOTHING: Added = Added::NONE;

struct Bench {
    folder: tempfile::TempDir,
    budget: Arc<Budget>,
}

impl Bench {
    fn new() -> Bench {
        Bench { folder: tempfile::tempdir().expect("a folder"), budget: Budget::new(64 << 20) }
    }

    fn sink(&self, template: &str, rotate: Rotate) -> FileSink {
        let path = format!("{}/{template}", self.folder.path().display());
        let packing = Packing::of(&path);
        let path = Template::new(&path).expect("a template");
        let mut sink = FileSink::new(Settings { path, packing, rotate, added: NOTHING });
        sink.start().expect("started");
        sink
    }

    fn plain(&self, template: &str) -> FileSink {
        self.sink(template, Rotate::default())
    }

    fn write(&self, sink: &mut FileSink, records: &[(&str, &str)]) -> Result<Reply, SendError> {
        let parts = records.chunks(50).map(|records| Part::of(shipment(&self.budget, records).0).expect("rows"));
        sink.write(&mut Request::new(parts.collect(), 1))
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.folder.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Every file below the folder, sorted.
    fn files(&self) -> Vec<String> {
        fn walk(folder: &Path, base: &Path, out: &mut Vec<String>) {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    walk(&path, base, out);
                } else {
                    out.push(path.strip_prefix(base).expect("below").to_string_lossy().into_owned());
                }
            }
        }
        let mut out = Vec::new();
        walk(self.folder.path(), self.folder.path(), &mut out);
        out.sort();
        out
    }
}

/// Runs a test with a file system of that size at `small`: a real short write needs one, and that needs root.
fn on_small_disk(bench: &Bench, size: &str, test: impl FnOnce()) {
    let small = bench.folder.path().join("small");
    fs::create_dir(&small).expect("a folder");
    let run = |program: &str, args: &[&str]| {
        std::process::Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
    };
    let small = small.to_str().expect("text");
    if !run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", small]) {
        return skip("a small tmpfs can not be mounted");
    }
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
    assert!(run("umount", &[small]));
    outcome.expect("as it should be");
}

/// Says that a test is skipped, or fails where skipping is not allowed (`.ci/run`).
fn skip(why: &str) {
    let required = std::env::var_os("LONGSHORE_REQUIRE").is_some_and(|value| value == "1");
    assert!(!required, "this test must run here, but: {why}");
    eprintln!("skipped: {why}");
}

fn line(text: &str) -> String {
    format!("{{\"n\":\"{text}\"}}\n")
}

#[test]
fn rows_go_to_the_files_that_their_tags_name() {
    let bench = Bench::new();
    let mut sink = bench.plain("{tag}/%Y-%m-%d.ndjson");
    let reply = bench.write(&mut sink, &[("a", "1"), ("b", "2"), ("a", "3")]).expect("written");
    bench.write(&mut sink, &[("a", "4")]).expect("written");
    let day = bench.files()[0].strip_prefix("a/").expect("a").to_owned();
    assert!(day.ends_with(".ndjson") && day.len() == 17, "{day}");
    assert_eq!(bench.read(&format!("a/{day}")), line("1") + &line("3") + &line("4"));
    assert_eq!(bench.read(&format!("b/{day}")), line("2"));
    assert_eq!(reply, Reply { bytes: 30, ..Reply::default() });
    sink.durable().expect("files").sync().expect("synced");
    drop(sink);
    assert_eq!(bench.budget.used(), 0);
}

#[test]
fn a_hostile_tag_stays_below_the_base() {
    let bench = Bench::new();
    let outside = tempfile::tempdir().expect("a folder");
    symlink(outside.path(), bench.folder.path().join("link")).expect("a link");
    fs::create_dir(bench.folder.path().join("dir")).expect("a folder");
    let target = outside.path().join("target");
    symlink(&target, bench.folder.path().join("dir/out.ndjson")).expect("a link");
    let mut sink = bench.plain("{tag}/out.ndjson");
    let reply = bench.write(&mut sink, &[("../../x", "1"), ("link", "2"), ("dir", "3"), ("ok", "4")]).expect("in part");
    assert_eq!(reply.marks, [Mark::Taken, Mark::Never, Mark::Never, Mark::Taken]);
    assert_eq!(fs::read_dir(outside.path()).expect("a folder").count(), 0);
    assert_eq!(bench.read("_._.._x/out.ndjson"), line("1"));
    assert_eq!(bench.read("ok/out.ndjson"), line("4"));
}

#[test]
fn a_path_that_can_not_be_made_costs_only_its_own_records() {
    let bench = Bench::new();
    fs::write(bench.folder.path().join("file"), "").expect("written");
    fs::create_dir_all(bench.folder.path().join("taken/out")).expect("a folder");
    let long = "x".repeat(128);
    let mut sink = bench.plain("{tag}/{tag}{tag}/out");
    let reply = bench.write(&mut sink, &[("file", "1"), (&long, "2"), ("ok", "3")]).expect("in part");
    assert_eq!(reply.marks, [Mark::Never, Mark::Never, Mark::Taken]);
    assert!(reply.cause.contains("file/filefile/out: Not a directory"), "{}", reply.cause);
    let mut sink = bench.plain("{tag}/out");
    assert_eq!(bench.write(&mut sink, &[("taken", "1")]).expect("in part").marks, [Mark::Never]);
}

#[test]
fn a_torn_last_line_is_cut_before_anything_is_appended() {
    let bench = Bench::new();
    fs::write(bench.folder.path().join("out.ndjson"), line("1") + "{\"n\":\"torn").expect("written");
    let mut sink = bench.plain("out.ndjson");
    bench.write(&mut sink, &[("t", "2")]).expect("written");
    assert_eq!(bench.read("out.ndjson"), line("1") + &line("2"));
}

#[test]
fn a_file_that_is_not_ours_is_set_aside_whole() {
    let bench = Bench::new();
    fs::write(bench.folder.path().join("out.ndjson"), "my thesis").expect("written");
    let mut sink = bench.plain("out.ndjson");
    bench.write(&mut sink, &[("t", "1")]).expect("written");
    let files = bench.files();
    assert_eq!(files.len(), 2);
    assert!(files[1].starts_with("out.torn-2"), "{files:?}");
    assert_eq!((bench.read(&files[1]).as_str(), bench.read("out.ndjson")), ("my thesis", line("1")));
}

#[test]
fn a_crash_leaves_packed_files_readable_and_they_go_on() {
    for name in ["out.ndjson.gz", "out.ndjson.zst"] {
        let bench = Bench::new();
        let path = bench.folder.path().join(name);
        let mut sink = bench.plain(name);
        bench.write(&mut sink, &[("t", "1"), ("t", "2")]).expect("written");
        let settled = fs::metadata(&path).expect("a file").len();
        bench.write(&mut sink, &[("t", "3")]).expect("written");
        drop(sink);
        let whole = fs::read(&path).expect("a file");
        let unpack = |bytes: &[u8]| {
            let mut text = String::new();
            match name.ends_with("gz") {
                true => flate2::read::MultiGzDecoder::new(bytes).read_to_string(&mut text),
                false => zstd::stream::read::Decoder::new(bytes).expect("zstd").read_to_string(&mut text),
            }
            .expect("whole");
            text
        };
        assert_eq!(unpack(&whole), line("1") + &line("2") + &line("3"));
        for cut in [settled + 1, settled + 9, whole.len() as u64 - 1] {
            fs::write(&path, &whole[..cut as usize]).expect("written");
            let mut sink = bench.plain(name);
            bench.write(&mut sink, &[("t", "4")]).expect("written");
            drop(sink);
            assert_eq!(unpack(&fs::read(&path).expect("a file")), line("1") + &line("2") + &line("4"), "{name} {cut}");
        }
    }
}

#[test]
fn a_file_is_finished_before_it_grows_too_large_and_old_ones_go() {
    let bench = Bench::new();
    let rotate = Rotate { size: Some(25), every: None, keep: Some(2) };
    let mut sink = bench.sink("out.ndjson", rotate);
    for number in 0..10 {
        bench.write(&mut sink, &[("t", &number.to_string())]).expect("written");
    }
    let files = bench.files();
    assert_eq!(files.len(), 3, "{files:?}");
    // Two lines of ten bytes fit; the newest four whole files are 0-1, 2-3, 4-5, 6-7, of which two stay.
    assert_eq!(bench.read("out.ndjson"), line("8") + &line("9"));
    let finished: String = files[..2].iter().map(|name| bench.read(name)).collect();
    assert!(
        finished.contains(&line("7")) && finished.contains(&line("4")) && !finished.contains(&line("3")),
        "{finished}"
    );
}

#[test]
fn a_file_of_an_earlier_hour_is_finished_by_upkeep_and_when_opened() {
    let bench = Bench::new();
    let rotate = Rotate { every: Some(Duration::from_secs(1)), ..Rotate::default() };
    let mut sink = bench.sink("out.ndjson", rotate);
    assert_eq!(sink.tick(), Some(Duration::from_secs(1)));
    bench.write(&mut sink, &[("t", "1")]).expect("written");
    std::thread::sleep(Duration::from_millis(1100));
    sink.tick();
    let files = bench.files();
    assert!(files.len() == 1 && files[0].starts_with("out.2"), "{files:?}");
    assert_eq!(sink.tick(), None);
    bench.write(&mut sink, &[("t", "2")]).expect("written");
    drop(sink);
    std::thread::sleep(Duration::from_millis(1100));
    let mut sink = bench.sink("out.ndjson", rotate);
    bench.write(&mut sink, &[("t", "3")]).expect("written");
    assert_eq!(bench.read("out.ndjson"), line("3"));
    assert_eq!(bench.files().len(), 3);
}

#[test]
fn many_paths_need_few_descriptors_and_lose_nothing() {
    let bench = Bench::new();
    let mut sink = bench.plain("{tag}.ndjson");
    let tags: Vec<String> = (0..700).map(|number| format!("t{number}")).collect();
    let records: Vec<(&str, &str)> = tags.iter().map(|tag| (tag.as_str(), "x")).collect();
    for _ in 0..2 {
        bench.write(&mut sink, &records).expect("written");
        let open = fs::read_dir("/proc/self/fd").expect("fds").flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        let ours = open.filter(|path| path.starts_with(bench.folder.path())).count();
        assert!(ours <= 2 * 256 + 10, "{ours}");
    }
    assert_eq!(bench.files().len(), 700);
    assert!(tags.iter().all(|tag| bench.read(&format!("{tag}.ndjson")) == line("x") + &line("x")));
}

#[test]
fn files_that_were_moved_or_deleted_are_made_again() {
    let bench = Bench::new();
    let path = bench.folder.path().join("out.ndjson");
    let mut sink = bench.plain("out.ndjson");
    bench.write(&mut sink, &[("t", "1")]).expect("written");
    fs::remove_file(&path).expect("deleted");
    bench.write(&mut sink, &[("t", "2")]).expect("written");
    assert_eq!(bench.read("out.ndjson"), line("2"));
    fs::rename(&path, bench.folder.path().join("moved")).expect("renamed");
    bench.write(&mut sink, &[("t", "3")]).expect("written");
    assert_eq!(bench.read("moved"), line("2") + &line("3"));
    sink.reopen();
    bench.write(&mut sink, &[("t", "4")]).expect("written");
    assert_eq!((bench.read("moved"), bench.read("out.ndjson")), (line("2") + &line("3"), line("4")));
}

#[test]
fn a_folder_that_was_deleted_is_made_again() {
    let bench = Bench::new();
    let mut sink = bench.plain("logs/deep/{tag}/out.ndjson");
    bench.write(&mut sink, &[("t", "1")]).expect("written");
    fs::remove_dir_all(bench.folder.path().join("logs")).expect("deleted");
    bench.write(&mut sink, &[("t", "2")]).expect("written");
    assert_eq!(bench.read("logs/deep/t/out.ndjson"), line("2"));
}

#[test]
fn a_file_has_one_writer_and_can_be_opened_again_by_it() {
    let bench = Bench::new();
    let mut sink = bench.plain("out.ndjson");
    let path = format!("{}/out.ndjson", bench.folder.path().display());
    let other = Settings { path: Template::new(&path).expect("good"), ..sink.settings.clone() };
    let error = FileSink::new(other).start().expect_err("locked").to_string();
    assert!(error.contains("another process"), "{error}");
    bench.write(&mut sink, &[("t", "1")]).expect("written");
    sink.reopen();
    // Its old descriptor still waits to be synced, and must not hold the lock.
    bench.write(&mut sink, &[("t", "2")]).expect("written");
}

#[test]
fn a_full_disk_is_tried_again_and_leaves_whole_lines() {
    let bench = Bench::new();
    let mut sink =
        FileSink::new(Settings { path: Template::new("/dev/full").expect("good"), ..bench.plain("x").settings });
    sink.start().expect("started");
    let error = bench.write(&mut sink, &[("t", "1")]).expect_err("full");
    assert!(
        matches!(&error, SendError::Retry { cause, .. } if cause.contains("/dev/full: No space left")),
        "{error:?}"
    );

    on_small_disk(&bench, "64k", || {
        let large = "x".repeat(40_000);
        let mut sink = bench.plain("small/out.ndjson");
        bench.write(&mut sink, &[("t", &large)]).expect("room for one");
        let error = bench.write(&mut sink, &[("t", &large)]).expect_err("no room for two");
        assert!(matches!(&error, SendError::Retry { cause, .. } if cause.contains("make room")), "{error:?}");
        assert_eq!(bench.read("small/out.ndjson"), line(&large));
        bench.write(&mut sink, &[("t", "2")]).expect("room for a little");
        assert_eq!(bench.read("small/out.ndjson"), line(&large) + &line("2"));
    });
}

#[test]
fn a_large_request_is_written_in_pieces_and_nothing_comes_behind_one_that_was_not() {
    let bench = Bench::new();
    let mut sink = bench.plain("out.ndjson");
    let text = "x".repeat(1000);
    // Two pieces and a part of one.
    let records = vec![("t", text.as_str()); 600];
    let reply = bench.write(&mut sink, &records).expect("taken");
    let lines = bench.read("out.ndjson");
    assert_eq!((lines.lines().count(), lines.len() as u64), (600, reply.bytes));
    assert!(sink.spare[0].capacity() <= 2 * PIECE, "the buffer of a piece, not of {} bytes", lines.len());
    // The second piece does not fit there, and the last one would.
    on_small_disk(&bench, "400k", || {
        let mut sink = bench.plain("small/out.ndjson");
        let reply = bench.write(&mut sink, &records).expect("a part of it taken");
        let taken = bench.read("small/out.ndjson").lines().count();
        assert!((200..300).contains(&taken) && reply.cause.contains("make room"), "{taken}, {}", reply.cause);
        let marks = |mark, rows| std::iter::repeat_n(mark, rows);
        assert!(reply.marks.into_iter().eq(marks(Mark::Taken, taken).chain(marks(Mark::Again, 600 - taken))));
    });
}

#[test]
fn a_start_that_can_not_work_says_why() {
    let bench = Bench::new();
    fs::write(bench.folder.path().join("file"), "").expect("written");
    let path = format!("{}/file/{{tag}}/out", bench.folder.path().display());
    let settings = Settings { path: Template::new(&path).expect("good"), ..bench.plain("x").settings };
    let error = FileSink::new(settings).start().expect_err("a file in the way").to_string();
    assert!(error.contains("/file: the folder can not be made"), "{error}");
    let settings = Settings { path: Template::new("/proc/x/out").expect("good"), ..bench.plain("y").settings };
    let error = FileSink::new(settings).start().expect_err("no folder there").to_string();
    assert!(error.contains("/proc/x: the folder can not be made"), "{error}");
}

#[test]
fn a_request_is_cut_to_the_size_of_small_files() {
    let bench = Bench::new();
    let mut sink = bench.sink("out.ndjson", Rotate { size: Some(2048), every: None, keep: None });
    assert_eq!(sink.limits().bytes, 2048);
    let texts: Vec<String> = (0..200).map(|number| format!("{number:040}")).collect();
    let records: Vec<(&str, &str)> = texts.iter().map(|text| ("t", text.as_str())).collect();
    let mut rest = vec![Part::of(shipment(&bench.budget, &records).0).expect("rows")];
    while !rest.is_empty() {
        let mut request = Request::new(std::mem::take(&mut rest), 1);
        rest = sink.prepare(&mut request, 2048);
        sink.write(&mut request).expect("written");
    }
    let sizes: Vec<usize> = bench.files().iter().map(|name| bench.read(name).len()).collect();
    assert!(sizes.iter().all(|size| *size <= 2048), "{sizes:?}");
    let lines: usize = bench.files().iter().map(|name| bench.read(name).lines().count()).sum();
    assert_eq!(lines, 200);
}

#[test]
fn a_disk_that_is_read_only_at_the_start_is_used_once_it_is_not() {
    let bench = Bench::new();
    let disk = bench.folder.path().join("disk");
    fs::create_dir(&disk).expect("a folder");
    let mount = |options: &str| {
        let mut command = std::process::Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&disk);
        command.output().is_ok_and(|output| output.status.success())
    };
    if !mount("size=64k,ro") {
        return skip("a tmpfs can not be mounted");
    }
    let outcome = std::panic::catch_unwind(|| {
        for template in ["disk/out.ndjson", "disk/a/b/{tag}.ndjson"] {
            let mut sink = bench.plain(template);
            let error = bench.write(&mut sink, &[("t", "1")]).expect_err("read-only");
            assert!(matches!(&error, SendError::Retry { cause, .. } if cause.contains("Read-only")), "{error:?}");
            assert!(mount("remount,rw"));
            bench.write(&mut sink, &[("t", "1")]).expect("written");
            drop(sink);
            assert!(mount("remount,ro"));
        }
    });
    let unmounted = std::process::Command::new("umount").arg(&disk).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    outcome.expect("as it should be");
    assert!(bench.files().is_empty());
}

#[test]
fn settings_are_read_and_mistakes_named() {
    let findings = |text: &str| {
        let table = toml::de::DeTable::parse(text).expect("toml");
        let doc = Doc::new("t.toml", text, |_| None);
        let section = Section::new(&doc, table.get_ref(), "sinks.x", 0..0);
        read(&section, "x");
        section.finish();
        doc.findings().iter().map(|finding| doc.render(finding)).collect::<Vec<_>>()
    };
    assert_eq!(
        findings("path = \"a/{tag}.gz\"\nrotate = { size = \"1MiB\", every = \"1h\", keep = 3 }"),
        Vec::<String>::new()
    );
    for (text, expected) in [
        ("", "`path` is missing"),
        ("path = \"{tga}\"", "did you mean {tag}?"),
        ("path = \"x\"\nrotate = { keep = 3 }", "add `size` or `every`"),
        ("path = \"x\"\nrotate = { size = 3 }", "write \"3MiB\""),
        ("path = \"x\"\nrotat = {}", "did you mean `rotate`?"),
    ] {
        let found = findings(text);
        assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:?}");
    }
}
