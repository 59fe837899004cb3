//! A folder of containers in Docker's own layout: `<id>/<id>-json.log`, its rotated generations, `config.v2.json`.
//!
//! Lines are written as the json-file driver writes them (key order, HTML escapes, one write a record); rotation is
//! done in its order: unlink the oldest, rename upwards, rename the base to `.1`, create the base.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// One container whose log the test writes.
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    /// Its folder.
    pub dir: PathBuf,
    log: File,
    /// Records written, which also makes each `time` different.
    written: u64,
}

impl Container {
    /// Makes the folder, the log and `config.v2.json`. `seed` tells containers apart.
    pub fn create(root: &Path, seed: u8, name: &str, image: &str, labels: &[(&str, &str)]) -> Container {
        let container = Container::create_bare(root, seed);
        container.write_config(name, image, labels);
        container
    }

    /// The same without `config.v2.json`.
    pub fn create_bare(root: &Path, seed: u8) -> Container {
        let id = format!("{seed:02x}").repeat(32);
        let dir = root.join(&id);
        fs::create_dir_all(&dir).expect("a container folder can be made");
        let log = open(&dir.join(format!("{id}-json.log")));
        Container { id, dir, log, written: 0 }
    }

    /// Writes `config.v2.json` as Docker does: a temporary file, then a rename.
    pub fn write_config(&self, name: &str, image: &str, labels: &[(&str, &str)]) {
        let labels: serde_json::Map<String, serde_json::Value> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let config = serde_json::json!({
            "StreamConfig": {}, "State": {"Running": true, "Pid": 1}, "ID": self.id,
            "Created": "2026-11-23T10:00:00.1Z", "Path": "app", "Args": [],
            "Config": {"Hostname": &self.id[..12], "Env": ["PATH=/bin"], "Image": image, "Labels": labels},
            "Image": "sha256:00", "Name": format!("/{name}"), "Driver": "overlay2", "LogPath": "",
        });
        let temporary = self.dir.join(".tmp-config.v2.json1");
        fs::write(&temporary, config.to_string()).expect("config.v2.json can be written");
        fs::rename(temporary, self.dir.join("config.v2.json")).expect("config.v2.json can be renamed");
    }

    /// The path of the log, or of one of its generations (`""`, `".1"`, `".2.gz"`).
    pub fn path(&self, generation: &str) -> PathBuf {
        self.dir.join(format!("{}-json.log{generation}", self.id))
    }

    /// The `time` of the next record, nine digits or fewer, as Docker trims them.
    pub fn time(&self) -> String {
        let (seconds, nanoseconds) = (self.written / 1000, self.written % 1000 * 1_000_000 + 123);
        format!(
            "2026-11-23T{:02}:{:02}:{:02}.{nanoseconds:09}Z",
            10 + seconds / 3600 % 12,
            seconds / 60 % 60,
            seconds % 60
        )
    }

    /// Writes one line of the application (a line feed is added to it).
    pub fn line(&mut self, text: &str, stream: &str) {
        let time = self.time();
        self.record(&format!("{text}\n"), stream, &time);
    }

    /// Writes one record as it stands: `log` may lack its line feed (a piece of a longer line).
    pub fn record(&mut self, log: &str, stream: &str, time: &str) {
        let mut line = String::with_capacity(log.len() + 100);
        line.push_str("{\"log\":\"");
        escape(log, &mut line);
        let _ = writeln!(line, "\",\"stream\":\"{stream}\",\"time\":\"{time}\"}}");
        self.raw(line.as_bytes());
        self.written += 1;
    }

    /// Writes a long line the way Docker does, in pieces of 16,384 bytes that share one time.
    pub fn long_line(&mut self, text: &str, stream: &str) {
        assert!(text.is_ascii(), "pieces are cut between bytes");
        let time = self.time();
        let whole = format!("{text}\n");
        for piece in whole.as_bytes().chunks(16_384) {
            self.record(std::str::from_utf8(piece).expect("ASCII"), stream, &time);
        }
    }

    /// Writes bytes to the log as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.log.write_all(bytes).expect("the log can be written");
    }

    /// Rotates as Docker does with `max-file = keep`.
    pub fn rotate(&mut self, keep: u32) {
        let _ = fs::remove_file(self.path(&format!(".{}", keep - 1)));
        for generation in (1..keep - 1).rev() {
            for end in ["", ".gz"] {
                let _ = fs::rename(
                    self.path(&format!(".{generation}{end}")),
                    self.path(&format!(".{}{end}", generation + 1)),
                );
            }
        }
        fs::rename(self.path(""), self.path(".1")).expect("the log can be renamed");
        self.log = open(&self.path(""));
    }

    /// Packs a rotated generation in place, as `compress=true` does, and removes the plain file.
    pub fn compress(&self, generation: u32) {
        let plain = self.path(&format!(".{generation}"));
        let packed = File::create(self.path(&format!(".{generation}.gz"))).expect("a .gz can be made");
        let extra = br#"{"lastTime":"2026-11-23T10:00:00.000000001Z"}"#;
        let mut encoder: GzEncoder<File> =
            flate2::GzBuilder::new().extra(extra.as_slice()).write(packed, Compression::fast());
        encoder.write_all(&fs::read(&plain).expect("the generation is there")).expect("it can be packed");
        encoder.finish().expect("it can be packed");
        fs::remove_file(plain).expect("the plain file can go");
    }

    /// Removes the container's folder, as `docker rm` does.
    pub fn remove(self) {
        fs::remove_dir_all(&self.dir).expect("the folder can be removed");
    }
}

fn open(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).expect("a log can be made")
}

/// Docker's escapes: HTML-safe, no short form but for `\n`, `\r`, `\"` and `\\`.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}
