//! The load: files as their writers leave them, a writer that appends and rotates, and forward senders.
//!
//! Limits: what is sent to a forward port is made beforehand and held in memory, [`LOAD_MAX`] bytes of it; a sender has
//! [`WINDOW`] chunks of a connection unacknowledged.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::generate::{self, Recipe};
use super::work::{From, Work};
use crate::codec::msgpack;
use crate::workers::Workers;

/// Bytes of a load that are held in memory, at most.
pub const LOAD_MAX: u64 = 2 << 30;
/// Records in one chunk of a forwarder, at most, and their bytes, if it is more than one: receivers take 16 to 64 MiB.
const CHUNK_RECORDS: u64 = 1000;
const CHUNK_BYTES: u64 = 1 << 20;
/// Messages that Docker's driver has written before a receiver that is busy reads them.
const MESSAGES_AT_ONCE: u64 = 64;
const WINDOW: usize = 8;
/// Threads that send; each has its share of the connections.
const SENDERS_MAX: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);

/// Files that writers append to.
#[derive(Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
    files: Vec<File>,
    /// Bytes that were there at first, to go back to.
    lengths: Vec<u64>,
    /// How often one of them was rotated.
    pub rotations: u64,
}

impl Files {
    /// Makes what `work` reads, below `dir`, and writes the records `0..records`, dealt out in turn.
    pub fn make(work: Work, recipe: &Recipe, records: u64, containers: usize, dir: &Path) -> io::Result<Files> {
        let paths: Vec<PathBuf> = match work.from() {
            From::Docker => (0..containers).map(|nth| container(dir, nth)).collect::<io::Result<_>>()?,
            _ => vec![dir.join("input.log")],
        };
        let mut files = Vec::new();
        for path in &paths {
            files.push(OpenOptions::new().read(true).append(true).create(true).open(path)?);
        }
        let mut made = Files { lengths: vec![0; paths.len()], paths, files, rotations: 0 };
        let mut from = 0;
        while from < records {
            // In blocks, so that a thousand containers do not cost a write a record.
            let to = records.min(from + 4096 * made.files.len() as u64);
            made.append(work, recipe, from..to)?;
            from = to;
        }
        for (file, length) in made.files.iter().zip(&mut made.lengths) {
            *length = file.metadata()?.len();
        }
        Ok(made)
    }

    /// Bytes that were written at first.
    pub fn bytes(&self) -> u64 {
        self.lengths.iter().sum()
    }

    /// Reads all that was written at first.
    pub fn read_all(&self) -> io::Result<()> {
        let mut block = vec![0; 1 << 20];
        for (file, &length) in self.files.iter().zip(&self.lengths) {
            let mut at = 0;
            while at < length {
                match file.read_at(&mut block, at)? {
                    0 => break,
                    read => at += read as u64,
                }
            }
        }
        Ok(())
    }

    /// Appends records, one write a file.
    pub fn append(&mut self, work: Work, recipe: &Recipe, records: std::ops::Range<u64>) -> io::Result<()> {
        let count = self.files.len() as u64;
        for (nth, file) in self.files.iter_mut().enumerate() {
            let first = records.start + (nth as u64 + count - records.start % count) % count;
            let mut text = Vec::new();
            for seq in (first..records.end).step_by(count as usize) {
                work.input(recipe, seq, &mut text);
            }
            if !text.is_empty() {
                file.write_all(&text)?;
            }
        }
        Ok(())
    }

    /// Rotates each file of `size` bytes or more as Docker does: the oldest goes, `x.1` becomes `x.2`, `x` becomes
    /// `x.1`, and a new file takes the name.
    pub fn rotate(&mut self, size: u64, keep: usize) -> io::Result<()> {
        for (path, file) in self.paths.iter().zip(&mut self.files) {
            if file.metadata()?.len() < size {
                continue;
            }
            let name = |nth: usize| PathBuf::from(format!("{}.{nth}", path.display()));
            for nth in (1..keep.saturating_sub(1)).rev() {
                match fs::rename(name(nth), name(nth + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => (),
                }
            }
            fs::rename(path, name(1))?;
            *file = OpenOptions::new().append(true).create(true).open(path)?;
            self.rotations += 1;
        }
        Ok(())
    }

    /// Cuts the files back to what was written at first.
    pub fn reset(&mut self) -> io::Result<()> {
        self.files.iter().zip(&self.lengths).try_for_each(|(file, length)| file.set_len(*length))
    }
}

/// The folder of a container and the name of its log.
fn container(dir: &Path, nth: usize) -> io::Result<PathBuf> {
    let id = format!("{:064x}", 0xbe4c_0000_0000_u64 + nth as u64);
    let folder = dir.join(&id);
    fs::create_dir_all(&folder)?;
    let about = serde_json::json!({
        "ID": id,
        "Name": format!("/bench-{nth}"),
        "Config": { "Image": "longshore/bench:1", "Labels": {} },
        "LogPath": folder.join(format!("{id}-json.log")),
    });
    fs::write(folder.join("config.v2.json"), about.to_string())?;
    fs::write(folder.join("hostconfig.json"), r#"{"LogConfig":{"Type":"json-file","Config":{}}}"#)?;
    Ok(folder.join(format!("{id}-json.log")))
}

/// Bytes that are sent at once.
#[derive(Debug)]
pub struct Parcel {
    pub bytes: Vec<u8>,
    wants_ack: bool,
}

/// How many of `records` are in one parcel.
fn parcel_records(work: Work, recipe: &Recipe, records: u64, connections: usize) -> u64 {
    let share = records.div_ceil(connections as u64).max(1);
    if work.from() != From::Packed {
        return share.min(MESSAGES_AT_ONCE);
    }
    // All are about as long as one with many digits.
    let mut one = Vec::new();
    work.input(recipe, records, &mut one);
    share.min(CHUNK_RECORDS).min((CHUNK_BYTES / one.len() as u64).max(1))
}

/// Says over which of `connections` a [`Sender`] sends each record of `0..records`.
pub fn connections_of(work: Work, recipe: &Recipe, records: u64, connections: usize) -> impl Fn(u64) -> u64 + use<> {
    let at_once = parcel_records(work, recipe, records, connections);
    move |seq| seq / at_once % connections as u64
}

/// The records `range` in parcels for `connections`.
pub fn parcels(
    work: Work,
    recipe: &Recipe,
    range: std::ops::Range<u64>,
    connections: usize,
) -> Result<Vec<Parcel>, String> {
    let packed = work.from() == From::Packed;
    let step = parcel_records(work, recipe, range.end - range.start, connections);
    let mut parcels = Vec::new();
    let (mut from, mut held) = (range.start, 0);
    while from < range.end {
        let to = range.end.min(from + step);
        let mut records = Vec::new();
        (from..to).for_each(|seq| work.input(recipe, seq, &mut records));
        let mut bytes = Vec::new();
        if packed {
            generate::packed_frame(&records, (to - from) as usize, &format!("bench-{from:018}"), &mut bytes);
        } else {
            bytes = records;
        }
        held += bytes.len() as u64;
        if held > LOAD_MAX {
            return Err(format!("a load of more than {LOAD_MAX} bytes does not fit in memory; take fewer --records"));
        }
        parcels.push(Parcel { bytes, wants_ack: packed });
        from = to;
    }
    Ok(parcels)
}

/// Connections to a forward port.
#[derive(Debug, Default)]
pub struct Sender {
    lines: Vec<Line>,
}

/// Parcels under way.
#[derive(Debug)]
pub struct Sending {
    ended: mpsc::Receiver<(Vec<Line>, io::Result<()>)>,
}

impl Sending {
    /// Waits until everything is sent and what asks for an ack is acknowledged.
    pub fn finish(self) -> Result<Sender, String> {
        let mut lines = Vec::new();
        for (share, sent) in self.ended {
            sent.map_err(|error| format!("sending: {error}"))?;
            lines.extend(share);
        }
        Ok(Sender { lines })
    }
}

fn send_share(share: &mut [(usize, Line)], parcels: &[Parcel], all: usize) -> io::Result<()> {
    for round in (0..parcels.len()).step_by(all) {
        for (nth, line) in share.iter_mut() {
            if let Some(parcel) = parcels.get(round + *nth) {
                line.send(parcel)?;
            }
        }
    }
    share.iter_mut().try_for_each(|(_, line)| line.wait(0))
}

#[derive(Debug)]
struct Line {
    stream: TcpStream,
    waiting: usize,
    answer: Vec<u8>,
}

impl Sender {
    /// Connects, and tries again until the listener is there.
    pub fn connect(
        port: u16,
        connections: usize,
        mut alive: impl FnMut() -> Result<(), String>,
    ) -> Result<Sender, String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        while lines.len() < connections {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                Ok(stream) => {
                    let set = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
                    set.and_then(|()| stream.set_write_timeout(Some(PATIENCE))).map_err(|error| error.to_string())?;
                    lines.push(Line { stream, waiting: 0, answer: Vec::new() });
                }
                Err(error) if Instant::now() > deadline => return Err(format!("127.0.0.1:{port}: {error}")),
                Err(_) => {
                    alive()?;
                    thread::sleep(Duration::from_millis(5));
                }
            }
        }
        Ok(Sender { lines })
    }

    /// Begins to send all parcels over all connections in turn, from a few threads.
    pub fn start(mut self, parcels: &Arc<Vec<Parcel>>, workers: &Workers) -> Result<Sending, String> {
        let (done, ended) = mpsc::channel();
        let all = self.lines.len();
        let threads = all.min(SENDERS_MAX);
        let mut shares: Vec<Vec<(usize, Line)>> = (0..threads).map(|_| Vec::new()).collect();
        for (nth, line) in self.lines.drain(..).enumerate() {
            shares[nth % threads].push((nth, line));
        }
        for mut share in shares {
            let (parcels, done) = (Arc::clone(parcels), done.clone());
            let body = move || {
                let sent = send_share(&mut share, &parcels, all);
                // Nobody waits any more where the run has failed.
                let _ = done.send((share.into_iter().map(|(_, line)| line).collect(), sent));
            };
            workers.spawn("bench-send", body).map_err(|error| error.to_string())?;
        }
        Ok(Sending { ended })
    }

    /// Sends one parcel over one connection.
    pub fn send(&mut self, nth: usize, parcel: &Parcel) -> Result<(), String> {
        let count = self.lines.len().max(1);
        let line = self.lines.get_mut(nth % count).ok_or("there is no connection")?;
        line.send(parcel).map_err(|error| format!("sending: {error}"))
    }
}

impl Line {
    fn send(&mut self, parcel: &Parcel) -> io::Result<()> {
        self.stream.write_all(&parcel.bytes)?;
        if parcel.wants_ack {
            self.waiting += 1;
            self.wait(WINDOW)?;
        }
        Ok(())
    }

    /// Reads acks until at most `left` are missing.
    fn wait(&mut self, left: usize) -> io::Result<()> {
        let mut buffer = [0; 4096];
        while self.waiting > left {
            let read = self.stream.read(&mut buffer)?;
            if read == 0 {
                return Err(io::Error::other("closed while acks were missing"));
            }
            self.answer.extend_from_slice(&buffer[..read]);
            let mut at = 0;
            while let Ok(end) = msgpack::end_of(&self.answer[at..]) {
                at += end;
                self.waiting = self.waiting.saturating_sub(1);
            }
            self.answer.drain(..at);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::generate::Shape;
    use super::*;

    const RECIPE: Recipe = Recipe { shape: Shape::Small, line_size: None };

    #[test]
    fn records_are_dealt_to_containers_in_turn_and_files_go_back_to_what_they_were() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut files = Files::make(Work::DockerFile, &RECIPE, 10, 3, dir.path()).expect("written");
        let lines = |files: &Files, nth: usize| fs::read_to_string(&files.paths[nth]).expect("there").lines().count();
        assert_eq!([0, 1, 2].map(|nth| lines(&files, nth)), [4, 3, 3]);
        files.append(Work::DockerFile, &RECIPE, 10..15).expect("written");
        assert_eq!([0, 1, 2].map(|nth| lines(&files, nth)), [5, 5, 5]);
        let first = fs::read_to_string(&files.paths[1]).expect("there");
        let seqs: Vec<usize> = [1, 4, 7, 10, 13].into();
        for (line, seq) in first.lines().zip(seqs) {
            assert!(line.contains(&format!("seq\\\":{seq},")), "{line}");
        }
        files.reset().expect("cut");
        assert_eq!([0, 1, 2].map(|nth| lines(&files, nth)), [4, 3, 3]);
    }

    #[test]
    fn rotation_keeps_as_many_files_as_docker_would() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut files = Files::make(Work::Rotate, &RECIPE, 0, 1, dir.path()).expect("written");
        for nth in 0..5 {
            files.append(Work::Rotate, &RECIPE, nth..nth + 1).expect("written");
            files.rotate(1, 3).expect("renamed");
        }
        assert_eq!(files.rotations, 5);
        files.rotate(1, 3).expect("nothing to do");
        assert_eq!(files.rotations, 5, "an empty one is not rotated");
        let path = files.paths[0].display().to_string();
        let text = |name: String| fs::read_to_string(name).unwrap_or_else(|_| "none".into());
        assert_eq!(text(path.clone()), "");
        assert!(text(format!("{path}.1")).contains("seq\\\":4,"));
        assert!(text(format!("{path}.2")).contains("seq\\\":3,"));
        assert_eq!(text(format!("{path}.3")), "none");
    }

    #[test]
    fn every_record_is_in_one_parcel_and_every_connection_has_one() {
        let made = parcels(Work::ForwardFile, &RECIPE, 0..2500, 1).expect("small");
        assert_eq!(made.len(), 3);
        assert_eq!(parcels(Work::ForwardFile, &RECIPE, 0..2500, 100).expect("small").len(), 100);
        let messages = parcels(Work::MessageFile, &RECIPE, 0..130, 1).expect("small");
        assert_eq!((messages.len(), messages[0].wants_ack), (3, false));
        let of = |work| connections_of(work, &RECIPE, 2500, 3);
        assert_eq!([0, 833, 834, 1667, 1668, 2499].map(of(Work::ForwardFile)), [0, 0, 1, 1, 2, 2]);
        assert_eq!([0, 63, 64, 128, 191, 192].map(of(Work::MessageFile)), [0, 0, 1, 2, 2, 0]);
    }

    #[test]
    fn long_records_make_chunks_of_a_megabyte_and_one_is_sent_alone_if_it_is_longer() {
        for (line_size, at_once) in [(128 << 10, 7), (1 << 20, 1)] {
            let recipe = Recipe { shape: Shape::Normal, line_size: Some(line_size) };
            let made = parcels(Work::Durable, &recipe, 0..20, 2).expect("small");
            assert_eq!(made.len(), 20_usize.div_ceil(at_once), "{line_size}");
            let longest = made.iter().map(|parcel| parcel.bytes.len()).max().expect("there are some");
            assert!(longest <= CHUNK_BYTES as usize + 4096, "{line_size}: {longest}");
            let of = connections_of(Work::Durable, &recipe, 20, 2);
            assert_eq!([0, at_once as u64, 2 * at_once as u64].map(of), [0, 1, 0], "{line_size}");
        }
    }
}
